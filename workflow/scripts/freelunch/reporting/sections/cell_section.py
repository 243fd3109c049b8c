"""The section of the summary that shows every cell, its seeds averaged."""

from collections.abc import Iterator, Sequence

from freelunch.analysis.pairing import Row, Rows, seed_groups
from freelunch.reporting.formatting import (
    NOTHING,
    adaptation_name,
    parts_text,
    range_text,
    rounded,
    shown,
    significant,
)
from freelunch.reporting.metrics import METRICS, Metric
from freelunch.reporting.summary import Section
from freelunch.study.cell import DENSE, NONE
from freelunch.study.sources import AnyText, Mixture, Wheel
from freelunch.study.steps import JOINED
from freelunch.study.study import Study

WORDS = ("model", "criterion", "pattern", "adaptation", "adaptation cost")
SELECTED_ON = {"calibration": "held-out calibration text", "evaluation": "the evaluation text"}
_ORIGINS = {
    "wheel": "`{member}` of the package {package} {version}",
    "hub": "`{member}` of {repository} at {revision:.7}",
    "path": "`{path}`",
    "tokens": "token ids in `{path}`",
    "wheel_files": "`{members}` of the package {package} {version}",
}


def cells_section(study: Study, means: Rows) -> Section:
    """Return the section."""
    several = any(mean["seeds"] > 1 for mean in means)
    metrics = [
        metric
        for metric in METRICS
        if metric.summary_heading and any(mean[metric.column] is not None for mean in means)
    ]
    lines = [_line(mean, several, metrics) for mean in means]
    return Section("cells", "All cells", lines, list(_notes(study, means, several, metrics)), WORDS)


def _line(mean: Row, several: bool, metrics: Sequence[Metric]) -> dict[str, str]:
    """Return one line of the table, from column to text."""
    line = {column: mean[column] for column in ("model", "criterion", "pattern", "adaptation")}
    line["adaptation"] = adaptation_name(mean)
    if mean["criterion"] == DENSE:
        line |= {"pattern": NOTHING, "adaptation": NOTHING}
    line["perplexity"] = shown(mean, "perplexity")
    line["ratio to dense"] = shown(mean, "perplexity_over_dense")
    if several:
        spread = mean["perplexity_standard_deviation_over_seeds"]
        line["seeds"] = str(mean["seeds"])
        line["spread over seeds"] = NOTHING if spread is None else rounded(spread, spread)
    for metric in metrics:
        line[str(metric.summary_heading)] = metric.shown(mean) or NOTHING
    line["sparsity"] = f"{100 * mean['sparsity']:.1f} %"
    line["adaptation cost"] = NOTHING if mean["adaptation"] == NONE else ", ".join(_costs(mean))
    return line


def _costs(mean: Row) -> Iterator[str]:
    """Yield what an adaptation cost, and what went wrong with it."""
    if (tokens := mean["adaptation_tokens"]) is not None:
        yield f"{tokens:,.0f} tokens"
    if (flops := mean["adaptation_flops"]) is not None:
        yield f"{significant(flops / 1e12, 3)} TFLOP"
    if (seconds := mean["adaptation_wall_s"]) is not None:
        yield f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:,.1f} min"
    if (peak_bytes := mean["adaptation_peak_bytes"]) is not None:
        yield f"{peak_bytes / 1e9:.2f} GB"
    if mean["selected_on"]:
        yield f"{mean['choices']} chosen on {SELECTED_ON[mean['selected_on']]}"
        yield f"{significant((mean['search_flops'] or 0) / 1e12, 3)} TFLOP for the search"
    if kept := mean["adaptation_windows_kept_pruned"]:
        yield f"{kept} of {mean['adaptation_windows']} windows no better than pruned"
    if worse := mean["adaptation_windows_worse"]:
        of_seeds = f" with {worse} of {mean['seeds']} seeds" if mean["seeds"] > 1 else ""
        yield f"its own loss rose{of_seeds}"


