"""The section of the summary that shows the gap between criteria."""

import math
from collections.abc import Iterator

from freelunch.analysis.pairing import Row, Rows
from freelunch.reporting.formatting import (
    NOT_FINITE,
    NOTHING,
    marked,
    rounded,
    shown,
    shown_percent,
    with_error,
)
from freelunch.reporting.summary import Section
from freelunch.study.cell import DENSE, NONE
from freelunch.study.study import Study

BEST, WORST = "best (perplexity)", "worst (perplexity)"
WORDS = ("model", "pattern", "adaptation", "criteria", BEST, WORST)
# The criteria of one pattern count as unequally sparse if their sparsities differ by more.
UNEQUAL = 0.002


def gaps_section(study: Study, means: Rows, gaps: Rows) -> Section:
    """Return the section."""
    several = any(gap["seeds"] > 1 or (gap["gap_left_seeds"] or 1) > 1 for gap in gaps)
    lines = [_line(gap, several, study) for gap in gaps]
    notes = [*gap_sentences(study, gaps), *_unequal_sparsities(means), *_notes(gaps, several)]
    return Section("gaps", "Gap between criteria", lines, notes, WORDS)


def gap_sentences(study: Study, gaps: Rows) -> Iterator[str]:
    """Yield what each adaptation did to the gap."""
    for gap in gaps:
        if gap["adaptation"] != NONE:
            but = f" other than {gap['left_out']}" if gap["left_out"] is not None else ""
            yield (
                f"{gap['model']}, {gap['pattern']}: with {_marked(gap, study)} the gap between "
                f"criteria{but} {_effect(gap)}."
            )


def _line(gap: Row, several: bool, study: Study) -> dict[str, str]:
    """Return one line of the table, from column to text."""
    line = {column: str(gap[column]) for column in ("model", "pattern", "adaptation")}
    line["adaptation"] = _marked(gap, study)
    line["criteria"] = f"all {gap['criteria']}"
    if gap["left_out"] is not None:
        line["criteria"] = f"{gap['criteria']}, without {gap['left_out']}"
    for which, column in (("best", BEST), ("worst", WORST)):
        error = gap[f"perplexity_{which}_standard_error"]
        line[column] = f"{gap[which]} ({rounded(gap[f'perplexity_{which}'], error)})"
    line["worst / best"] = shown(gap, "worst_over_best")
    line["remaining gap"] = shown_percent(gap, "gap_left")
    if several:
        line["seeds"] = str(gap["seeds"])
        spread = gap["gap_left_standard_deviation_over_seeds"]
        text = NOTHING if spread is None else f"{rounded(100 * spread, 100 * spread)} %"
        line["remaining gap, spread over seeds"] = text.replace(f"{NOT_FINITE} %", NOT_FINITE)
    return line


def _marked(gap: Row, study: Study) -> str:
    """Return the name of a gap's adaptation, marked if it was chosen on the evaluation text."""
    on_evaluation = gap["adaptation"] in study.comparisons.selected_on_evaluation
    return marked(gap["adaptation"], "evaluation" if on_evaluation else None)


def _effect(gap: Row) -> str:
    """Return the effect of an adaptation on a gap, as the predicate of a sentence."""
    left, error = gap["gap_left"], gap["gap_left_error"]
    if left is None or error is None:
        return "has nothing to be compared with: the study has no unadapted cells of these criteria"
    if not math.isfinite(left) or not math.isfinite(error):
        return "cannot be compared: a loss is not finite, or there was no gap without it"
    return f"is {with_error(left, error)} times what it was without"


def _unequal_sparsities(means: Rows) -> Iterator[str]:
    """Yield where criteria are compared although their sparsities differ."""
    sparsities: dict[tuple[str, str], list[float]] = {}
    for mean in means:
        if mean["criterion"] != DENSE:
            of_pattern = sparsities.setdefault((mean["model"], mean["pattern"]), [])
            of_pattern.append(mean["sparsity"])
    for (model, pattern), shares in sparsities.items():
        if max(shares) - min(shares) > UNEQUAL:
            yield (
                f"{model}, {pattern}: the criteria produced unequal sparsities, from "
                f"{100 * min(shares):.1f} to {100 * max(shares):.1f} %, so part of a gap between "
                "them comes from sparsity."
            )


def _notes(gaps: Rows, several: bool) -> Iterator[str]:
    """Yield the notes below the table."""
    seeds = ", over the seeds that all criteria share" if several else ""
    yield (
        "Worst / best: the ratio of the two perplexities. The gap is its logarithm, the difference "
        f"between the mean losses{seeds}."
    )
    yield (
        "Remaining gap: the gap with the adaptation divided by the gap without it, for the same "
        "criteria and seeds" + ("; the spread is its standard deviation." if several else ".")
    )
    if any(gap["left_out"] is not None for gap in gaps):
        yield "A row without one criterion leaves out the one that is worst without the adaptation."
    own = (
        "over windows and, if there are several, over seeds; with few seeds it is itself uncertain"
        if several
        else "over windows and not over seeds"
    )
    yield (
        "± in the table is the standard error over windows, from differences window by window; in "
        f"the sentences it is {own}. All errors take the choice of best and worst as given. "
        "The audit tests whether gaps between named criteria shrink."
    )
