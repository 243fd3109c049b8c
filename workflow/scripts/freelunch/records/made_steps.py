"""The steps of a cell on disk, and the settings that they were made with.

Nothing comes from the config. Each step's manifest says with which settings and from which inputs
the step was made; these links are followed and checked.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.errors import UserError, run_again
from freelunch.study import steps
from freelunch.study.cell import Cell
from freelunch.study.paths import Paths
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import chosen_of


class MadeSteps:
    """The folders of a cell's steps, each checked to be made from the one before.

    Args:
        paths: Paths of the study.
        cell: The cell.
        spec: The cell's spec in the current config.
        adapted: Folders with the cell's adapted blocks; empty if it is not adapted.

    Raises:
        UserError: A step was made from other inputs than those on disk.
    """

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
            reference = paths.reference(self.cell.model, self.cell.seed)
            self.folders[steps.CAPTURE_REFERENCE] = [reference]
        self.answers = artifact.folder / steps.ANSWERS
        names = asked.get("tasks", {}).get("tasks", {})
        self.tasks = {name: Artifact(paths.task(name), steps.TASK) for name in names}
        inputs = {
            "checkpoint": self.checkpoint,
            "model": self.model,
            "text": self.texts["evaluation"],
            "held_out": self.held_out,
        }
        self.measured: dict[str, dict[str, Any]] = {}
        for name in (steps.IDENTITY, *asked):
            path = artifact.path(steps.metrics_file(name))
            found = self.measured[name] = json.loads(path.read_text())
            for what in (what for what in inputs if what in found):
                _check_measured(path, what, found[what], inputs[what])
            for task in self.tasks if name == steps.TASKS else ():
                digest = found["tasks"].get(task, {}).get("task")
                _check_measured(path, f"task ({task})", digest, self.tasks[task])

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


def _check_measured(where: Path, what: str, digest: str | None, artifact: Artifact | None) -> None:
    """Refuse a measurement of another checkpoint, text or task than the one on disk.

    Args:
        where: File of the measurement.
        what: What was measured, or measured with.
        digest: Digest of its manifest then.
        artifact: The one on disk.
    """
    if artifact is None or digest != artifact.digest:
        raise UserError(
            f"this was measured on a different {what}",
            where=where,
            found=digest,
            expected=f"{artifact.digest}, which is {artifact.folder}" if artifact else "none",
            todo=run_again(steps.EVALUATE_CELL),
        )
