"""Collect a cell's record from what its steps left on disk.

Nothing comes from the config. Each step's manifest says with which settings and from which inputs
the step was made; these links are followed and checked.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.digest import file_digest, json_digest, sealed
from freelunch.core.errors import UserError, first_of, run_again
from freelunch.core.files import write_atomically, write_json
from freelunch.costs.job_operations import operations
from freelunch.costs.shapes import Shapes
from freelunch.records.read import answers_beside, check_spec, read_record, validate
from freelunch.study import steps
from freelunch.study.cell import Cell
from freelunch.study.paths import Paths, read_run
from freelunch.study.patterns import Pattern
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import chosen_of, finds_rate, is_searched
from freelunch.study.windows import adapted_windows, window_order

# What manifests and measurements hold, and what a job wrote in its `run.json`
# (`freelunch.core.job`).
Facts = dict[str, Any]


def collect_record(
    paths: Paths, cell: Cell, spec: Facts, adapted: Sequence[Path], start: Path | None = None
) -> None:
    """Collect the record of a cell from the folders of its steps, and write it. The spec is that of
    the cell in the current config; `adapted` are the folders with its adapted blocks, if any, and
    `start` is the record of the cell that they started from, if not from the pruned weights.

    UserError: a step was made from other inputs or with other settings than the current config asks
    for, or a matrix has the wrong number of zeros for its pattern.
    """
    lineage = CellLineage(paths, cell, spec, adapted)
    made_with, place, costs_before = lineage.spec(), paths.record(cell), {}
    if start is not None:
        before: Mapping[str, Any] = read_record(start)
        made_with["start"] = [*before["spec"].get("start", []), before["spec"]["adaptation"]]
        of = f" of {Cell.parse(before['cell']).adaptation}"
        for step, cost in before["cost"].items():
            if step.partition(" of ")[0] in (steps.RECONSTRUCT_WINDOW, steps.SEARCH):
                costs_before[step if " of " in step else step + of] = cost
    runs = {step: [*map(read_run, folders)] for step, folders in lineage.folders.items()}
    for run in [run for jobs in runs.values() for run in jobs]:
        # Run facts of other steps' jobs, which a folder carries along.
        runs |= run["shared"]
    check_spec(made_with, spec, cell, paths.checkpoint(cell))
    metrics = {name: dict(each) for name, each in lineage.measured.items()}
    del metrics[steps.IDENTITY]
    if steps.TASKS in metrics:
        metrics[steps.TASKS]["answers_sha256"] = file_digest(lineage.answers)
    record = sealed(
        {
            "cell": str(cell),
            "spec": made_with,
            "fingerprint": json_digest(made_with),
            "metrics": metrics,
            "identity": _identity(lineage),
            "pruning": None if lineage.masks is None else {"notes": _of_matrices(lineage, "notes")},
            "adaptation": _adaptation(lineage),
            "cost": {step: _cost(lineage, step, jobs) for step, jobs in runs.items()}
            | costs_before,
            "provenance": _provenance(lineage, runs),
        }
    )
    validate(record, str(place))
    if steps.TASKS in metrics:
        # The answers go beside the record, so that copied records can be compared answer by answer.
        write_atomically(answers_beside(place), lineage.answers.read_bytes())
    write_json(place, record)


class CellLineage:
    """The folders of a cell's steps; UserError if one was not made from the one before.

    Args are those of `collect_record`. `folders` has the folders with the run facts of each step.
    """

    def __init__(self, paths: Paths, cell: Cell, spec: Facts, adapted: Sequence[Path]) -> None:
        self.cell, self._paths = cell, paths
        self.model = Artifact(paths.model(cell.model), steps.CHECKPOINT)
        self.checkpoint = Artifact(paths.checkpoint(cell), steps.CHECKPOINT)
        self.bos = Artifact(paths.bos(cell.model), steps.BOS)
        check_belongs(self.bos, "model", self.model)
        self.text_names = {"evaluation": spec["evaluation"]["perplexity"]["text"]["name"]}
        text = Artifact(paths.text(self.text_names["evaluation"]), steps.TEXT)
        self.texts = {"evaluation": text}
        self.folders: dict[str, list[Path]] = {steps.DECIDE_BOS: [self.bos.folder]}
        self.masks: Artifact | None = None
        self.windows: list[Artifact] = []
        self.choice: Facts | None = None
        self.held_out: Artifact | None = None
        if not cell.is_dense:
            self._open_calibration(spec["calibration"]["text"])
        if "selection" in spec:
            self.held_out = self._open_sample(
                steps.SAMPLE_HELD_OUT, paths.held_out(cell.model, cell.seed)
            )
            check_belongs(self.held_out, "calibration", self.calibration)
        if adapted:
            self._open_adaptation(spec["adaptation"], adapted)
        check_belongs(self.checkpoint, "model", self.model)
        check_belongs(self.checkpoint, "masks", self.masks)
        self._open_evaluation(spec["evaluation"])

    def _open_sample(self, step: str, folder: Path) -> Artifact:
        self.folders[step] = [folder]
        return Artifact(folder, steps.CALIBRATION)

    def _open_calibration(self, text: Facts) -> None:
        cell, name = self.cell, text["name"]
        kind = steps.READY_TOKENS if text["source"] == "tokens" else steps.TEXT
        self.text_names["calibration"] = name
        self.texts["calibration"] = Artifact(self._paths.text(name), kind)
        folder = self._paths.calibration(cell.model, cell.seed)
        self.sample = self.calibration = self._open_sample(steps.SAMPLE_CALIBRATION, folder)
        check_belongs(self.calibration, "text", self.texts["calibration"])
        check_belongs(self.calibration, "model", self.model)
        if cell.is_pruned:
            pruned = self._paths.pruned(cell.model, cell.pruning, cell.seed)
            self.masks = Artifact(pruned, steps.MASKS)
            check_belongs(self.masks, "calibration", self.calibration)
            self.folders[steps.PRUNE_MODEL] = [self.masks.folder]

    def _open_adaptation(self, settings: Facts, folders: Sequence[Path]) -> None:
        self.windows = [Artifact(folder, steps.ADAPTED_BLOCKS) for folder in folders]
        facts = self.windows[0].facts
        self.choice = facts.get("choice")
        adaptation = read_adaptation(settings)
        step = adaptation.rule
        if is_searched(adaptation):
            step = steps.CHOOSE_CANDIDATE
        elif finds_rate(adaptation):
            self.folders[steps.SEARCH] = [self._paths.rate(self.cell)]
        self.folders[step] = list(folders)
        if facts["sample"] != self.calibration.digest:
            # So many sequences the cell, or the candidate chosen for it, was trained on.
            asked, calibration = facts["settings"]["adaptation"], self.calibration.facts["settings"]
            samples = chosen_of(self.choice, asked).get("samples", calibration["samples"])
            size = samples + asked.get("skip", 0)
            folder = self._paths.extended(self.cell.model, self.cell.seed, size)
            self.sample = self._open_sample(steps.EXTEND_CALIBRATION, folder)
            check_belongs(self.sample, "calibration", self.calibration)
        for part in self.windows:
            check_belongs(part, "masks", self.masks)
            check_belongs(part, "sample", self.sample)
            if adaptation.after is not None:
                start = replace(self.cell, adaptation=adaptation.after)
                folder = self._paths.checkpoint(start)
                check_belongs(part, "start", Artifact(folder, steps.CHECKPOINT))

    def _open_evaluation(self, asked: Facts) -> None:
        artifact = Artifact(self._paths.metrics(self.cell), steps.METRICS)
        self.folders[steps.EVALUATE_CELL] = [artifact.folder]
        self.answers = artifact.folder / steps.ANSWERS
        names = asked.get("tasks", {}).get("tasks", {})
        self.tasks = {name: Artifact(self._paths.task(name), steps.TASK) for name in names}
        inputs = {
            "checkpoint": self.checkpoint,
            "model": self.model,
            "text": self.texts["evaluation"],
            "held_out": self.held_out,
        }
        self.measured: dict[str, Facts] = {}
        for name in (steps.IDENTITY, *asked):
            path = artifact.path(steps.metrics_file(name))
            found = self.measured[name] = json.loads(path.read_text())
            for what in (what for what in inputs if what in found):
                _check_measured(path, what, found[what], inputs[what])
            for task in self.tasks if name == steps.TASKS else ():
                digest = found["tasks"].get(task, {}).get("task")
                _check_measured(path, f"task ({task})", digest, self.tasks[task])

    def spec(self) -> Facts:
        """Return the settings with which the steps were made, as their manifests say."""
        evaluation = {
            name: dict(self.measured[name]["settings"])
            for name in (steps.PERPLEXITY, steps.DRIFT, steps.TASKS)
            if name in self.measured
        }
        evaluation[steps.PERPLEXITY] |= {"text": self._text("evaluation")}
        if steps.TASKS in evaluation:
            entries = {name: task.facts["settings"] for name, task in self.tasks.items()}
            evaluation[steps.TASKS] |= {"tasks": entries}
        spec: Facts = {
            "cell": str(self.cell),
            "model": {**self.model.facts["settings"], **self.bos.facts["settings"]},
            "evaluation": evaluation,
        }
        if not self.cell.is_dense:
            sample = dict(self.calibration.facts["settings"])
            spec["seed"] = sample.pop("seed")
            spec["calibration"] = {**sample, "text": self._text("calibration")}
            spec |= self.masks.facts["settings"] if self.masks else {}
            spec["adaptation"] = None
            for part in self.windows:
                spec["adaptation"] = part.facts["settings"]["adaptation"]
            if self.held_out is not None:
                spec["selection"] = {"samples": self.held_out.facts["settings"]["samples"]}
        return spec

    def _text(self, use: str) -> Facts:
        return {"name": self.text_names[use], **self.texts[use].facts["settings"]}


def _check_measured(where: Path, what: str, digest: str | None, artifact: Artifact | None) -> None:
    """Refuse a measurement that was made with (`what`) another artifact than the one on disk."""
    if artifact is None or digest != artifact.digest:
        raise UserError(
            f"this was measured on a different {what}",
            where=where,
            found=digest,
            expected=f"{artifact.digest}, which is {artifact.folder}" if artifact else "none",
            todo=run_again(steps.EVALUATE_CELL),
        )


def _identity(lineage: CellLineage) -> Facts:
    """Return the sparsity as counted in the checkpoint; refuse what its masks do not ask for."""
    identity = lineage.measured[steps.IDENTITY]
    matrices = identity["matrices"]
    for what, names, expected in _expected_zeros(lineage, matrices):
        found = sum(matrices[name]["zeros"] for name in names)
        if found != expected:
            raise UserError(
                f"wrong number of zeros in a matrix for its {what}",
                where=f"{lineage.checkpoint.folder}: {', '.join(first_of(names, 3))}",
                found=f"{found} zeros",
                expected=f"{expected} zeros",
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


def _expected_zeros(lineage: CellLineage, matrices: Facts) -> Iterator[tuple[str, list[str], int]]:
    """Yield what decides the zeros of some matrices, the names of these, and the number of zeros;
    dense matrices may have any.
    """
    if lineage.masks is None:
        return
    adapted = lineage.windows[0].facts["settings"]["adaptation"] if lineage.windows else None
    if adapted is not None and read_adaptation(adapted).becomes_dense:
        # Merging the adapter fills the zeros; the other methods exist to avoid that.
        return
    pruned = _of_matrices(lineage, "pruned")
    yield from (("mask", [name], pruned[name]) for name in matrices)
    settings = lineage.masks.facts["settings"]
    pattern, criterion = Pattern.parse(settings["pattern"]), settings["criterion"]
    if pattern.structured:
        return
    zeros = {
        name: pattern.zeros(counts["rows"], counts["columns"], criterion["scope"])
        for name, counts in matrices.items()
    }
    if "allocation" in criterion:
        # Blocks differ, and their matrices of one name together have the pattern's zeros.
        alike: dict[str, list[str]] = {}
        for name in zeros:
            alike.setdefault(re.sub(r"\d+", "", name, count=1), []).append(name)
        yield from (
            ("pattern", names, sum(zeros[name] for name in names)) for names in alike.values()
        )
    else:
        yield from (("pattern", [name], zeros[name]) for name in zeros)


def _of_matrices(lineage: CellLineage, what: str) -> Facts:
    entries = lineage.masks.files.values() if lineage.masks else []
    return {name: fact for entry in entries for name, fact in entry.get(what, {}).items()}


def _adaptation(lineage: CellLineage) -> Facts | None:
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
        **({"precision": facts["precision"]} if "precision" in facts else {}),
    }


def _cost(lineage: CellLineage, step: str, runs: Sequence[Facts]) -> Facts:
    """Return the cost of a step: sums over its jobs, and the largest of their peaks."""
    # Operations do not depend on the precision of what is stored.
    shapes = Shapes.read(lineage.model.path("config.json"), "float32")
    jobs = []
    for run in runs:
        counts = run["counts"]
        tokens = {"tokens": counts["tokens"]} if "tokens" in counts else {}
        jobs.append({**run["cost"], **tokens, **operations(run["rule"], shapes, counts)})
    total: Facts = {"jobs": len(jobs)}
    for key in sorted({key for job in jobs for key in job}):
        # Jobs of one step see the same tokens, each for its own windows; jobs of a search do not.
        is_shared = key == "tokens" and step != steps.SEARCH
        whole = max if key.startswith("peak") or is_shared else sum
        total[key] = whole(job[key] for job in jobs if key in job)
    return total


def _provenance(lineage: CellLineage, runs: Mapping[str, Sequence[Facts]]) -> Facts:
    digests = {
        "model": lineage.model.digest,
        "checkpoint": lineage.checkpoint.digest,
        **{f"{use}_text": text.digest for use, text in lineage.texts.items()},
        "evaluation_token_ids": lineage.measured[steps.PERPLEXITY]["token_ids_sha256"],
        **{f"task_{name}": task.digest for name, task in lineage.tasks.items()},
    }
    if not lineage.cell.is_dense:
        digests["calibration_token_ids"] = lineage.calibration.facts["tokens_sha256"]
    if lineage.masks is not None:
        digests["masks"] = lineage.masks.digest
    if lineage.held_out is not None:
        digests["held_out_token_ids"] = lineage.held_out.facts["tokens_sha256"]
    if lineage.windows:
        # The calibration sample's, or an extended sample's.
        digests["adaptation_token_ids"] = lineage.sample.facts["tokens_sha256"]
    # The environments of each step's jobs, each once.
    environments: dict[str, list[Facts]] = {step: [] for step in runs}
    for step, found in environments.items():
        for run in runs[step]:
            found += [] if run["environment"] in found else [run["environment"]]
    others = {step: found[1:] for step, found in environments.items() if found[1:]}
    task_origins = {name: task.facts["origin"] for name, task in lineage.tasks.items()}
    return {
        "environments": {step: found[0] for step, found in environments.items()},
        **({"other_environments": others} if others else {}),
        "finished": {step: max(job["finished"] for job in jobs) for step, jobs in runs.items()},
        "digests": digests,
        "model_origin": lineage.model.facts["origin"],
        "text_origins": {use: text.facts["origin"] for use, text in lineage.texts.items()},
        **({"task_origins": task_origins} if task_origins else {}),
        "bos": lineage.bos.facts["bos"],
        "seed": lineage.cell.seed,
    }
