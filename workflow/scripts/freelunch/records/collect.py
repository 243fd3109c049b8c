"""Collect a cell's record from what its steps left on disk.

Nothing comes from the config (`freelunch.records.cell_lineage`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freelunch.core.digest import file_digest, json_digest, sealed
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically, write_json
from freelunch.costs.job_operations import operations
from freelunch.costs.shapes import Shapes
from freelunch.records.cell_lineage import CellLineage
from freelunch.records.read import answers_beside, check_spec, validate
from freelunch.study import steps
from freelunch.study.cell import Cell
from freelunch.study.paths import Paths, read_run
from freelunch.study.patterns import Pattern
from freelunch.study.retraining import read_adaptation
from freelunch.study.windows import adapted_windows, window_order

# What a job wrote in its `run.json` (`freelunch.core.job`).
Run = Mapping[str, Any]


def collect_record(
    paths: Paths, cell: Cell, spec: Mapping[str, Any], adapted: Sequence[Path]
) -> None:
    """Collect the record of a cell from the folders of its steps, and write it.

    Args:
        paths: Paths of the study.
        cell: The cell.
        spec: The cell's spec in the current config.
        adapted: Folders with the cell's adapted blocks; empty if it is not adapted.

    Raises:
        UserError: A step was made from other inputs or with other settings than the current config
            asks for, or a matrix has the wrong number of zeros for its pattern.
    """
    lineage = CellLineage(paths, cell, spec, adapted)
    made_with, runs, place = lineage.spec(), _runs(lineage), paths.record(cell)
    check_spec(made_with, spec, cell, paths.checkpoint(cell))
    record = sealed(
        {
            "cell": str(cell),
            "spec": made_with,
            "fingerprint": json_digest(made_with),
            "metrics": _metrics(lineage),
            "identity": _identity(lineage),
            "pruning": None if lineage.masks is None else {"notes": _of_matrices(lineage, "notes")},
            "adaptation": _adaptation(lineage),
            "cost": {step: _cost(lineage, step, jobs) for step, jobs in runs.items()},
            "provenance": _provenance(lineage, runs),
        }
    )
    validate(record, str(place))
    if steps.TASKS in lineage.measured:
        # The answers go beside the record, so that copied records can be compared answer by answer.
        write_atomically(answers_beside(place), lineage.answers.read_bytes())
    write_json(place, record)


def _metrics(lineage: CellLineage) -> dict[str, Any]:
    """Return the measurements by name; those of the tasks have the digest of the answers."""
    metrics = {name: dict(each) for name, each in lineage.measured.items()}
    del metrics[steps.IDENTITY]
    if steps.TASKS in metrics:
        metrics[steps.TASKS]["answers_sha256"] = file_digest(lineage.answers)
    return metrics


def _identity(lineage: CellLineage) -> dict[str, Any]:
    """Return the sparsity of each matrix and overall, as counted in the checkpoint.

    Raises:
        UserError: A matrix has the wrong number of zeros for its mask or its pattern.
    """
    identity = lineage.measured[steps.IDENTITY]
    matrices = identity["matrices"]
    for name, counts in matrices.items():
        for what, expected in _expected_zeros(lineage, name, counts):
            if counts["zeros"] != expected:
                raise UserError(
                    f"wrong number of zeros in a matrix for its {what}",
                    where=f"{lineage.checkpoint.folder}: {name}",
                    found=f"{counts['zeros']} zeros",
                    expected=f"{expected} zeros among {counts['rows']} x {counts['columns']}",
                    todo="report this: it is a defect of this program",
                )
    zeros = sum(counts["zeros"] for counts in matrices.values())
    weights = sum(counts["rows"] * counts["columns"] for counts in matrices.values())
    return {
        "sparsity": zeros / weights,
        "zeros": zeros,
        "weights": weights,
        "parameters": identity["parameters"],
        "stored_bytes": identity["stored_bytes"],
        "matrices": matrices,
        "checkpoint_sha256": identity["checkpoint_digest"],
    }


def _expected_zeros(
    lineage: CellLineage, name: str, counts: Mapping[str, int]
) -> Iterator[tuple[str, int]]:
    """Yield what decides a matrix's zeros, and their number; a dense matrix may have any."""
    if lineage.masks is None:
        return
    adapted = lineage.windows[0].facts["settings"]["adaptation"] if lineage.windows else None
    if adapted is not None and read_adaptation(adapted).becomes_dense:
        # Merging the adapter fills the zeros; the other methods exist to avoid that.
        return
    yield "mask", _of_matrices(lineage, "pruned")[name]
    pattern = Pattern.parse(lineage.masks.facts["settings"]["pattern"])
    if not pattern.structured:
        scope = lineage.masks.facts["settings"]["criterion"]["scope"]
        yield "pattern", pattern.zeros(counts["rows"], counts["columns"], scope)


