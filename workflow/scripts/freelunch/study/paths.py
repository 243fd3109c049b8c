"""The paths of a study. No other module builds them."""

import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from freelunch.core.artifact import MANIFEST, manifest_digest
from freelunch.core.digest import read_sealed
from freelunch.core.errors import UserError, mend
from freelunch.study.cell import Cell

RESOURCES = Path("resources")
RUN = "run.json"


@dataclass(frozen=True)
class Paths:
    """The folders and files of one study, relative to the root of the repository.

    Arguments may also be Snakemake wildcards such as `"{model}"`, for the rules. A folder that a
    step fills holds `manifest.json` (its content) and `run.json` (its cost, and the machine).
    """

    study: str

    @cached_property
    def root(self) -> Path:
        return Path("results") / self.study

    @property
    def owner(self) -> Path:
        """The name of the study file that the results are of."""
        return self.root / "study.txt"

    @staticmethod
    def model(model: str) -> Path:
        """The dense model, one shard per block; shared by all studies."""
        return RESOURCES / "models" / model

    @staticmethod
    def text(text: str) -> Path:
        """A text, one document per line; shared by all studies."""
        return RESOURCES / "texts" / text

    @staticmethod
    def task(task: str) -> Path:
        """The documents of a task, one per line; shared by all studies."""
        return RESOURCES / "tasks" / task

    @property
    def tasks(self) -> Path:
        """Run facts of fetching the study's tasks."""
        return self.root / "tasks"

    def bos(self, model: str) -> Path:
        """Whether sequences begin with the model's beginning-of-sequence token."""
        return self.root / "bos" / model

    def calibration(self, model: str, seed: object) -> Path:
        """Token ids of the calibration sample."""
        return self.root / "calibration" / model / f"seed{seed}"

    def held_out(self, model: str, seed: object) -> Path:
        """Token ids outside the calibration sample, for drift and for choosing among candidates."""
        return self.root / "held_out" / model / f"seed{seed}"

    def extended(self, model: str, seed: object, samples: object) -> Path:
        """Token ids of the calibration sample's first sequences, or of all and further draws."""
        return self.root / "extended" / model / f"seed{seed}" / str(samples)

    def dense(self, model: str, seed: object) -> Path:
        """Statistics of each linear input of the dense model."""
        return self.root / "dense" / model / f"seed{seed}"

    def hidden(self, model: str, seed: object) -> Path:
        """Dense hidden states at block boundaries: a cache that may be deleted at any time."""
        return self.root / "hidden" / model / f"seed{seed}"

    def text_windows(self, model: str) -> Path:
        """Token ids of the windows of the evaluation text."""
        return self.root / "text_windows" / model

    def pruned(self, model: str, pruning: str, seed: object) -> Path:
        """The masks of a pruned model."""
        return self.root / "pruned" / model / pruning / f"seed{seed}"

    def windows(self, cell: object, group: str) -> Path:
        """Blocks adapted by one job of a reconstruction, or by a retraining (group `model`)."""
        return self.root / "windows" / str(cell) / group

    def rate(self, cell: object) -> Path:
        """The learning rates that were tried for a cell, and the one that was found."""
        return self.root / "rates" / str(cell)

    def checkpoint(self, cell: object) -> Path:
        """The checkpoint, a folder that `from_pretrained` loads."""
        return self.root / "checkpoints" / str(cell)

    def metrics(self, cell: object) -> Path:
        """The measurements of a checkpoint, one file each."""
        return self.root / "metrics" / str(cell)

    def record(self, cell: Cell) -> Path:
        return self.records / cell.record_name

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    @property
    def figures(self) -> Path:
        return self.root / "figures"

    @property
    def audit(self) -> Path:
        return self.root / "audit"

    @property
    def interim(self) -> Path:
        """Tables, verdicts and figures of the cells that had finished when somebody asked."""
        return self.root / "interim"

    def log(self, rule: str, *parts: str) -> Path:
        return self.root / "logs" / rule / f"{'_'.join(parts) or rule}.log"


def manifest(folder: Path) -> str:
    """Return the path of a folder's manifest, as rules name it."""
    return str(folder / MANIFEST)


def run(folder: Path) -> str:
    """Return the path of a folder's run facts, as rules name it."""
    return str(folder / RUN)


def facts_at(folder: Path) -> dict[str, Any]:
    """Return the facts in a folder's manifest; none if it is missing or damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["facts"]
        if isinstance(facts, dict):
            return facts
    return {}


def read_run(folder: Path) -> dict[str, Any]:
    """Return the run facts of the step that filled a folder; UserError if they are damaged, or
    those of another folder.
    """
    path = folder / RUN
    facts = read_sealed(path, problem="the run facts of a step are damaged")
    if facts.get("manifest") != manifest_digest(folder):
        raise UserError(
            "these run facts are not those of the step that filled this folder",
            where=path,
            todo=mend(),
        )
    return facts
