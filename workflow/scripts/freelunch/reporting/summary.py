"""The summary of a study for people: tables in Markdown, and what one has to know to read them.

Only words and rounding; the numbers come from freelunch.reporting.tables.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from freelunch.reporting.formatting import (
    NOT_FINITE,
    NOTHING,
    marked,
    percent,
    rounded,
    with_error,
)
from freelunch.reporting.sections.budgets import BUDGET_NOTES, budget_line, budget_sentences
from freelunch.reporting.sections.tasks import task_lines, task_notes
from freelunch.reporting.sections.windows import WINDOW_NOTES, window_line, window_sentences
from freelunch.study.cell import DENSE, NONE
from freelunch.study.study import Study

BEST, WORST = "best (perplexity)", "worst (perplexity)"
# Columns of words; the others hold numbers and are set to the right.
WORDS = (
    *("model", "criterion", "pattern", "adaptation", "adaptation cost", "criteria", BEST, WORST),
    *("window", "inputs, targets", "what"),
)
# Models of one pattern whose sparsities differ by more are not equally pruned.
UNEQUAL = 0.002
SELECTED_ON = {"calibration": "held-out calibration text", "evaluation": "the evaluation text"}
# Two numbers that are so many standard errors apart are said to differ.
CLEAR = 2.0


@dataclass(frozen=True)
class Section:
    """A table, and what it says.

    Attributes:
        name: What it is referred to by, in a word.
        title: What it shows.
        lines: Its lines, from column to text.
        notes: What it comes to, and what a reader has to know, as sentences of Markdown.
    """

    name: str
    title: str
    lines: Sequence[Mapping[str, str]]
    notes: Sequence[str]


def summary_sections(
    study: Study,
    means: Sequence[Mapping[str, Any]],
    gaps: Sequence[Mapping[str, Any]] = (),
    windows: Sequence[Mapping[str, Any]] = (),
    budgets: Sequence[Mapping[str, Any]] = (),
    reaches: Sequence[Mapping[str, Any]] = (),
    tasks: Sequence[Mapping[str, Any]] = (),
) -> list[Section]:
    """Return the tables of a summary, that of the cells first.

    Args:
        study: For the texts, the calibration and the seeds.
        means: As `reporting.tables.means_over_seeds` returns them.
        gaps: As `analysis.criteria_gap.gap_rows` returns them; without one, there is no table of it.
        windows: As `analysis.window_effect.window_rows` returns them; the same holds.
        budgets: As `analysis.budget_effect.budget_rows` returns them; the same holds.
        reaches: As `analysis.budget_effect.reach_rows` returns them.
        tasks: As `freelunch.analysis.accuracy.task_rows` returns them; as for the gaps.
    """
    sections = [Section("cells", "All cells", _cell_lines(means), _cell_notes(study, means))]
    if tasks:
        notes = list(task_notes(tasks))
        sections.append(Section("tasks", "Zero-shot accuracy", task_lines(tasks), notes))
    if gaps:
        lines = [_gap_line(gap, _of_seeds(gaps), study) for gap in gaps]
        notes = [*_gap_sentences(gaps, study), *_unequal_sparsities(means), *_gap_notes(gaps)]
        sections.append(Section("gaps", "Gap between criteria", lines, notes))
    if windows:
        lines = [window_line(row) for row in windows]
        notes = [*window_sentences(windows), *WINDOW_NOTES]
        sections.append(Section("windows", "What the window is worth", lines, notes))
    if budgets:
        lines = [budget_line(row) for row in budgets]
        notes = [*budget_sentences(reaches), *BUDGET_NOTES]
        sections.append(Section("budgets", "Retraining beside reconstruction", lines, notes))
    return sections


def summary_text(sections: Sequence[Section]) -> str:
    """Return the summary as Markdown; the first table goes without its title."""
    parts = []
    for number, section in enumerate(sections):
        title = [f"**{section.title}**"] if number else []
        parts += [*title, _markdown_table(section.lines), _bullets(section.notes)]
    return "\n\n".join(parts) + "\n"


def _cell_lines(means: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return the lines of the table of cells, from column to text; the dense cell comes first."""
    several, held_out = _several(means), _held_out(means)
    return [_line(mean, several, held_out) for mean in means]


