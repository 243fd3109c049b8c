"""The summary of a study for people: a Markdown table, and what one has to know to read it.

Only words and rounding; the numbers come from freelunch.tables.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from freelunch.cell import DENSE, NONE
from freelunch.study import Study

NOT_FINITE = "not finite"
NOTHING = "-"
# Columns of words; the others hold numbers and are set to the right.
WORDS = ("model", "criterion", "pattern", "adaptation", "adaptation cost")


def summary_text(study: Study, means: Sequence[Mapping[str, Any]]) -> str:
    """Return the summary as Markdown.

    Args:
        study: For the texts, the calibration and the seeds.
        means: As `freelunch.tables.means_over_seeds` returns them.
    """
    several = any(mean["seeds"] > 1 for mean in means)
    lines = [_line(mean, several) for mean in means]
    notes = "\n".join(f"- {note}" for note in _notes(study, means, several))
    return f"{_markdown_table(lines)}\n\n{notes}\n"


def _line(mean: Mapping[str, Any], several: bool) -> dict[str, str]:
    """Return one line of the table, from column to text."""
    line = {column: mean[column] for column in ("model", "criterion", "pattern", "adaptation")}
    if mean["criterion"] == DENSE:
        line |= {"pattern": NOTHING, "adaptation": NOTHING}
    line["perplexity"] = _with_error(mean["perplexity"], mean["perplexity_standard_error"])
    line["ratio to dense"] = _with_error(
        mean["perplexity_over_dense"], mean["perplexity_over_dense_standard_error"]
    )
    if several:
        spread = mean["perplexity_standard_deviation_over_seeds"]
        line["seeds"] = str(mean["seeds"])
        line["spread over seeds"] = NOTHING if spread is None else _rounded(spread, spread)
    line["sparsity"] = f"{100 * mean['sparsity']:.1f} %"
    line["adaptation cost"] = NOTHING if mean["adaptation"] == NONE else _cost(mean)
    return line


def _with_error(value: float | None, error: float | None) -> str:
    if value is None or error is None:
        return NOTHING
    if not math.isfinite(value):
        return NOT_FINITE
    return f"{_rounded(value, error)} ± {_rounded(error, error)}"


def _rounded(value: float, error: float) -> str:
    """Return a number with as many decimals as two significant digits of its error have."""
    if not math.isfinite(value):
        return NOT_FINITE
    decimals = 1 - math.floor(math.log10(error)) if error > 0 else 2
    return f"{value:,.{min(max(decimals, 0), 6)}f}"


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
    if kept := mean["adaptation_windows_kept_pruned"]:
        words.append(f"{kept} of {mean['adaptation_windows']} windows no better than pruned")
    return ", ".join(words)


def _notes(study: Study, means: Sequence[Mapping[str, Any]], several: bool) -> list[str]:
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
    notes += [
        "Ratio to dense: of the perplexities; its error is that of the paired differences, window "
        "by window.",
        f"Calibration on {_origin(calibration['text'])}: {calibration['samples']:,} sequences of "
        f"{calibration['length']:,} tokens.",
        f"Means over seeds (of {listed}); the spread is the perplexity's standard deviation."
        if several
        else f"Seeds: {listed}, one for each cell.",
        "Sparsity: share of zeros in the linear layers of all blocks, counted in the checkpoint "
        "that was evaluated.",
        "Adaptation cost, without calibration and pruning: tokens passed (repetitions counted), "
        "floating-point operations, wall time, largest memory of a job.",
    ]
    return notes


def _amounts(means: Sequence[Mapping[str, Any]]) -> str:
    """Return how many windows of how many tokens; for each model if models differ."""
    models: dict[str, list[str]] = {}
    for mean in means:
        if mean["criterion"] == DENSE:
            windows, length = mean["windows"], mean["window_length"]
            amount = f"{windows:,} windows of {length:,} tokens ({windows * length:,} tokens)"
            models.setdefault(amount, []).append(mean["model"])
    if len(models) == 1:
        return next(iter(models))
    return "; ".join(f"{', '.join(names)}: {amount}" for amount, names in models.items())


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
