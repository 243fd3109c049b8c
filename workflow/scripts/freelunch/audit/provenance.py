"""Gather from the records of a study where its numbers come from, and what they cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from freelunch.analysis.pairing import Records
from freelunch.records.record import Record, adaptation_facts
from freelunch.study import steps
from freelunch.study.cell import Cell
from freelunch.study.study import Study

# Steps that all cells of a model and seed share; the last is in earlier records only.
_OF_A_SAMPLE = (
    steps.SAMPLE_CALIBRATION,
    steps.SAMPLE_HELD_OUT,
    steps.CAPTURE_DENSE,
    "capture_reference",
)
_MACHINE = ("python", "platform", "processor", "cores", "device", "device_name")
_SUMMED = ("jobs", "wall_s", "cpu_s", "flops", "tokens")
Value = TypeVar("Value")
# An object of JSON, as records hold it.
Facts = dict[str, Any]


@dataclass(frozen=True)
class Provenance:
    """Code, packages, machines, digests and origins, each value once.

    Attributes:
        study, config, config_file: The study, with all defaults, and its file.
        finished: When the first and the last step ended.
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


@dataclass(frozen=True)
class StepCost:
    """The cost of a step, summed over its jobs; memory is that of the largest job."""

    step: str
    jobs: int
    wall_s: float
    cpu_s: float
    flops: float
    tokens: int
    peak_bytes: int


def gather_provenance(study: Study, records: Records) -> Provenance:
    """Return where the numbers of a study come from."""
    of_cells = [record["provenance"] for record in records.values()]
    environments = [each for of in of_cells for each in of["environments"].values()]
    for of in of_cells:
        for several in of.get("other_environments", {}).values():
            environments += several
    times = [time for of in of_cells for time in of["finished"].values()]
    used = [each for cell, record in records.items() for each in _origins(cell, record)]
    origins: dict[str, dict[str, list[Facts]]] = {"models": {}, "texts": {}, "tasks": {}}
    for kind, name, origin in _each_once(used):
        origins[kind].setdefault(name, []).append(origin)
    return Provenance(
        study=study.name,
        config=study.as_json(),
        config_file=study.source,
        finished={"first": min(times, default=None), "last": max(times, default=None)},
        commits=_each_once([_some(each, "commit", "uncommitted_changes") for each in environments]),
        packages=_each_once([each["packages"] for each in environments]),
        machines=_each_once([_some(each, *_MACHINE) for each in environments]),
        threads=sorted({each["threads"] for each in environments}),
        **origins,
        token_ids={
            str(cell): _some(digests, *(name for name in digests if name.endswith("token_ids")))
            for cell, digests in zip(records, (of["digests"] for of in of_cells), strict=True)
        },
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
    jobs: dict[str, dict[tuple[Any, ...], Any]] = {}
    for cell, record in records.items():
        for step, cost in record["cost"].items():
            jobs.setdefault(step, {}).setdefault(_job(step, cell, record), cost)
    return [
        StepCost(
            step,
            **{key: sum(cost.get(key, 0) for cost in costs.values()) for key in _SUMMED},
            peak_bytes=max(cost["peak_bytes"] for cost in costs.values()),
        )
        for step, costs in jobs.items()
    ]


def _job(step: str, cell: Cell, record: Record) -> tuple[Any, ...]:
    """Return the key that tells the jobs of a step apart."""
    if step == steps.EXTEND_CALIBRATION:
        return cell.model, cell.seed, adaptation_facts(record)["samples"]
    if step == steps.PRUNE_MODEL:
        return cell.model, cell.pruning, cell.seed
    if step == steps.DECIDE_BOS:
        return (cell.model,)
    return (cell.model, cell.seed) if step in _OF_A_SAMPLE else (cell,)


def _origins(cell: Cell, record: Record) -> Iterator[tuple[str, str, Facts]]:
    """Yield the kind, name and origin of all that a cell was made from.

    An origin that is not recorded is empty.
    """
    spec, provenance = record["spec"], record["provenance"]
    digests = provenance["digests"]

    def origin(known: Facts, name: str) -> Facts:
        return {**known, **({"manifest_sha256": digests[name]} if name in digests else {})}

    yield "models", cell.model, origin(provenance["model_origin"], "model")
    uses = {"evaluation": spec["evaluation"]["perplexity"], "calibration": spec.get("calibration")}
    for use, settings in uses.items():
        if settings:
            known = provenance["text_origins"].get(use, {})
            yield "texts", settings["text"]["name"], origin(known, f"{use}_text")
    for name in spec["evaluation"].get("tasks", {}).get("tasks", {}):
        known = provenance.get("task_origins", {}).get(name, {})
        yield "tasks", name, origin(known, f"task_{name}")


def _some(facts: Mapping[str, Any], *keys: str) -> Facts:
    return {key: facts[key] for key in keys if key in facts}


def _each_once(values: Sequence[Value]) -> list[Value]:
    return [value for at, value in enumerate(values) if value not in values[:at]]
