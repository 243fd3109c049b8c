"""The sections of a study's summary, each a table with notes: all cells, and zero-shot tasks."""

from collections.abc import Iterator, Sequence

from freelunch.analysis.accuracy import MEAN
from freelunch.analysis.doubts import ACCURACY, HELD_OUT_PERPLEXITY, PERPLEXITY, Doubt, told
from freelunch.analysis.pairing import Row, Rows, seed_groups
from freelunch.reporting.cells import MINUS_CONTROL
from freelunch.reporting.formatting import (
    NOTHING,
    Section,
    in_code,
    marked,
    parts_text,
    range_text,
    rounded,
    row_marks,
    shown,
    shown_percent,
    significant,
)
from freelunch.reporting.metrics import METRICS, Metric
from freelunch.reporting.results import Results
from freelunch.study.cell import DENSE, NONE
from freelunch.study.sources import AnyText, Mixture, Wheel
from freelunch.study.steps import JOINED
from freelunch.study.study import Study

CELL = ("model", "criterion", "pattern", "adaptation")
MINUS = "\N{MINUS SIGN}"
SELECTED_ON = {
    "calibration": "held-out calibration text",
    "evaluation": "the evaluation text",
    "probes": "held-out sequences of the sample, by short trainings",
}
_ORIGINS = {
    "wheel": "`{member}` of the package {package} {version}",
    "hub": "`{member}` of {repository} at {revision:.7}",
    "path": "`{path}`",
    "tokens": "token ids in `{path}`",
    "wheel_files": "`{members}` of the package {package} {version}",
}
MINUS_DENSE, MINUS_PRUNED = f"{MINUS} dense", f"{MINUS} pruned"
# The heading of what pruning still costs beside the dense model that had the same training.
MINUS_TRAINED = f"loss {MINUS} dense retrained"
_CONTROLS = (
    f"{MINUS_TRAINED.capitalize()}: in nats per token, beside the dense model with the same "
    "training (the rows without a pattern), which learns the text, too: what pruning still costs. "
    "What learns from the dense model alone is compared with that itself."
)
# The metrics in the table of all cells.
_SHOWN = (PERPLEXITY, HELD_OUT_PERPLEXITY)


def summary_sections(results: Results) -> list[Section]:
    """Return the sections that a study has numbers for; that of all cells comes first."""
    study, means = results.study, results.means
    sections = [cells_section(study, means, results.doubts)]
    if results.tasks:
        lines = task_lines(results.tasks)
        notes = [*told(results.doubts, ACCURACY), *task_notes(results.tasks)]
        sections.append(Section("Zero-shot accuracy", lines, notes, CELL))
    return sections


# --- All cells


def cells_section(study: Study, means: Rows, doubts: Sequence[Doubt] = ()) -> Section:
    """Return the section that shows every cell, its seeds averaged."""
    several = any(mean["seeds"] > 1 for mean in means)
    metrics = [
        metric
        for metric in METRICS
        if metric.summary_heading and any(mean[metric.column] is not None for mean in means)
    ]
    controlled = any(mean["criterion"] == DENSE and mean["adaptation"] != NONE for mean in means)
    lines = [_cell_line(mean, several, controlled, metrics) for mean in means]
    notes = [*told(doubts, *_SHOWN), *_cell_notes(study, means, several, metrics)]
    if controlled:
        notes.append(_CONTROLS)
    return Section("All cells", lines, notes, (*CELL, "adaptation cost"))


def _cell_line(
    mean: Row, several: bool, controlled: bool, metrics: Sequence[Metric]
) -> dict[str, str]:
    line = _names(mean, *_SHOWN)
    line["perplexity"] = shown(mean, "perplexity")
    line["ratio to dense"] = shown(mean, "perplexity_over_dense")
    if controlled:
        line[MINUS_TRAINED] = shown(mean, MINUS_CONTROL)
    if several:
        spread = mean["perplexity_standard_deviation_over_seeds"]
        line["seeds"] = str(mean["seeds"])
        line["spread over seeds"] = NOTHING if spread is None else rounded(spread, spread)
    for metric in metrics:
        line[str(metric.summary_heading)] = metric.shown(mean) or NOTHING
    line["sparsity"] = f"{100 * mean['sparsity']:.1f} %"
    line["adaptation cost"] = NOTHING if mean["adaptation"] == NONE else ", ".join(_costs(mean))
    return line


