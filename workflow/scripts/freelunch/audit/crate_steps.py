"""The steps of a run, as a Provenance Run Crate describes them.

The profile (https://w3id.org/ro/wfrun/provenance/0.5) tells apart a tool (the script of a rule),
the step of the workflow that uses it, the executions of the tool, and what controlled each of them.
Records list executions with their cost and end. What an execution read and made is described as far
as a record identifies it: the study's inputs, what has a digest, and the record itself.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from freelunch.analysis.pairing import Records
from freelunch.audit.crate_facts import known
from freelunch.audit.provenance import jobs_of
from freelunch.study import steps
from freelunch.study.cell import Cell

_ADAPTATION = ("model", "masks", "adaptation_token_ids")
_MEASURED = ("model", "masks", "evaluation_text", "tasks", "held_out_token_ids")
# What each step reads and makes.
_READS: dict[str, tuple[str, ...]] = {
    steps.SAMPLE_CALIBRATION: ("model", "calibration_text"),
    steps.SAMPLE_HELD_OUT: ("model", "calibration_text"),
    steps.EXTEND_CALIBRATION: ("model", "calibration_text"),
    steps.CAPTURE_DENSE: ("model", "calibration_token_ids"),
    steps.CAPTURE_REFERENCE: ("model", "held_out_token_ids"),
    steps.PRUNE_MODEL: ("model", "calibration_token_ids"),
    steps.RECONSTRUCT_WINDOW: _ADAPTATION,
    steps.RETRAIN_MODEL: _ADAPTATION,
    steps.CHOOSE_CANDIDATE: _ADAPTATION,
    steps.SEARCH: _ADAPTATION,
    steps.EVALUATE_CELL: _MEASURED,
}
_MAKES: dict[str, tuple[str, ...]] = {
    steps.SAMPLE_CALIBRATION: ("calibration_token_ids",),
    steps.SAMPLE_HELD_OUT: ("held_out_token_ids",),
    steps.EXTEND_CALIBRATION: ("adaptation_token_ids",),
    steps.PRUNE_MODEL: ("masks",),
    steps.EVALUATE_CELL: ("checkpoint", "record"),
}
# Costs in a record: what each is, and its unit in the vocabulary QUDT.
_COSTS = {
    "wall_s": ("wall-clock time, summed over jobs", "SEC"),
    "cpu_s": ("processor time, summed over jobs", "SEC"),
    "peak_bytes": ("memory of the largest job", "BYTE"),
    "flops": ("floating-point operations", "NUM"),
    "tokens": ("tokens passed", "NUM"),
}


class Steps:
    """The steps of a run, added to a crate that describes the run's inputs and outputs.

    Args:
        crate: The crate.
        workflow: The main workflow, which comes to name its tools and steps.
        records: The record of each cell.

    Attributes:
        actions: The executions.
        controls: What controlled each of them.
    """

    def __init__(self, crate: ROCrate, workflow: Any, records: Records) -> None:
        self._crate = crate
        jobs = list(jobs_of(dict(sorted(records.items()))))
        names = sorted({step for step, *_ in jobs}, key=_place)
        tools = {name: self._tool(name, workflow) for name in names}
        of_workflow = {
            name: self._add(
                f"#step/{name}", "HowToStep", name=name, position=str(at), workExample=tools[name]
            )
            for at, name in enumerate(names, start=1)
        }
        workflow["hasPart"] = list(tools.values())
        workflow["step"] = list(of_workflow.values())
        self.actions, self.controls = [], []
        for step, job, cell, record in jobs:
            name = "/".join(map(str, job))
            action = self._action(step, name, tools[step], cell, record)
            control = self._add(
                f"#control/{step}/{name}",
                "ControlAction",
                name=f"{step} of {name}, as a step of the workflow",
                instrument=of_workflow[step],
                object=action,
            )
            self.actions.append(action)
            self.controls.append(control)

    def _tool(self, step: str, workflow: Any) -> Any:
        """Add the script of a rule; records may also list parts of steps."""
        script = f"workflow/scripts/{step}.py" if step in steps.RULES else "part of a step"
        return self._add(
            f"#tool/{step}",
            "SoftwareSourceCode",
            name=step,
            description=f"{script}, at the commits that are the workflow's version",
            version=workflow.get("version"),
        )

    def _action(
        self, step: str, name: str, tool: Any, cell: Cell, record: Mapping[str, Any]
    ) -> Any:
        """Add an execution with its cost, what it read and what it made."""
        cost = record["cost"][step]
        usage = [
            self._add(
                f"#{step}/{name}/{key}",
                "PropertyValue",
                name=words,
                propertyID=key,
                value=str(cost[key]),
                unitCode=f"http://qudt.org/vocab/unit/{unit}",
            )
            for key, (words, unit) in _COSTS.items()
            if key in cost
        ]
        return self._add(
            f"#{step}/{name}",
            "CreateAction",
            name=f"{step} of {name}",
            description=f"Jobs: {cost['jobs']}. Their environment is in the record of {cell}.",
            endTime=record["provenance"]["finished"].get(step),
            instrument=tool,
            object=list(self._data(_READS, step, cell, record)),
            result=list(self._data(_MAKES, step, cell, record)),
            resourceUsage=usage,
        )

    def _data(
        self,
        names: Mapping[str, tuple[str, ...]],
        step: str,
        cell: Cell,
        record: Mapping[str, Any],
    ) -> Iterator[Any]:
        """Yield what a step read or made, as far as its record identifies it."""
        digests, described = record["provenance"]["digests"], _described(cell, record)
        for name in names.get(step, ()):
            if name in described:
                found = map(self._crate.dereference, described[name])
                yield from (entity for entity in found if entity is not None)
            elif name in digests:
                # Several steps may make equal things.
                what = "token ids" if name.endswith("token_ids") else name
                uri = f"#sha256/{digests[name]}"
                yield self._crate.dereference(uri) or self._add(
                    uri, "CreativeWork", name=what, sha256=digests[name]
                )

    def _add(self, uri: str, kind: str, **properties: Any) -> Any:
        content = {"@type": kind, **known(**properties)}
        return self._crate.add(ContextEntity(self._crate, uri, content))


def _described(cell: Cell, record: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return by which identifiers the crate already describes inputs and outputs of a cell."""
    spec = record["spec"]
    found = {
        "model": [f"#models/{cell.model}"],
        "evaluation_text": [f"#texts/{spec['evaluation']['perplexity']['text']['name']}"],
        "tasks": [
            f"#tasks/{name}" for name in spec["evaluation"].get("tasks", {}).get("tasks", {})
        ],
        "record": [f"records/{cell.record_name}"],
    }
    if "calibration" in spec:
        found["calibration_text"] = [f"#texts/{spec['calibration']['text']['name']}"]
    return found


def _place(step: str) -> tuple[int, str]:
    """Return where a step comes in the order of the data; what is no rule comes last."""
    return (steps.RULES.index(step) if step in steps.RULES else len(steps.RULES)), step
