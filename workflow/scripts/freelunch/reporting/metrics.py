"""The scalar metrics of a cell, each declared once.

An entry of `METRICS` takes a number that an evaluation wrote into the record of a cell, makes it a
column of `summary.csv`, and says where else it is shown. The perplexity of the evaluation text is
not among them: it is compared with the dense model window by window (`reporting.cells`).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freelunch.analysis.pairing import exp, paired_difference, unit_losses
from freelunch.reporting.formatting import percent, rounded, with_error
from freelunch.study.study import Study

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Metric:
    """A scalar metric of a cell.

    Attributes:
        column: Its column in `summary.csv`; the unit, if there is one, is part of the name.
        read: Returns its value from a record: None if it was not measured, NaN if it is not finite.
        read_error: Returns its standard error, the column `<column>_standard_error`; None for a
            metric without one.
        text: Returns a value and its error as text for people.
        summary_heading: Its column in `summary.md` and `summary.tex`; None to leave it out.
        page_heading: Its column in the table of cells on the audit's page; None to leave it out.
        note: Returns the note below the summary that explains it; None if the name suffices.
        in_text: Whether `numbers.json` has it, for running text.
        compared_as: Its name in `make compare`; None if `make compare` leaves it out.
        own_text: Whether each seed measures it on text of its own, so that errors over that text
            average out over seeds.
    """

    column: str
    read: Callable[[Record], float | None]
    read_error: Callable[[Record], float | None] | None = None
    text: Callable[[float, float | None], str] = lambda value, _: rounded(value, value / 100)
    summary_heading: str | None = None
    page_heading: str | None = None
    note: Callable[[Study], str] | None = None
    in_text: bool = False
    compared_as: str | None = None
    own_text: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Return its columns in `summary.csv`."""
        return (self.column,) if self.read_error is None else (self.column, self.error_column)

    @property
    def error_column(self) -> str:
        """Return the column of its standard error."""
        return f"{self.column}_standard_error"

    def measured(self, record: Record) -> dict[str, float | None]:
        """Return the values of its columns in a record."""
        values = {self.column: self.read(record)}
        if self.read_error is not None:
            values[self.error_column] = self.read_error(record)
        return values

    def over_seeds(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        """Return its columns averaged over the rows of several seeds; None if no row has a value.

        The error of a metric whose seeds share their text is the mean of their errors, which
        bounds the error of the mean from above.
        """
        found: dict[str, float | None] = {}
        for column in self.columns:
            values = [row[column] for row in rows if row[column] is not None]
            if not values:
                found[column] = None
            elif self.own_text and column == self.error_column:
                found[column] = math.hypot(*values) / len(values)
            else:
                found[column] = math.fsum(values) / len(values)
        return found

    def shown(self, row: Mapping[str, Any]) -> str | None:
        """Return its text in a row of the cells; None if it was not measured."""
        value = row[self.column]
        return None if value is None else self.text(value, row.get(self.error_column))


def at(*path: str | int, null: float | None = None) -> Callable[[Record], float | None]:
    """Return a function that reads one number of `metrics` in a record.

    It returns None if a record has no such number, because the evaluation was not asked for or the
    record is older than the metric.

    Args:
        path: Keys and indices that lead to the number.
        null: The meaning of null: NaN for a metric that may not be finite, since JSON has no NaN.
    """

    def read(record: Record) -> float | None:
        found: Any = record["metrics"]
        for key in path:
            if isinstance(found, Mapping) and key not in found:
                return None
            found = found[key]
        return null if found is None else found

    return read


def _held_out_difference(record: Record) -> tuple[float | None, float | None]:
    """Return the loss on held-out text minus that of the dense model there, and its error."""
    drift = record["metrics"].get("drift", {})
    if "dense" not in drift:
        return None, None
    return paired_difference(unit_losses(drift), unit_losses(drift["dense"]))


def _as_ratio(difference: float, error: float | None) -> str:
    """Return the ratio of two perplexities, given the difference of their losses."""
    ratio = exp(difference)
    return with_error(ratio, None if error is None else ratio * error)


def _held_out_note(study: Study) -> str:
    samples = study.drift.samples if study.drift else 0
    note = (
        f"Held out: perplexity on {samples} sequences of `{study.calibration.text}` "
        "from documents that calibration does not use."
    )
    if _several_seeds(study):
        note += " The dense model's is its mean over the text of all seeds."
    return note


def _held_out_ratio_note(study: Study) -> str:
    note = "Held-out ratio: held-out perplexity divided by the dense model's on the same text."
    if _several_seeds(study):
        note += " Rows with different seeds can be compared by it."
    return note


def _several_seeds(study: Study) -> bool:
    """Return whether pruned cells have several seeds."""
    return len({cell.seed for cell in study.cells if not cell.is_dense}) > 1


METRICS = (
    Metric(
        "held_out_perplexity",
        at("drift", "perplexity", null=math.nan),
        at("drift", "perplexity_standard_error", null=math.nan),
        text=with_error,
        summary_heading="held out",
        page_heading="Held out",
        note=_held_out_note,
        in_text=True,
        compared_as="held-out perplexity",
        own_text=True,
    ),
    Metric(
        "held_out_loss_minus_dense",
        lambda record: _held_out_difference(record)[0],
        lambda record: _held_out_difference(record)[1],
        text=_as_ratio,
        summary_heading="held-out ratio",
        note=_held_out_ratio_note,
        own_text=True,
    ),
    Metric(
        "drift_mean",
        at("drift", "drift", "accumulated", -1, "block", "mean", null=math.nan),
        summary_heading="drift",
        page_heading="Drift",
        note=lambda _: (
            "Drift: relative error of the last block's output on the held-out text, averaged over "
            "tokens."
        ),
        in_text=True,
    ),
    Metric(
        "accuracy",
        at("tasks", "accuracy"),
        at("tasks", "accuracy_standard_error"),
        text=percent,
        page_heading="Accuracy",
        compared_as="accuracy",
    ),
    Metric("byte_perplexity", at("perplexity", "byte_perplexity")),
    Metric("word_perplexity", at("perplexity", "word_perplexity")),
    Metric("bits_per_byte", at("perplexity", "bits_per_byte")),
)
METRIC_COLUMNS = tuple(column for metric in METRICS for column in metric.columns)
