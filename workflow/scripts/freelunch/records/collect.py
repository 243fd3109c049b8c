"""Collect a cell's record from what its steps left on disk.

Nothing comes from the config (`freelunch.records.made_steps`).
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freelunch.core.digest import file_digest, json_digest, sealed
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically, write_json
from freelunch.costs.counted import operations
from freelunch.costs.shapes import Shapes
from freelunch.records.made_steps import MadeSteps
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
    made = MadeSteps(paths, cell, spec, adapted)
    made_with, runs, place = made.spec(), _runs(made), paths.record(cell)
    check_spec(made_with, spec, cell, paths.checkpoint(cell))
    record = sealed(
        {
            "cell": str(cell),
            "spec": made_with,
            "fingerprint": json_digest(made_with),
            "metrics": _metrics(made),
            "identity": _identity(made),
            "pruning": None if made.masks is None else {"notes": _of_matrices(made, "notes")},
            "adaptation": _adaptation(made),
            "cost": {step: _cost(made, step, jobs) for step, jobs in runs.items()},
            "provenance": _provenance(made, runs),
        }
    )
    validate(record, str(place))
    if steps.TASKS in made.measured:
        # The answers go beside the record, so that copied records can be compared answer by answer.
        write_atomically(answers_beside(place), made.answers.read_bytes())
    write_json(place, record)


def _metrics(made: MadeSteps) -> dict[str, Any]:
    """Return the measurements by name; those of the tasks have the digest of the answers."""
    found = {name: dict(each) for name, each in made.measured.items() if name != steps.IDENTITY}
    if steps.TASKS in found:
        found[steps.TASKS]["answers_sha256"] = file_digest(made.answers)
    return found


def _identity(made: MadeSteps) -> dict[str, Any]:
    """Return the sparsity of each matrix and overall, as counted in the checkpoint.

    Raises:
        UserError: A matrix has the wrong number of zeros for its mask or its pattern.
    """
    found = made.measured[steps.IDENTITY]
    matrices = found["matrices"]
    for name, counts in matrices.items():
        for what, expected in _expected_zeros(made, name, counts):
            if counts["zeros"] != expected:
                raise UserError(
                    f"wrong number of zeros in a matrix for its {what}",
                    where=f"{made.checkpoint.folder}: {name}",
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
        "parameters": found["parameters"],
        "stored_bytes": found["stored_bytes"],
        "matrices": matrices,
        "checkpoint_sha256": found["checkpoint_digest"],
    }


def _expected_zeros(
    made: MadeSteps, name: str, counts: Mapping[str, int]
) -> Iterator[tuple[str, int]]:
    """Yield what decides a matrix's zeros, and their number; a dense matrix may have any."""
    if made.masks is None:
        return
    adapted = made.windows[0].facts["settings"]["adaptation"] if made.windows else None
    if adapted is not None and read_adaptation(adapted).becomes_dense:
        # Merging the adapter fills the zeros; the other methods exist to avoid that.
        return
    yield "mask", _of_matrices(made, "pruned")[name]
    pattern = Pattern.parse(made.masks.facts["settings"]["pattern"])
    if not pattern.structured:
        scope = made.masks.facts["settings"]["criterion"]["scope"]
        yield "pattern", pattern.zeros(counts["rows"], counts["columns"], scope)


def _of_matrices(made: MadeSteps, what: str) -> dict[str, Any]:
    """Return a fact about each matrix that has it, by the matrix's name in the checkpoint."""
    entries = made.masks.files.values() if made.masks else []
    return {name: fact for entry in entries for name, fact in entry.get(what, {}).items()}


def _adaptation(made: MadeSteps) -> dict[str, Any] | None:
    """Return what an adaptation saw, trained and reached; None if there was none."""
    found = adapted_windows(made.windows)
    if not found:
        return None
    sample, facts = made.sample.facts, made.windows[0].facts
    return {
        "window": facts["window"],
        "windows": len(found),
        "windows_kept_pruned": sum(facts["kept_pruned"] for facts in found.values()),
        "samples": sample["settings"]["samples"],
        "distinct_tokens": sample["distinct_tokens"],
        # Steps for each trained parameter.
        "steps": max(facts["steps"] for facts in found.values()),
        "trained_parameters": sum(facts["trained_parameters"] for facts in found.values()),
        "losses": {
            name: {"before": found[name]["loss_before"], "after": found[name]["loss_after"]}
            for name in sorted(found, key=window_order)
        },
        "training_losses": facts.get("losses"),
        "choice": made.choice,
    }


def _cost(made: MadeSteps, step: str, runs: Sequence[Run]) -> dict[str, Any]:
    """Return the cost of a step: sums over its jobs, and the largest of their peaks.

    Operations are computed from what the jobs counted; they do not depend on the precision of what
    is stored.
    """
    shapes = Shapes.read(made.model.folder / "config.json", "float32")
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


def _runs(made: MadeSteps) -> dict[str, list[Run]]:
    """Return the run facts of each step's jobs, including those that a folder carries along."""
    found = {step: [read_run(folder) for folder in each] for step, each in made.folders.items()}
    shared = [run["shared"] for runs in found.values() for run in runs]
    return found | {step: runs for carried in shared for step, runs in carried.items()}


def _other_environments(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the environments of a step's jobs that differ from that of the first, each once."""
    found: list[dict[str, Any]] = []
    for run in runs:
        found += [] if run["environment"] in found else [run["environment"]]
    return found[1:]


def _provenance(made: MadeSteps, runs: Mapping[str, Sequence[Run]]) -> dict[str, Any]:
    """Return where the numbers come from."""
    others = {step: found for step, jobs in runs.items() if (found := _other_environments(jobs))}
    digests = {
        "model": made.model.digest,
        "checkpoint": made.checkpoint.digest,
        **{f"{use}_text": text.digest for use, text in made.texts.items()},
        "evaluation_token_ids": made.measured[steps.PERPLEXITY]["token_ids_sha256"],
        **{f"task_{name}": task.digest for name, task in made.tasks.items()},
    }
    if made.masks is not None:
        digests["calibration_token_ids"] = made.calibration.facts["tokens_sha256"]
        digests["masks"] = made.masks.digest
    if made.held_out is not None:
        digests["held_out_token_ids"] = made.held_out.facts["tokens_sha256"]
    if made.windows:
        # The calibration sample's, or an extended sample's.
        digests["adaptation_token_ids"] = made.sample.facts["tokens_sha256"]
    return {
        "environments": {step: jobs[0]["environment"] for step, jobs in runs.items()},
        **({"other_environments": others} if others else {}),
        "finished": {step: max(job["finished"] for job in jobs) for step, jobs in runs.items()},
        "digests": digests,
        "model_origin": made.model.facts["origin"],
        "text_origins": {use: text.facts["origin"] for use, text in made.texts.items()},
        **(
            {"task_origins": {name: task.facts["origin"] for name, task in made.tasks.items()}}
            if made.tasks
            else {}
        ),
        "seed": made.cell.seed,
    }