def _several(means: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether any cell was run with several seeds."""
    return any(mean["seeds"] > 1 for mean in means)


def _held_out(means: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether any cell was measured on held-out text."""
    return any(mean["held_out_perplexity"] is not None for mean in means)


def _bullets(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _line(mean: Mapping[str, Any], several: bool, held_out: bool) -> dict[str, str]:
    """Return one line of the table, from column to text."""
    line = {column: mean[column] for column in ("model", "criterion", "pattern", "adaptation")}
    line["adaptation"] = marked(mean["adaptation"], mean["selected_on"])
    if mean["criterion"] == DENSE:
        line |= {"pattern": NOTHING, "adaptation": NOTHING}
    line["perplexity"] = with_error(mean["perplexity"], mean["perplexity_standard_error"])
    line["ratio to dense"] = with_error(
        mean["perplexity_over_dense"], mean["perplexity_over_dense_standard_error"]
    )
    if several:
        spread = mean["perplexity_standard_deviation_over_seeds"]
        line["seeds"] = str(mean["seeds"])
        line["spread over seeds"] = NOTHING if spread is None else rounded(spread, spread)
    if held_out:
        line["held out"] = with_error(
            mean["held_out_perplexity"], mean["held_out_perplexity_standard_error"]
        )
        drift = mean["drift_mean"]
        line["drift"] = NOTHING if drift is None else rounded(drift, drift / 100)
    line["sparsity"] = f"{100 * mean['sparsity']:.1f} %"
    line["adaptation cost"] = NOTHING if mean["adaptation"] == NONE else _cost(mean)
    return line


def _cost(mean: Mapping[str, Any]) -> str:
    words = []
    if (tokens := mean["adaptation_tokens"]) is not None:
        words.append(f"{tokens:,.0f} tokens")
    if (flops := mean["adaptation_flops"]) is not None:
        words.append(f"{flops / 1e12:,.3g} TFLOP")
    if (seconds := mean["adaptation_wall_s"]) is not None:
        words.append(f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.1f} min")
    if (peak_bytes := mean["adaptation_peak_bytes"]) is not None:
        words.append(f"{peak_bytes / 1e9:.2f} GB")
    if mean["selected_on"]:
        chosen_on = SELECTED_ON[mean["selected_on"]]
        words.append(f"{mean['choices']} chosen on {chosen_on}")
        words.append(f"{(mean['search_flops'] or 0) / 1e12:,.3g} TFLOP to find it")
    if kept := mean["adaptation_windows_kept_pruned"]:
        words.append(f"{kept} of {mean['adaptation_windows']} windows no better than pruned")
    if worse := mean["adaptation_windows_worse"]:
        of_seeds = f" with {worse} of {mean['seeds']} seeds" if mean["seeds"] > 1 else ""
        words.append(f"its own loss rose{of_seeds}")
    return ", ".join(words)


def _cell_notes(study: Study, means: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader of the table has to know: texts, amounts, seeds, what an error is."""
    text, calibration = study.perplexity["text"], study.calibration
    seeds = sorted({cell.seed for cell in study.cells if not cell.is_dense})
    listed = ", ".join(str(seed) for seed in seeds)
    notes = [
        f"Perplexity on {_origin(text)}: {_amounts(means)}. ± is the standard error over windows.",
    ]
    if text["source"] == "wheel":
        notes.append(
            f"These perplexities are on `{text['name']}`, not on WikiText-2: compare them with "
            "each other, not with published ones."
        )
    if _held_out(means):
        samples = study.block["evaluation"]["drift"]["samples"]
        notes.append(
            f"Held out: perplexity on {samples} sequences of `{calibration['text']['name']}` from "
            "documents that calibration does not touch. Drift: relative error of the last block's "
            "output there, the mean over tokens."
        )
    notes += [
        *_sizes(means),
        "Ratio to dense: of the perplexities; its error is that of the paired differences, window "
        "by window.",
        f"Calibration on {_origin(calibration['text'])}: {calibration['samples']:,} sequences of "
        f"{calibration['length']:,} tokens.",
        f"Means over seeds (of {listed}); the spread is the perplexity's standard deviation."
        if _several(means)
        else f"Seeds: {listed}, one for each cell.",
        "Sparsity: share of zeros in the linear layers of all blocks, counted in the checkpoint "
        "that was evaluated.",
        "Adaptation cost, without calibration and pruning: tokens passed (repetitions counted), "
        "floating-point operations, wall time, largest memory of a job.",
    ]
    return notes


def _gap_line(gap: Mapping[str, Any], several: bool, study: Study) -> dict[str, str]:
    """Return one line of the table of gaps, from column to text."""
    line = {column: str(gap[column]) for column in ("model", "pattern", "adaptation")}
    line["adaptation"] = _marked(gap["adaptation"], study)
    line["criteria"] = f"all {gap['criteria']}"
    if gap["left_out"] is not None:
        line["criteria"] = f"{gap['criteria']}, without {gap['left_out']}"
    for which, column in (("best", BEST), ("worst", WORST)):
        error = gap[f"perplexity_{which}_standard_error"]
        line[column] = f"{gap[which]} ({rounded(gap[f'perplexity_{which}'], error)})"
    line["worst / best"] = with_error(gap["worst_over_best"], gap["worst_over_best_standard_error"])
    line["gap left"] = percent(gap["gap_left"], gap["gap_left_standard_error"])
    if several:
        line["seeds"] = str(gap["seeds"])
        spread = gap["gap_left_standard_deviation_over_seeds"]
        line["gap left, spread over seeds"] = NOTHING
        if spread is not None:
            text = rounded(100 * spread, 100 * spread)
            line["gap left, spread over seeds"] = text if text == NOT_FINITE else f"{text} %"
    return line


def _gap_sentences(gaps: Sequence[Mapping[str, Any]], study: Study) -> list[str]:
    """Return what each adaptation did to the gap."""
    return [
        f"{gap['model']}, {gap['pattern']}: with {_marked(gap['adaptation'], study)} the gap "
        "between criteria"
        + (f" other than {gap['left_out']} " if gap["left_out"] is not None else " ")
        + f"{_verdict(gap)}."
        for gap in gaps
        if gap["adaptation"] != NONE
    ]


def _marked(adaptation: str, study: Study) -> str:
    """Return the name of an adaptation of a study, marked if need be."""
    on_evaluation = adaptation in study.selected_on_evaluation
    return marked(adaptation, "evaluation" if on_evaluation else None)


def _unequal_sparsities(means: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return where criteria are compared though one pattern made models of unequal sparsity."""
    sparsities: dict[tuple[str, str], list[float]] = {}
    for mean in means:
        if mean["criterion"] != DENSE:
            of_pattern = sparsities.setdefault((mean["model"], mean["pattern"]), [])
            of_pattern.append(mean["sparsity"])
    return [
        f"{model}, {pattern}: the criteria left unequal sparsities, from {100 * min(found):.1f} to "
        f"{100 * max(found):.1f} %: a gap between them is in part one of sparsity."
        for (model, pattern), found in sparsities.items()
        if max(found) - min(found) > UNEQUAL
    ]


def _verdict(gap: Mapping[str, Any]) -> str:
    left, error = gap["gap_left"], gap["gap_left_error"]
    if left is None or error is None:
        return "has nothing to be compared with: the study does not have these criteria without it"
    if not math.isfinite(left) or not math.isfinite(error):
        return "cannot be compared: a loss is not finite, or there was no gap without it"
    share = f"{with_error(left, error)} of what it was without"
    if abs(left - 1) <= CLEAR * error:
        return f"is not clearly smaller or larger: {share}"
    return f"is smaller: {share}" if left < 1 else f"is not smaller but larger: {share}"


def _of_seeds(gaps: Sequence[Mapping[str, Any]]) -> bool:
    """Tell whether anything here is of several seeds."""
    return any(gap["seeds"] > 1 or (gap["gap_left_seeds"] or 1) > 1 for gap in gaps)


def _gap_notes(gaps: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what a reader of the table of gaps has to know."""
    several = _of_seeds(gaps)
    seeds = ", over the seeds that all criteria share" if several else ""
    own = (
        "over windows and, where there are several, seeds together; of few seeds it is itself rough"
        if several
        else "over windows and not over seeds"
    )
    return [
        "Worst / best: of the perplexities; the gap is its logarithm, the difference of the mean "
        f"losses{seeds}.",
        "Gap left: the gap with the adaptation over that without it, of the same criteria and "
        "seeds" + ("; its spread is the standard deviation." if several else "."),
        *(
            ["Where one is left out, it is the criterion that is worst without the adaptation."]
            if any(gap["left_out"] is not None for gap in gaps)
            else []
        ),
        "± in the table is the standard error over windows, of differences window by window; that "
        f"of the sentences is {own}. All take best and worst as given. Smaller, larger: by more "
        f"than {CLEAR:g} standard errors.",
    ]


def _amounts(means: Sequence[Mapping[str, Any]]) -> str:
    """Return how many windows of how many tokens; for each model if models differ."""
    models: dict[str, list[str]] = {}
    for mean in means:
        if mean["criterion"] == DENSE:
            windows, length = mean["windows"], mean["window_length"]
            amount = f"{windows:,} windows of {length:,} tokens ({windows * length:,} tokens)"
            if (stride := mean["window_stride"]) != length:
                amount = (
                    f"{windows:,} windows of {length:,} tokens, one every {stride:,}, of which the "
                    f"last {stride:,} count"
                )
            models.setdefault(amount, []).append(mean["model"])
    if len(models) == 1:
        return next(iter(models))
    return "; ".join(f"{', '.join(names)}: {amount}" for amount, names in models.items())


def _sizes(means: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what each model takes, dense and pruned, and how fast the pruned ones are."""
    notes = []
    for model in dict.fromkeys(mean["model"] for mean in means):
        of_model = [mean for mean in means if mean["model"] == model]
        megabytes = _range([mean["stored_bytes"] / 1e6 for mean in of_model], ",.0f")
        left = _range([mean["nonzero_parameters"] / 1e6 for mean in of_model], ",.1f")
        note = (
            f"{model}: {of_model[0]['parameters']:,} parameters, {left} million of them not zero, "
            f"{megabytes} MB on disk: zeros are stored like other numbers"
        )
        speeds = [mean["tokens_per_second_over_dense"] for mean in of_model]
        if known := [speed for speed in speeds if speed is not None]:
            times = _range(known, ".2f")
            note += f", and multiplied like them: pruned, {times} times the dense tokens a second"
        notes.append(f"{note}.")
    return notes


def _range(values: Sequence[float], form: str) -> str:
    """Return the least and the largest, or the one that all are once they are rounded."""
    least, most = format(min(values), form), format(max(values), form)
    return least if least == most else f"{least} to {most}"


def _origin(text: Mapping[str, Any]) -> str:
    """Return a text's name and where it comes from."""
    origin = {
        "wheel": "`{member}` of the package {package} {version}",
        "hub": "`{member}` of {repository} at {revision:.7}",
        "path": "`{path}`",
        "tokens": "token ids in `{path}`",
    }[text["source"]]
    return f"`{text['name']}` ({origin.format_map(text)})"


def _markdown_table(lines: Sequence[Mapping[str, str]]) -> str:
    """Return a table that reads well as plain text, too."""
    columns = list(lines[0])
    widths = {
        column: max(len(column), *(len(line[column]) for line in lines)) for column in columns
    }

    def joined(fields: Iterable[tuple[str, str]]) -> str:
        padded = (
            field.ljust(widths[column]) if column in WORDS else field.rjust(widths[column])
            for column, field in fields
        )
        return f"| {' | '.join(padded)} |"

    rules = {
        column: "-" * width if column in WORDS else "-" * (width - 1) + ":"
        for column, width in widths.items()
    }
    table = [dict(zip(columns, columns, strict=True)), rules, *lines]
    return "\n".join(joined(line.items()) for line in table)
