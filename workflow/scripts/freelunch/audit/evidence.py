"""The evidence that claims are tested on: the records of a study, and losses in a given metric."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np

from freelunch.analysis import pairing
from freelunch.analysis.budget_effect import BudgetComparison, budget_comparisons
from freelunch.analysis.doubts import ACCURACY, HELD_OUT_PERPLEXITY, PERPLEXITY
from freelunch.analysis.intervals import Sample
from freelunch.records.read import load_answers
from freelunch.records.record import adaptation_facts
from freelunch.reporting.results import Results
from freelunch.study.cell import DENSE, Cell
from freelunch.study.steps import JOINED, RECONSTRUCT_WINDOW

# The inputs of windows, and what they are called: outputs of the dense model, or of the adapted
# windows before.
INPUTS = {"dense": "dense inputs", "sparse": "sequential inputs"}
METRICS = (PERPLEXITY, HELD_OUT_PERPLEXITY, ACCURACY)
# The losses of a cell, a list for each stratum: the one text, or each task.
Losses = list[list[float]]


@dataclass(frozen=True)
class Evidence(Results):
    """A finished study as evidence for claims."""

    def losses(self, cell: Cell, metric: str) -> Losses | None:
        """Return the losses of a cell in a metric, a list for each stratum; None if not measured.

        For a perplexity, there is one stratum with the loss of each window, in nats per token. For
        accuracy, each task is a stratum, with 1 for each wrong answer and 0 for each right one.
        """
        if metric == PERPLEXITY:
            return [pairing.paired_losses(cell, self.records)[0]]
        metrics = self.records[cell]["metrics"]
        if metric == HELD_OUT_PERPLEXITY:
            return [pairing.unit_losses(metrics["drift"])] if metrics.get("drift") else None
        if metrics.get("tasks") is None:
            return None
        answers = load_answers(self.folder / cell.record_name)
        return [
            [float(not answer["right"]) for answer in answers[task]]
            for task in metrics["tasks"]["tasks"]
        ]

    def diverged(self, cells: Iterable[Cell], metric: str) -> bool:
        """Return whether a loss of some cells is not finite in a metric."""
        losses = (stratum for cell in cells for stratum in self.losses(cell, metric) or ())
        return not all(math.isfinite(loss) for stratum in losses for loss in stratum)

    def sample(self, cells: Mapping[str, Sequence[Cell]], metric: str) -> Sample | None:
        """Return the losses of some cells of one model in one of METRICS; None if one of them was
        not measured. Each name has a cell for each seed, and all have the same seeds.
        """
        found = {name: [self.losses(cell, metric) for cell in its] for name, its in cells.items()}
        if metric == HELD_OUT_PERPLEXITY and DENSE in found:
            # The dense model is measured with each pruned cell, on its seed's held-out text.
            beside = next(its for name, its in cells.items() if name != DENSE)
            drifts = [self.records[cell]["metrics"].get("drift") for cell in beside]
            found[DENSE] = [
                [pairing.unit_losses(drift["dense"])] if drift else None for drift in drifts
            ]
        measured = [[losses for losses in its if losses is not None] for its in found.values()]
        if sum(map(len, measured)) < sum(map(len, found.values())):
            return None
        return Sample(
            list(found),
            [
                np.array([[losses[stratum] for losses in its] for its in measured])
                for stratum in range(len(measured[0][0]))
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
        value: float | None = self.records[Cell.dense(model)]["metrics"]["perplexity"]["perplexity"]
        return value

    @cached_property
    def parameters(self) -> dict[str, int]:
        """Return the number of parameters of each model."""
        return {
            cell.model: record["identity"]["parameters"]
            for cell, record in self.records.items()
            if cell.is_dense
        }

    @property
    def references(self) -> Sequence[str]:
        """Return the reconstructions that may stand for all of a pruned model, the best first."""
        return self.study.comparisons.references

    def family(self, model: str) -> str:
        """Return the family of a model as its entry says it; empty if it does not."""
        architecture = self.study.model(model).architecture
        return "" if architecture is None else architecture.model_type or ""

    @cached_property
    def comparisons(self) -> list[BudgetComparison]:
        """Return the pruned models that were both reconstructed and retrained, once for each kind
        of inputs that their reconstructions have.
        """
        return [
            comparison
            for inputs in INPUTS
            for comparison in budget_comparisons(self.records, self.study, inputs)
        ]

    @cached_property
    def pruned(self) -> list[dict[str, dict[int, Cell]]]:
        """Return the cells of each pruned model, by adaptation and then by seed."""
        return [pairing.by_adaptation(cells) for cells in pairing.pruned_models(self.records)]