def _notes(study: Study, means: Rows, several: bool, metrics: Sequence[Metric]) -> Iterator[str]:
    """Yield the notes below the table: texts, amounts, seeds, and the meaning of an error."""
    if study.is_unfinished:
        yield (
            f"Unfinished: {len(study.cells)} of the {len(study.asked)} cells have finished, and "
            "the numbers of the others may change what is said here."
        )
    name, calibration = study.perplexity.text, study.calibration
    text = study.text(name)
    error = (
        "windows, taken as independent. Neighbouring windows are not quite independent, so it is "
        "somewhat too small; the intervals of the audit allow for that."
        if study.perplexity.cut == JOINED
        else "windows, clustered by document."
    )
    yield (
        f"Perplexity on {_origin(name, text)}: {_amounts(means)}. ± is the standard error over "
        f"{error}"
    )
    if isinstance(text, Wheel):
        yield (
            f"These perplexities are on `{name}`, not on WikiText-2: compare them with "
            "each other, not with published ones."
        )
    yield from (metric.note(study) for metric in metrics if metric.note)
    yield from _sizes(means)
    yield (
        "Ratio to dense: the perplexity divided by that of the dense model. Its error comes from "
        "the differences between the two, window by window."
    )
    sampled = study.text(calibration.text)
    yield (
        f"Calibration on {_origin(calibration.text, sampled)}: {calibration.samples:,} sequences "
        f"of {study.sequence_text} tokens."
    )
    seeds = sorted({cell.seed for cell in study.cells if not cell.is_dense})
    listed = ", ".join(str(seed) for seed in seeds)
    if several:
        yield (
            f"Numbers are means over seeds ({listed}); the spread is the standard deviation of the "
            "perplexity over them."
        )
        rows = [of_seeds for of_seeds in seed_groups(study.cells) if not of_seeds[0].is_dense]
        if len({frozenset(cell.seed for cell in of_seeds) for of_seeds in rows}) > 1:
            yield (
                "Rows differ in their seeds. Samples and held-out text differ with the seed, so "
                "compare drift and held-out perplexity only between rows with the same seeds."
            )
    else:
        yield f"Seeds: {listed}, one for each cell."
    yield (
        "Sparsity: the share of zeros in the linear layers of all blocks, counted in the "
        "checkpoint that was evaluated."
    )
    yield (
        "Adaptation cost excludes calibration and pruning. It gives the tokens seen (counting "
        "repeats), floating-point operations, wall time, and the peak memory of the largest job."
    )


def _amounts(means: Rows) -> str:
    """Return the number and length of the evaluated windows, by model if models differ."""
    models: dict[str, list[str]] = {}
    for mean in means:
        if mean["criterion"] == DENSE:
            windows, length, stride = (
                mean[key] for key in ("windows", "window_length", "window_stride")
            )
            amount = f"{windows:,} windows of {length:,} tokens"
            if stride == length:
                amount += f" ({windows * length:,} tokens)"
            else:
                amount += (
                    f", one every {stride:,} tokens; the last {stride:,} tokens of each are scored"
                )
            models.setdefault(amount, []).append(mean["model"])
    if len(models) == 1:
        return next(iter(models))
    return "; ".join(f"{', '.join(names)}: {amount}" for amount, names in models.items())


def _sizes(means: Rows) -> Iterator[str]:
    """Yield the size of each model, dense and pruned, and the speed of the pruned ones."""
    for model in dict.fromkeys(mean["model"] for mean in means):
        of_model = [mean for mean in means if mean["model"] == model]
        megabytes = range_text([mean["stored_bytes"] / 1e6 for mean in of_model], ",.0f")
        left = range_text([mean["nonzero_parameters"] / 1e6 for mean in of_model], ",.1f")
        note = (
            f"{model} has {of_model[0]['parameters']:,} parameters, of which {left} million are "
            f"not zero, and takes {megabytes} MB on disk: zeros are stored like other numbers."
        )
        speeds = (mean["tokens_per_second_over_dense"] for mean in of_model)
        if known := [speed for speed in speeds if speed is not None]:
            note += (
                f" Zeros are also multiplied like other numbers: pruned, it processes "
                f"{range_text(known, '.2f')} times as many tokens per second as the dense model."
            )
        yield note


def _origin(name: str, text: AnyText) -> str:
    """Return the name of a text and where it comes from."""
    if isinstance(text, Mixture):
        return f"`{name}` ({parts_text(text.parts)})"
    return f"`{name}` ({_ORIGINS[text.source].format_map(text.as_json())})"
