"""Gather from the records of a study where its numbers come from, and what they cost."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from freelunch.analysis.pairing import Records
from freelunch.study.cell import Cell
from freelunch.study.steps import (
    CAPTURE_DENSE,
    CAPTURE_REFERENCE,
    EXTEND_CALIBRATION,
    PRUNE_MODEL,
    SAMPLE_CALIBRATION,
    SAMPLE_HELD_OUT,
)
from freelunch.study.study import Study

# Steps that cells share, and the parts of a cell's identity that tell their jobs apart.
SHARED = {
    SAMPLE_CALIBRATION: ("model", "seed"),
    SAMPLE_HELD_OUT: ("model", "seed"),
    CAPTURE_DENSE: ("model", "seed"),
    CAPTURE_REFERENCE: ("model", "seed"),
    PRUNE_MODEL: ("model", "criterion", "pattern", "seed"),
}
_MACHINE = ("python", "platform", "processor", "cores", "device", "device_name")
# An object of JSON, as records hold it.
Facts = dict[str, Any]


@dataclass(frozen=True)
class Provenance:
    """Code, packages, machines, digests and origins, each value once.

    Attributes:
        study, config, config_file: The study, with all defaults, and its file.
        finished: When the first and the last step ended; only some steps record that.
        commits, packages, machines, threads: Those of all steps.
        models, texts, tasks: The origins of each by name; several mean that cells differ in it.
        token_ids, records: Digests of the tokens, and of the record and checkpoint, of each cell.
    """

    study: str
    config: Facts
    config_file: str
    finished: dict[str, str | None]
    commits: list[Facts]
    packages: list[Facts]
    machines: list[Facts]
    threads: list[int]
    models: dict[str, list[Facts]]
    texts: dict[str, list[Facts]]
    tasks: dict[str, list[Facts]]
    token_ids: dict[str, dict[str, str]]
    records: dict[str, dict[str, str]]


@dataclass
class StepCost:
    """The cost of a step, summed over its jobs; memory is that of the largest job."""

    step: str
    jobs: int = 0
    wall_s: float = 0
    cpu_s: float = 0
    flops: float = 0
    tokens: int = 0
    peak_bytes: int = 0

    def add(self, cost: Mapping[str, Any]) -> None:
        """Add the cost of a job, as records have it."""
        for key in ("jobs", "wall_s", "cpu_s", "flops", "tokens"):
            setattr(self, key, getattr(self, key) + cost.get(key, 0))
        self.peak_bytes = max(self.peak_bytes, cost.get("peak_bytes", 0))


def gather_provenance(study: Study, records: Records) -> Provenance:
    """Return where the numbers of a study come from."""
    of_cells = [record["provenance"] for record in records.values()]
    environments = [each for of in of_cells for each in of["environments"].values()]
    for of in of_cells:
        for several in of.get("other_environments", {}).values():
            environments += several
    times = [time for of in of_cells for time in of["finished"].values()]
    origins: dict[str, dict[str, list[Facts]]] = {"models": {}, "texts": {}, "tasks": {}}
    for cell, record in records.items():
        for kind, name, origin in _origins(cell, record):
            of_name = origins[kind].setdefault(name, [])
            of_name += [] if origin in of_name else [origin]
    return Provenance(
        study=study.name,
        config=study.as_json(),
        config_file=study.source,
        finished={"first": min(times, default=None), "last": max(times, default=None)},
        commits=_each_once(_some(each, ("commit", "uncommitted_changes")) for each in environments),
        packages=_each_once(each["packages"] for each in environments),
        machines=_each_once(_some(each, _MACHINE) for each in environments),
        threads=sorted({each["threads"] for each in environments}),
        **origins,
        token_ids={str(cell): _token_ids(record) for cell, record in records.items()},
        records={
            str(cell): {
                "fingerprint": record["fingerprint"],
                "checkpoint_sha256": record["identity"]["checkpoint_sha256"],
            }
            for cell, record in records.items()
        },
    )


def gather_costs(records: Records) -> list[StepCost]:
    """Return the cost of each step; steps that cells share count once."""
    costs: dict[str, StepCost] = {}
    seen: set[tuple[Any, ...]] = set()
    for cell, record in records.items():
        for step, cost in record["cost"].items():
            job = (step, *_job(step, cell, record))
            if job not in seen:
                seen.add(job)
                costs.setdefault(step, StepCost(step)).add(cost)
    return list(costs.values())


def _job(step: str, cell: Cell, record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the key that tells the jobs of a step apart."""
    if step == EXTEND_CALIBRATION:
        return cell.model, cell.seed, record["adaptation"]["samples"]
    if step in SHARED:
        return tuple(getattr(cell, key) for key in SHARED[step])
    return (cell,)


def _origins(cell: Cell, record: Mapping[str, Any]) -> list[tuple[str, str, Facts]]:
    """Return the kind, name and origin of all that a cell was made from.

    An origin that is not recorded is empty.
    """
    spec, provenance = record["spec"], record["provenance"]
    digests = provenance["digests"]

    def origin(known: Facts, name: str) -> Facts:
        return {**known, **({"manifest_sha256": digests[name]} if name in digests else {})}

    found = [("models", cell.model, origin(provenance["model_origin"], "model"))]
    uses = {"evaluation": spec["evaluation"]["perplexity"], "calibration": spec.get("calibration")}
    for use, settings in uses.items():
        if settings:
            known = origin(provenance["text_origins"].get(use, {}), f"{use}_text")
            found.append(("texts", settings["text"]["name"], known))
    origins = provenance.get("task_origins", {})
    for name in spec["evaluation"].get("tasks", {}).get("tasks", {}):
        found.append(("tasks", name, origin(origins.get(name, {}), f"task_{name}")))
    return found


def _token_ids(record: Mapping[str, Any]) -> dict[str, str]:
    digests = record["provenance"]["digests"]
    return {name: digest for name, digest in digests.items() if name.endswith("token_ids")}


def _some(facts: Mapping[str, Any], keys: Iterable[str]) -> Facts:
    return {key: facts[key] for key in keys if key in facts}


def _each_once(values: Iterable[Mapping[str, Any]]) -> list[Facts]:
    found: list[Facts] = []
    for value in values:
        if value not in found:
            found.append(dict(value))
    return found
