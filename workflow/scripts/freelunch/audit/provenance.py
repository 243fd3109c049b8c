"""Gather from the records of a study where its numbers come from, and what they cost."""

from collections.abc import Iterable, Iterator, Mapping
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
COSTS = ("jobs", "wall_s", "cpu_s", "flops", "tokens")


def gather_provenance(study: Study, records: Records) -> dict[str, Any]:
    """Return code, packages, machines, digests and origins, each value once."""
    of_cells = [record["provenance"] for record in records.values()]
    environments = [each for of in of_cells for each in of["environments"].values()]
    others = [of.get("other_environments", {}) for of in of_cells]
    environments += [each for of in others for several in of.values() for each in several]
    times = [time for of in of_cells for time in of["finished"].values()]
    keys = ("python", "platform", "processor", "cores", "device", "device_name")
    return {
        "study": study.name,
        "config": study.as_json(),
        "config_file": study.source,
        # Only some steps record when they ended.
        "finished": {"first": min(times, default=None), "last": max(times, default=None)},
        "commits": _each_once(
            {"commit": each["commit"], "uncommitted_changes": each["uncommitted_changes"]}
            for each in environments
        ),
        "packages": _each_once(each["packages"] for each in environments),
        "machines": _each_once(
            {key: each[key] for key in keys if key in each} for each in environments
        ),
        "threads": sorted({each["threads"] for each in environments}),
        "models": _by_name(
            (cell.model, {**record["provenance"]["model_origin"], **_digest(record, "model")})
            for cell, record in records.items()
        ),
        "texts": _by_name(text for record in records.values() for text in _texts(record)),
        "tasks": _by_name(task for record in records.values() for task in _tasks(record)),
        "token_ids": {
            str(cell): {
                name: digest
                for name, digest in record["provenance"]["digests"].items()
                if name.endswith("token_ids")
            }
            for cell, record in records.items()
        },
        "records": {
            str(cell): {
                "fingerprint": record["fingerprint"],
                "checkpoint_sha256": record["identity"]["checkpoint_sha256"],
            }
            for cell, record in records.items()
        },
    }


def gather_costs(records: Records) -> list[dict[str, Any]]:
    """Return the cost of each step, summed over its jobs; memory is that of the largest job."""
    rows: dict[str, dict[str, Any]] = {}
    for step, _, _, record in jobs_of(records):
        cost = record["cost"][step]
        row = rows.setdefault(step, {"step": step, **dict.fromkeys(COSTS, 0), "peak_bytes": 0})
        for key in COSTS:
            row[key] += cost.get(key, 0)
        row["peak_bytes"] = max(row["peak_bytes"], cost.get("peak_bytes", 0))
    return list(rows.values())


def jobs_of(
    records: Records,
) -> Iterator[tuple[str, tuple[Any, ...], Cell, Mapping[str, Any]]]:
    """Yield each step once for all cells that share it: the step, what tells it from the others of
    its name, and the first of these cells with its record.
    """
    seen: set[tuple[Any, ...]] = set()
    for cell, record in records.items():
        for step in record["cost"]:
            job = _job(step, cell, record)
            if (step, *job) not in seen:
                seen.add((step, *job))
                yield step, job, cell, record


def _job(step: str, cell: Cell, record: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the key that tells the jobs of a step apart."""
    if step == EXTEND_CALIBRATION:
        return cell.model, cell.seed, record["adaptation"]["samples"]
    if step in SHARED:
        return tuple(getattr(cell, key) for key in SHARED[step])
    return (cell,)


def _texts(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and origin of each text of a cell; an origin that is not recorded is empty."""
    spec, origins = record["spec"], record["provenance"]["text_origins"]
    uses = {"evaluation": spec["evaluation"]["perplexity"], "calibration": spec.get("calibration")}
    for use, settings in uses.items():
        if settings:
            origin = {**origins.get(use, {}), **_digest(record, f"{use}_text")}
            yield settings["text"]["name"], origin


def _tasks(record: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the name and origin of each task of a cell, as for its texts."""
    origins = record["provenance"].get("task_origins", {})
    for name in record["spec"]["evaluation"].get("tasks", {}).get("tasks", {}):
        yield name, {**origins.get(name, {}), **_digest(record, f"task_{name}")}


def _digest(record: Mapping[str, Any], name: str) -> dict[str, str]:
    digests = record["provenance"]["digests"]
    return {"manifest_sha256": digests[name]} if name in digests else {}


def _each_once(values: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for value in values:
        if value not in found:
            found.append(dict(value))
    return found


def _by_name(pairs: Iterable[tuple[str, dict[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Return the distinct values of each name; several values mean that cells differ in it."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, value in pairs:
        of_name = found.setdefault(name, [])
        if value not in of_name:
            of_name.append(value)
    return found