def _names(row: Row, *metrics: str) -> dict[str, str]:
    if row["criterion"] == DENSE:
        adapted = row["adaptation"]
        row = {**row, "pattern": NOTHING, "adaptation": NOTHING if adapted == NONE else adapted}
    name = marked(row["adaptation"], row.get("selected_on"), row_marks(row, *metrics))
    return {key: row[key] for key in CELL} | {"adaptation": name}


def _costs(mean: Row) -> Iterator[str]:
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


def _cell_notes(
    study: Study, means: Rows, several: bool, metrics: Sequence[Metric]
) -> Iterator[str]:
    if study.is_unfinished:
        yield (
            f"Unfinished: {len(study.cells)} of the {len(study.asked)} cells have finished, and "
            "the numbers of the others may change what is said here."
        )
    name, calibration = study.perplexity.text, study.calibration
    text, sampled = study.text(name), study.text(calibration.text)
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
                "compare numbers on held-out text only between rows with the same seeds."
            )
    else:
        yield f"Seeds: {listed}, one for each cell."
    yield (
        "Sparsity: the share of zeros in the linear layers of all blocks, counted in the "
        "checkpoint that was evaluated."
    )
    yield (
        "Adaptation cost excludes calibration and pruning. It gives the tokens seen (counting "
        "repeats), FLOPs, wall time, and the peak memory of the largest job."
    )


def _amounts(means: Rows) -> str:
    """Return the number and length of the evaluated windows, by model if models differ."""
    models: dict[str, list[str]] = {}
    for mean in means:
        if (mean["criterion"], mean["adaptation"]) == (DENSE, NONE):
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
    for model in dict.fromkeys(mean["model"] for mean in means):
        of_model = [mean for mean in means if mean["model"] == model]
        megabytes = range_text([mean["stored_bytes"] / 1e6 for mean in of_model], ",.0f")
        left = range_text([mean["nonzero_parameters"] / 1e6 for mean in of_model], ",.1f")
        yield (
            f"{model} has {of_model[0]['parameters']:,} parameters, of which {left} million are "
            f"not zero, and takes {megabytes} MB on disk: zeros are stored and multiplied like "
            "other numbers."
        )


def _origin(name: str, text: AnyText) -> str:
    if isinstance(text, Mixture):
        return f"`{name}` ({parts_text(text.parts)})"
    settings = {key: in_code(value) for key, value in text.as_json().items()}
    return f"`{name}` ({_ORIGINS[text.source].format_map(settings)})"


# --- Zero-shot tasks


def task_lines(tasks: Rows) -> list[dict[str, str]]:
    """Return a line for each cell, from column to text."""
    differences = {MINUS_DENSE: "accuracy_minus_dense", MINUS_PRUNED: "accuracy_minus_pruned"}
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for row in tasks:
        names = _names(row, ACCURACY)
        line = lines.setdefault(tuple(names.values()), names)
        line[row["task"]] = shown_percent(row, "accuracy")
        if row["task"] == MEAN:
            # In points, so without the sign of percent.
            line |= {
                column: shown_percent(row, key).removesuffix(" %")
                for column, key in differences.items()
            }
    return list(lines.values())


def task_notes(tasks: Rows) -> Iterator[str]:
    """Yield the notes below the table: the documents, and the meaning of the numbers."""
    asked: dict[str, tuple[int, int]] = {}
    for row in tasks:
        if row["task"] != MEAN:
            asked[row["task"]] = row["documents"], row["documents_in_all"]
    of_each = ", ".join(
        f"{task} {count:,}" if count == whole else f"{task} {count:,} of {whole:,}"
        for task, (count, whole) in asked.items()
    )
    yield f"Documents of each task, the same for all cells: {of_each}."
    chances = dict.fromkeys(f"{row['task']} {100 * row['chance']:.1f} %" for row in tasks)
    yield f"Chance, the accuracy of guessing: {', '.join(chances)}."
    # All cells of a model have the same documents and tokenizer, so they truncate the same.
    truncated = {row["model"]: row for row in tasks if row["truncated_requests"]}
    for model, row in truncated.items():
        yield (
            f"{model}: {row['truncated_requests']:,} requests were longer than the model's "
            f"context; {row['truncated_tokens']:,} tokens at their beginnings were dropped."
        )
    yield (
        "Accuracy: the share of documents whose correct choice has the highest log-likelihood "
        "(lm-eval's `acc`, without examples); mean: the plain mean over tasks. ± is the standard "
        "error over documents. Differences are paired, document by document, in percentage points."
    )
