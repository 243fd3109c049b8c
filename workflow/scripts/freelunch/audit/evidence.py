"""The evidence that claims are tested on: the records of a study, and losses in a given metric."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np

from freelunch.analysis.budget_effect import BudgetComparison, budget_comparisons
from freelunch.analysis.intervals import Sample
from freelunch.analysis.pairing import (
    Records,
    by_adaptation,
    paired_losses,
    parameters_by_model,
    pruned_models,
    unit_losses,
)
from freelunch.records.read import load_answers
from freelunch.records.record import adaptation_facts
from freelunch.study.cell import DENSE, Cell
from freelunch.study.steps import JOINED, RECONSTRUCT_WINDOW
from freelunch.study.study import Study

PERPLEXITY, HELD_OUT_PERPLEXITY, ACCURACY = "perplexity", "held_out_perplexity", "accuracy"


@dataclass(frozen=True)
class Evidence:
    """A finished study as evidence for claims.

    Attributes:
        study: Its config.
        records: The record of each of its cells.
        folder: Folder of the records, with the answers to tasks beside them.
    """

    study: Study
    records: Records
    folder: Path

    def losses(self, cell: Cell, metric: str) -> list[list[float]] | None:
        """Return the losses of a cell in a metric, a list for each stratum; None if not measured.

        For a perplexity, there is one stratum with the loss of each window, in nats per token. For
        accuracy, each task is a stratum, with 1 for each wrong answer and 0 for each right one.
        """
        return _LOSSES[metric](self, cell)

    def measures(self, cell: Cell, metric: str) -> bool:
        """Return whether a metric was measured on a cell."""
        return self.losses(cell, metric) is not None

    def diverged(self, cells: Iterable[Cell], metric: str) -> bool:
        """Return whether a loss of some cells is not finite in a metric."""
        losses = (stratum for cell in cells for stratum in self.losses(cell, metric) or ())
        return not all(math.isfinite(loss) for stratum in losses for loss in stratum)

    def sample(self, cells: Mapping[str, Sequence[Cell]], metric: str) -> Sample | None:
        """Return the losses of some cells of one model; None if one of them was not measured.

        Args:
            cells: The cells by name, one for each seed; all names have the same seeds.
            metric: A key of METRICS.
        """
        found = {name: [self.losses(cell, metric) for cell in its] for name, its in cells.items()}
        if metric == HELD_OUT_PERPLEXITY and DENSE in found:
            # The dense model is measured with each pruned cell, on its seed's held-out text.
            beside = next(its for name, its in cells.items() if name != DENSE)
            found[DENSE] = [self._dense_beside(cell) for cell in beside]
        if any(losses is None for of_seeds in found.values() for losses in of_seeds):
            return None
        strata = range(len(next(iter(found.values()))[0] or ()))
        return Sample(
            list(found),
            [
                np.array(
                    [[losses[at] for losses in of if losses is not None] for of in found.values()]
                )
                for at in strata
            ],
            # All else was drawn at random.
            neighbours=metric == PERPLEXITY and self.study.perplexity.cut == JOINED,
            nested=metric == HELD_OUT_PERPLEXITY,
        )

    def window_of(self, cell: Cell) -> int | str:
        """Return the window that was adapted together in a reconstructed cell."""
        return adaptation_facts(self.records[cell])["window"]

    def work_peak(self, cell: Cell) -> int | None:
        """Return the peak memory in bytes of the reconstruction of a cell, net of its process's
        own; None where the system did not tell.
        """
        return self.records[cell]["cost"][RECONSTRUCT_WINDOW].get("peak_work_bytes")

    def only(self, keep: Callable[[Cell], bool]) -> Self:
        """Return the evidence of some of the cells."""
        records = {cell: record for cell, record in self.records.items() if keep(cell)}
        return replace(self, records=records)

    def dense_perplexity(self, model: str) -> float | None:
        """Return the perplexity of a dense model; None if it is not finite or not known."""
        metrics = self.records[Cell.dense(model)]["metrics"]["perplexity"]
        value: float | None = metrics["perplexity"]
        return value

    def _dense_beside(self, cell: Cell) -> list[list[float]] | None:
        drift = self.records[cell]["metrics"].get("drift")
        return [unit_losses(drift["dense"])] if drift else None

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Return the number of parameters of each model."""
        return parameters_by_model(self.records)

    @cached_property
    def comparisons(self) -> list[BudgetComparison]:
        """Return the pruned models that were both reconstructed and retrained."""
        return budget_comparisons(self.records, self.study)

    @cached_property
    def pruned(self) -> list[dict[str, dict[int, Cell]]]:
        """Return the cells of each pruned model, by adaptation and then by seed."""
        return [by_adaptation(cells) for cells in pruned_models(self.records)]


def _perplexity(evidence: Evidence, cell: Cell) -> list[list[float]]:
    return [paired_losses(cell, evidence.records)[0]]


def _held_out(evidence: Evidence, cell: Cell) -> list[list[float]] | None:
    """Return none for the dense model, which is measured with each of the other cells."""
    drift = evidence.records[cell]["metrics"].get("drift")
    return [unit_losses(drift)] if drift else None


def _accuracy(evidence: Evidence, cell: Cell) -> list[list[float]] | None:
    tasks = evidence.records[cell]["metrics"].get("tasks")
    if tasks is None:
        return None
    answers = load_answers(evidence.folder / cell.record_name)
    return [[float(not answer["right"]) for answer in answers[task]] for task in tasks["tasks"]]


_LOSSES: dict[str, Callable[[Evidence, Cell], list[list[float]] | None]] = {
    PERPLEXITY: _perplexity,
    HELD_OUT_PERPLEXITY: _held_out,
    ACCURACY: _accuracy,
}
METRICS = tuple(_LOSSES)