def _of_matrices(lineage: CellLineage, what: str) -> dict[str, Any]:
    """Return a fact about each matrix that has it, by the matrix's name in the checkpoint."""
    entries = lineage.masks.files.values() if lineage.masks else []
    return {name: fact for entry in entries for name, fact in entry.get(what, {}).items()}


def _adaptation(lineage: CellLineage) -> dict[str, Any] | None:
    """Return what an adaptation saw, trained and reached; None if there was none."""
    windows = adapted_windows(lineage.windows)
    if not windows:
        return None
    sample, facts = lineage.sample.facts, lineage.windows[0].facts
    return {
        "window": facts["window"],
        "windows": len(windows),
        "windows_kept_pruned": sum(facts["kept_pruned"] for facts in windows.values()),
        "samples": sample["settings"]["samples"],
        "distinct_tokens": sample["distinct_tokens"],
        # Steps for each trained parameter.
        "steps": max(facts["steps"] for facts in windows.values()),
        "trained_parameters": sum(facts["trained_parameters"] for facts in windows.values()),
        "losses": {
            name: {"before": windows[name]["loss_before"], "after": windows[name]["loss_after"]}
            for name in sorted(windows, key=window_order)
        },
        "training_losses": facts.get("losses"),
        "choice": lineage.choice,
    }


def _cost(lineage: CellLineage, step: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the cost of a step: sums over its jobs, and the largest of their peaks.

    Operations are computed from what the jobs counted; they do not depend on the precision of what
    is stored.
    """
    shapes = Shapes.read(lineage.model.folder / "config.json", "float32")
    jobs = []
    for run in runs:
        counts = run["counts"]
        tokens = {"tokens": counts["tokens"]} if "tokens" in counts else {}
        jobs.append({**run["cost"], **tokens, **operations(run["rule"], shapes, counts)})
    total: dict[str, Any] = {"jobs": len(jobs)}
    for key in sorted({key for job in jobs for key in job}):
        # Jobs of one step see the same tokens, each for its own windows; jobs of a search do not.
        is_shared = key == "tokens" and step != steps.SEARCH
        whole = max if key.startswith("peak") or is_shared else sum
        total[key] = whole(job[key] for job in jobs if key in job)
    return total


def _runs(lineage: CellLineage) -> dict[str, list[Run]]:
    """Return the run facts of each step's jobs, including those that a folder carries along."""
    found = {step: [read_run(folder) for folder in each] for step, each in lineage.folders.items()}
    shared = [run["shared"] for runs in found.values() for run in runs]
    return found | {step: runs for carried in shared for step, runs in carried.items()}


def _other_environments(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the environments of a step's jobs that differ from that of the first, each once."""
    found: list[dict[str, Any]] = []
    for run in runs:
        found += [] if run["environment"] in found else [run["environment"]]
    return found[1:]


def _provenance(lineage: CellLineage, runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Return where the numbers come from."""
    others = {step: found for step, jobs in runs.items() if (found := _other_environments(jobs))}
    digests = {
        "model": lineage.model.digest,
        "checkpoint": lineage.checkpoint.digest,
        **{f"{use}_text": text.digest for use, text in lineage.texts.items()},
        "evaluation_token_ids": lineage.measured[steps.PERPLEXITY]["token_ids_sha256"],
        **{f"task_{name}": task.digest for name, task in lineage.tasks.items()},
    }
    if lineage.masks is not None:
        digests["calibration_token_ids"] = lineage.calibration.facts["tokens_sha256"]
        digests["masks"] = lineage.masks.digest
    if lineage.held_out is not None:
        digests["held_out_token_ids"] = lineage.held_out.facts["tokens_sha256"]
    if lineage.windows:
        # The calibration sample's, or an extended sample's.
        digests["adaptation_token_ids"] = lineage.sample.facts["tokens_sha256"]
    return {
        "environments": {step: jobs[0]["environment"] for step, jobs in runs.items()},
        **({"other_environments": others} if others else {}),
        "finished": {step: max(job["finished"] for job in jobs) for step, jobs in runs.items()},
        "digests": digests,
        "model_origin": lineage.model.facts["origin"],
        "text_origins": {use: text.facts["origin"] for use, text in lineage.texts.items()},
        **(
            {"task_origins": {name: task.facts["origin"] for name, task in lineage.tasks.items()}}
            if lineage.tasks
            else {}
        ),
        "seed": lineage.cell.seed,
    }
