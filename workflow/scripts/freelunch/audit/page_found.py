"""What a study found, as the audit's page shows it: a ranking for each pruned model."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from freelunch.audit.answers import AdaptationAnswer, PrunedModelAnswer
from freelunch.audit.numbers import Number
from freelunch.audit.page_cells import Field, sorting
from freelunch.reporting.formatting import NOTHING, three_digits
from freelunch.reporting.labels import pruned_model_label, pruning_label
from freelunch.study.cell import Cell

HEADS = ("Adaptation", "Perplexity", "Gain (95 %)", "Recovered (95 %)", "Tokens", "TFLOP", "GB")
SEEDS = "Seeds"


@dataclass(frozen=True)
class AdaptationLine:
    """A line of a ranking.

    Attributes:
        adaptation: Its name.
        chosen: Whether its settings were chosen on the evaluation text.
        records: Its records, which the filter of cells hides with them.
        fields: Its numbers.
    """

    adaptation: str
    chosen: bool
    records: str
    fields: list[Field]


@dataclass(frozen=True)
class Ranking:
    """A pruned model with its adaptations, the best first; `levels` are those without any."""

    label: str
    levels: str
    rows: list[AdaptationLine]


@dataclass(frozen=True)
class FoundSection:
    """The rankings of a study; `seeds` says how many all numbers come from, if they are alike."""

    heads: list[str]
    groups: list[Ranking]
    seeds: str | None

    @property
    def on_evaluation(self) -> bool:
        """Return whether the settings of an adaptation were chosen on the evaluation text."""
        return any(row.chosen for group in self.groups for row in group.rows)


def found_section(found: Sequence[PrunedModelAnswer]) -> FoundSection | None:
    """Return what the page shows of what was found; None if nothing was pruned."""
    if not found:
        return None
    several = len({each.model for each in found}) > 1
    counts = {each.seeds for model in found for each in model.adaptations}
    alike = len(counts) <= 1
    seeds = "one seed" if max(counts, default=1) == 1 else f"{max(counts)} seeds"
    groups = []
    # The one that the answer is about comes first.
    for model in sorted(found, key=lambda each: each.rank):
        label = pruned_model_label(vars(model)) if several else pruning_label(vars(model))
        levels = {"pruned": model.unadapted, "dense": model.dense}
        told = ", ".join(f"{name} {level.text}" for name, level in levels.items() if level)
        groups.append(Ranking(label, told, [_line(each, alike) for each in model.adaptations]))
    heads = [*HEADS] if alike else [*HEADS, SEEDS]
    return FoundSection(heads, groups, seeds if alike else None)


def _line(each: AdaptationAnswer, alike: bool) -> AdaptationLine:
    records = " ".join(Cell.parse(cell).record_name for cell in each.cells)
    seeds = [] if alike else [Field(str(each.seeds), sorting(each.seeds))]
    chosen = each.selected_on == "evaluation"
    return AdaptationLine(each.adaptation, chosen, records, [*_fields(each), *seeds])


def _fields(each: AdaptationAnswer) -> Iterator[Field]:
    """Yield the numbers of a row, each with what it is sorted by."""
    yield Field(each.perplexity.text, sorting(each.perplexity.value))
    shares: tuple[Number | None, ...] = (each.gain, each.recovered)
    for share in shares:
        known = share is not None and share.value is not None
        # The heading says what the interval is.
        text = str(share.text).replace("(95 %: ", "(") if share and known else NOTHING
        yield Field(text, sorting(share.value) if share else "")
    yield Field(f"{each.tokens:,.0f}" if each.tokens else NOTHING, sorting(each.tokens))
    for value, unit in ((each.flops, 1e12), (each.peak_bytes, 1e9)):
        yield Field(three_digits(value / unit if value else None), sorting(value))
