"""Collect a cell's record from what its steps left on disk.

Nothing comes from the config. Each step's manifest says with which settings and from which inputs
the step was made, and the collector follows these links.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact, check_belongs, write_atomically, write_json
from freelunch.core.digest import file_digest, json_digest
from freelunch.core.errors import UserError, run_again
from freelunch.costs.counted import operations
from freelunch.costs.shapes import Shapes
from freelunch.records.read import answers_beside, check_spec, content_digest, validate
from freelunch.study import steps
from freelunch.study.adaptation_entries import read_adaptation
from freelunch.study.cell import Cell
from freelunch.study.paths import Paths, read_run
from freelunch.study.patterns import Pattern
from freelunch.study.search import chosen_of
from freelunch.study.windows import adapted_windows, window_order


def collect_record(
    paths: Paths, cell: Cell, spec: Mapping[str, Any], adapted: Sequence[Path]
) -> dict[str, Any]:
    """Collect the record of a cell from the folders of its steps, write it, and return it.

    Args:
        paths: Paths of the study.
        cell: The cell.
        spec: The cell's spec in the current config.
        adapted: Folders with the cell's adapted blocks; empty if it is not adapted.

    Raises:
        UserError: A step was made from other inputs or with other settings than the current config
            asks for, or a matrix has the wrong number of zeros for its pattern.
    """
    found = _Steps(paths, cell, spec, adapted)
    made_with = found.spec()
    check_spec(made_with, spec, cell, paths.checkpoint(cell))
    record = {
        "cell": str(cell),
        "spec": made_with,
        "fingerprint": json_digest(made_with),
        "metrics": found.metrics(),
        "identity": found.identity(),
        "pruning": found.pruning(),
        "adaptation": found.adaptation(),
        "cost": found.cost(),
        "provenance": found.provenance(),
    }
    record["sha256"] = content_digest(record)
    validate(record, str(paths.record(cell)))
    if steps.TASKS in found.measured:
        # The answers go beside the record, so that copied records can be compared answer by answer.
        write_atomically(answers_beside(paths.record(cell)), found.answers.read_bytes())
    write_json(paths.record(cell), record)
    return record


class _Steps:
    """The folders of a cell's steps, each checked to be made from the one before."""

    def __init__(
        self, paths: Paths, cell: Cell, spec: Mapping[str, Any], adapted: Sequence[Path]
    ) -> None:
        self.cell = cell
        self.model = Artifact(paths.model(cell.model), steps.CHECKPOINT)
        self.checkpoint = Artifact(paths.checkpoint(cell), steps.CHECKPOINT)
        self.text_names = {"evaluation": spec["evaluation"]["perplexity"]["text"]["name"]}
        text = Artifact(paths.text(self.text_names["evaluation"]), steps.TEXT)
        self.texts = {"evaluation": text}
        self.folders: dict[str, list[Path]] = {}
        self.masks: Artifact | None = None
        self.windows: list[Artifact] = []
        self.choice: dict[str, Any] | None = None
        self.held_out: Artifact | None = None
        if not cell.is_dense:
            self._open_pruning(paths, spec["calibration"]["text"])
        if "selection" in spec:
            folder = paths.held_out(cell.model, cell.seed)
            self.held_out = Artifact(folder, steps.CALIBRATION)
            check_belongs(self.held_out, "calibration", self.calibration)
            self.folders[steps.SAMPLE_HELD_OUT] = [folder]
        if adapted:
            self._open_adaptation(paths, spec, adapted)
        check_belongs(self.checkpoint, "model", self.model)
        check_belongs(self.checkpoint, "masks", self.masks)
        self._open_evaluation(paths, spec["evaluation"])

    def _open_evaluation(self, paths: Paths, asked: Mapping[str, Any]) -> None:
        """Read the measurements, and check which checkpoint, text and tasks they are of."""
        artifact = Artifact(paths.metrics(self.cell), steps.METRICS)
        self.folders[steps.EVALUATE_CELL] = [artifact.folder]
        if steps.DRIFT in asked:
            self.folders[steps.CAPTURE_REFERENCE] = [
                paths.reference(self.cell.model, self.cell.seed)
            ]
        self.answers = artifact.folder / steps.ANSWERS
        self.tasks = {
            name: Artifact(paths.task(name), steps.TASK)
            for name in asked.get("tasks", {}).get("tasks", {})
        }
        self.measured: dict[str, dict[str, Any]] = {}
        for name in (steps.IDENTITY, *asked):
            path = artifact.path(steps.metrics_file(name))
            found = json.loads(path.read_text())
            self._check_measured(path, found, self._measured_with(name, found))
            self.measured[name] = found

    def _measured_with(
        self, name: str, found: Mapping[str, Any]
    ) -> dict[str, tuple[str | None, Artifact]]:
        """Return, by name, the digest of each input of a measurement, and that input on disk."""
        if name == steps.PERPLEXITY:
            return {"text": (found["text"], self.texts["evaluation"])}
        if name == steps.DRIFT:
            assert self.held_out is not None  # Every cell whose drift is measured has it.
            return {
                "model": (found["model"], self.model),
                "held-out text": (found["held_out"], self.held_out),
            }
        if name == steps.TASKS:
            return {
                f"task ({task})": (found["tasks"].get(task, {}).get("task"), artifact)
                for task, artifact in self.tasks.items()
            }
        return {}

    def _open_pruning(self, paths: Paths, text: Mapping[str, Any]) -> None:
        cell, name = self.cell, text["name"]
        kind = steps.READY_TOKENS if text["source"] == "tokens" else steps.TEXT
        self.text_names["calibration"] = name
        self.texts["calibration"] = Artifact(paths.text(name), kind)
        self.calibration = Artifact(paths.calibration(cell.model, cell.seed), steps.CALIBRATION)
        self.masks = Artifact(paths.pruned(cell.model, cell.pruning, cell.seed), steps.MASKS)
        check_belongs(self.calibration, "text", self.texts["calibration"])
        check_belongs(self.calibration, "model", self.model)
        check_belongs(self.masks, "calibration", self.calibration)
        self.folders[steps.SAMPLE_CALIBRATION] = [self.calibration.folder]
        self.folders[steps.PRUNE_MODEL] = [self.masks.folder]

    def _open_adaptation(
        self, paths: Paths, spec: Mapping[str, Any], folders: Sequence[Path]
    ) -> None:
        cell, settings = self.cell, spec["adaptation"]
        self.windows = [Artifact(folder, steps.ADAPTED_BLOCKS) for folder in folders]
        for part in self.windows:
            check_belongs(part, "masks", self.masks)
        self.choice = self.windows[0].facts.get("choice")
        step = steps.CHOOSE_CANDIDATE if self.choice else read_adaptation(settings).rule
        self.folders[step] = list(folders)
        self.sample = self.calibration
        if self.windows[0].facts["sample"] != self.calibration.digest:
            folder = paths.extended(cell.model, cell.seed, self._samples())
            self.sample = Artifact(folder, steps.CALIBRATION)
            check_belongs(self.sample, "calibration", self.calibration)
            self.folders[steps.EXTEND_CALIBRATION] = [self.sample.folder]
        for part in self.windows:
            check_belongs(part, "sample", self.sample)

    def _samples(self) -> int:
        """Return how many sequences a cell, or the candidate chosen for it, was trained on."""
        settings = self.windows[0].facts["settings"]["adaptation"]
        return int(chosen_of(self.choice, settings)["samples"])

    def _check_measured(
        self,
        where: Path,
        found: Mapping[str, Any],
        others: Mapping[str, tuple[str | None, Artifact]],
    ) -> None:
        """Refuse a measurement of another checkpoint, text or task than the one on disk.

        Args:
            where: File of the measurement.
            found: Content of that file.
            others: Inputs besides the checkpoint, by name: the digest of the one that was measured
                with, and the one on disk.
        """
        checkpoint = {"checkpoint": (found["checkpoint"], self.checkpoint)}
        for what, (digest, artifact) in {**checkpoint, **others}.items():
            if digest != artifact.digest:
                raise UserError(
                    f"this was measured on a different {what}",
                    where=where,
                    found=digest,
                    expected=f"{artifact.digest}, which is {artifact.folder}",
                    todo=run_again(steps.EVALUATE_CELL),
                )

    def spec(self) -> dict[str, Any]:
        """Return the settings with which the steps were made, as their manifests say."""
        spec: dict[str, Any] = {
            "cell": str(self.cell),
            "model": self.model.facts["settings"],
            "evaluation": {
                "perplexity": {
                    **self.measured[steps.PERPLEXITY]["settings"],
                    "text": self._text("evaluation"),
                }
            },
        }
        if steps.DRIFT in self.measured:
            spec["evaluation"]["drift"] = self.measured[steps.DRIFT]["settings"]
        if steps.TASKS in self.measured:
            entries = {name: task.facts["settings"] for name, task in self.tasks.items()}
            settings = self.measured[steps.TASKS]["settings"]
            spec["evaluation"]["tasks"] = {**settings, "tasks": entries}
        if self.masks is not None:
            sample = dict(self.calibration.facts["settings"])
            spec["seed"] = sample.pop("seed")
            spec["calibration"] = {**sample, "text": self._text("calibration")}
            spec |= self.masks.facts["settings"]
            spec["adaptation"] = None
            for part in self.windows:
                spec["adaptation"] = part.facts["settings"]["adaptation"]
            if self.held_out is not None:
                spec["selection"] = {"samples": self.held_out.facts["settings"]["samples"]}
        return spec

    def _text(self, use: str) -> dict[str, Any]:
        return {"name": self.text_names[use], **self.texts[use].facts["settings"]}

    def metrics(self) -> dict[str, Any]:
        """Return the measurements by name; those of the tasks have the digest of the answers."""
        found = {name: dict(each) for name, each in self.measured.items() if name != steps.IDENTITY}
        if steps.TASKS in found:
            found[steps.TASKS]["answers_sha256"] = file_digest(self.answers)
        return found

    def identity(self) -> dict[str, Any]:
        """Return the sparsity of each matrix and overall, as counted in the checkpoint.

        Raises:
            UserError: A matrix has the wrong number of zeros for its mask or its pattern.
        """
        found = self.measured[steps.IDENTITY]
        matrices = found["matrices"]
        for name, counts in matrices.items():
            for what, expected in self._expected_zeros(name, counts):
                if counts["zeros"] != expected:
                    raise UserError(
                        f"wrong number of zeros in a matrix for its {what}",
                        where=f"{self.checkpoint.folder}: {name}",
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

    def _expected_zeros(self, name: str, counts: Mapping[str, int]) -> Iterator[tuple[str, int]]:
        """Yield what decides a matrix's zeros, and their number; a dense matrix may have any."""
        if self.masks is None:
            return
        adapted = self.windows[0].facts["settings"]["adaptation"] if self.windows else None
        if adapted is not None and read_adaptation(adapted).becomes_dense:
            # Merging the adapter fills the zeros; the other methods exist to avoid that.
            return
        yield "mask", self._of_matrices("pruned")[name]
        pattern = Pattern.parse(self.masks.facts["settings"]["pattern"])
        if not pattern.structured:
            scope = self.masks.facts["settings"]["criterion"]["scope"]
            yield "pattern", pattern.zeros(counts["rows"], counts["columns"], scope)

    def pruning(self) -> dict[str, Any] | None:
        """Return the criterion's notes on each matrix; None for a dense model."""
        return None if self.masks is None else {"notes": self._of_matrices("notes")}

    def _of_matrices(self, what: str) -> dict[str, Any]:
        """Return a fact about each matrix that has it, by the matrix's name in the checkpoint."""
        entries = self.masks.files.values() if self.masks else []
        return {name: fact for entry in entries for name, fact in entry.get(what, {}).items()}

    def adaptation(self) -> dict[str, Any] | None:
        """Return what an adaptation saw, trained and reached; None if there was none."""
        found = adapted_windows(self.windows)
        if not found:
            return None
        sample, facts = self.sample.facts, self.windows[0].facts
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
            "choice": self.choice,
        }

    def cost(self) -> dict[str, Any]:
        """Return the cost of each step: sums over its jobs, and the largest of their peaks."""
        costs = {}
        for step, runs in self._runs().items():
            parts = [self._cost_of(run) for run in runs]
            total: dict[str, Any] = {"jobs": len(parts)}
            for key in sorted({key for part in parts for key in part}):
                values = [part[key] for part in parts if key in part]
                # Jobs of one step see the same tokens, each for its own windows; jobs of a search
                # do not.
                shared = key == "tokens" and step != steps.SEARCH
                whole = max if key.startswith("peak") or shared else sum
                total[key] = whole(values)
            costs[step] = total
        return costs

    def _cost_of(self, run: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cost of a job, with operations computed from its counts."""
        counts = run["counts"]
        tokens = {"tokens": counts["tokens"]} if "tokens" in counts else {}
        # Operations do not depend on the precision of what is stored.
        shapes = Shapes.read(self.model.folder / "config.json", "float32")
        return {**run["cost"], **tokens, **operations(run["rule"], shapes, counts)}

    def _runs(self) -> dict[str, list[dict[str, Any]]]:
        """Return the run facts of each step's jobs, including those that a folder carries along."""
        found = {step: [read_run(folder) for folder in each] for step, each in self.folders.items()}
        shared = [run["shared"] for runs in found.values() for run in runs]
        return found | {step: runs for carried in shared for step, runs in carried.items()}

    def provenance(self) -> dict[str, Any]:
        """Return where the numbers come from."""
        environments = {step: runs[0]["environment"] for step, runs in self._runs().items()}
        # Steps that ran before this fact was recorded do not have it.
        finished = {
            step: max(times)
            for step, runs in self._runs().items()
            if (times := [run["finished"] for run in runs if "finished" in run])
        }
        digests = {
            "model": self.model.digest,
            "checkpoint": self.checkpoint.digest,
            **{f"{use}_text": text.digest for use, text in self.texts.items()},
            "evaluation_token_ids": self.measured[steps.PERPLEXITY]["token_ids_sha256"],
            **{f"task_{name}": task.digest for name, task in self.tasks.items()},
        }
        if self.masks is not None:
            digests["calibration_token_ids"] = self.calibration.facts["tokens_sha256"]
            digests["masks"] = self.masks.digest
        if self.held_out is not None:
            digests["held_out_token_ids"] = self.held_out.facts["tokens_sha256"]
        if self.windows:
            # The calibration sample's, or an extended sample's.
            digests["adaptation_token_ids"] = self.sample.facts["tokens_sha256"]
        return {
            "environments": environments,
            "finished": finished,
            "digests": digests,
            "model_origin": self.model.facts["origin"],
            "text_origins": {use: text.facts["origin"] for use, text in self.texts.items()},
            **(
                {"task_origins": {name: task.facts["origin"] for name, task in self.tasks.items()}}
                if self.tasks
                else {}
            ),
            "seed": self.cell.seed,
        }
