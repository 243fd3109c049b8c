"""The scalar metrics of a cell, each declared once.

An entry of `METRICS` takes a number that an evaluation wrote into the record of a cell, makes it a
column of `summary.csv`, and says where else it is shown. The perplexity of the evaluation text is
not among them: it is compared with the dense model window by window (`reporting.cells`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from freelunch.analysis.pairing import Rows, error_columns, exp, paired_difference, unit_losses
from freelunch.reporting.formatting import percent, rounded, with_error
from freelunch.study.study import Study

Record = Mapping[str, Any]
# A field of a table.
Value = str | int | float | None


@dataclass(frozen=True)
class Metric:
    """A scalar metric of a cell.

    Attributes:
        column: Its column in `summary.csv`; the unit, if there is one, is part of the name.
        read: Returns its value from a record: None if it was not measured, NaN if it is not finite.
        read_error: Returns its standard error, the column `<column>_standard_error`; None for a
            metric without one.
        text: Returns a value and its error as text for people.
        summary_heading: Its column in `summary.md`; None to leave it out.
        page_heading: Its column in the table of cells on the audit's page; None to leave it out.
        note: Returns the note below the summary that explains it; None if the name suffices.
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
    compared_as: str | None = None
    own_text: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Return its columns in `summary.csv`."""
        return error_columns(self.column)[: 1 if self.read_error is None else 2]

    @property
    def error_column(self) -> str:
        return error_columns(self.column)[1]

    def measured(self, record: Record) -> dict[str, float | None]:
        """Return the values of its columns in a record."""
        readers = (self.read, self.read_error or self.read)
        return {name: read(record) for name, read in zip(self.columns, readers, strict=False)}

    def over_seeds(self, rows: Rows) -> dict[str, float | None]:
        """Return its columns averaged over the rows of several seeds; None if no row has a value.

        The error of a metric whose seeds share their text is the mean of their errors, which
        bounds the error of the mean from above.
        """
        means: dict[str, float | None] = dict.fromkeys(self.columns)
        for column in self.columns:
            values = [row[column] for row in rows if row[column] is not None]
            if values:
                averages_out = self.own_text and column == self.error_column
                total = math.hypot(*values) if averages_out else math.fsum(values)
                means[column] = total / len(values)
        return means

    def shown(self, row: Mapping[str, Any]) -> str | None:
        """Return its text in a row of the cells; None if it was not measured."""
        value = row[self.column]
        return None if value is None else self.text(value, row.get(self.error_column))


def fact(*path: str | int, null: float | None = None) -> Callable[[Record], Any]:
    """Return a function that reads what keys and indices lead to in a record; None where there is
    nothing. `null` is the meaning of null: NaN for a metric that may not be finite, since JSON has
    no NaN.
    """

    def read(record: Record) -> Any:
        value: Any = record
        for key in path:
            if value is None or (isinstance(value, Mapping) and key not in value):
                return None
            value = value[key]
        return null if value is None else value

    return read


def _held_out_difference(record: Record) -> tuple[float | None, float | None]:
    drift = record["metrics"].get("drift", {})
    if "dense" not in drift:
        return None, None
    return paired_difference(unit_losses(drift), unit_losses(drift["dense"]))


def _as_ratio(difference: float, error: float | None) -> str:
    ratio = exp(difference)
    return with_error(ratio, None if error is None else ratio * error)


def _held_out_note(study: Study) -> str:
    samples = study.drift.samples if study.drift else 0
    several = " The dense model's is its mean over the text of all seeds."
    return (
        f"Held out: perplexity on {samples} sequences of `{study.calibration.text}` "
        f"from documents that calibration does not use.{_if_several_seeds(study, several)}"
    )


def _if_several_seeds(study: Study, words: str) -> str:
    return words if len({cell.seed for cell in study.cells if not cell.is_dense}) > 1 else ""


METRICS = (
    Metric(
        "held_out_perplexity",
        fact("metrics", "drift", "perplexity", null=math.nan),
        fact("metrics", "drift", "perplexity_standard_error", null=math.nan),
        text=with_error,
        summary_heading="held out",
        page_heading="Held out",
        note=_held_out_note,
        compared_as="held-out perplexity",
        own_text=True,
    ),
    Metric(
        "held_out_loss_minus_dense",
        lambda record: _held_out_difference(record)[0],
        lambda record: _held_out_difference(record)[1],
        text=_as_ratio,
        summary_heading="held-out ratio",
        note=lambda study: (
            "Held-out ratio: held-out perplexity divided by the dense model's on the same text."
            + _if_several_seeds(study, " Rows with different seeds can be compared by it.")
        ),
        own_text=True,
    ),
    Metric(
        "activation_error",
        fact("metrics", "drift", "drift", "accumulated", -1, "block", "mean", null=math.nan),
        summary_heading="activation error",
        page_heading="Activation error",
        note=lambda _: "Activation error: the last block's mean relative error on held-out text.",
    ),
    Metric(
        "accuracy",
        fact("metrics", "tasks", "accuracy"),
        fact("metrics", "tasks", "accuracy_standard_error"),
        text=percent,
        page_heading="Accuracy",
        compared_as="accuracy",
    ),
    Metric("byte_perplexity", fact("metrics", "perplexity", "byte_perplexity")),
    Metric("word_perplexity", fact("metrics", "perplexity", "word_perplexity")),
    Metric("bits_per_byte", fact("metrics", "perplexity", "bits_per_byte")),
)
METRIC_COLUMNS = tuple(column for metric in METRICS for column in metric.columns)
