"""The page with what `anchors.py` found: docs/results/anchors.md."""

import math
import os
import statistics
import subprocess
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import NamedTuple

from freelunch.core.job import processor_name
from freelunch.study.cell import Cell
from freelunch.study.study import Study

WIDTH = 119
# The criteria that both have.
SHARED = ("wanda", "sparsegpt")
HEADS = (
    *("criterion", "pattern", "statistics", "mask entries in common", "weights that differ"),
    *("perplexity: llm-compressor", "ours", "seconds: llm-compressor", "ours"),
    *("processor seconds: llm-compressor", "ours"),
)
BEGINNING = """
`make anchors` prunes {model} with
[llm-compressor](https://github.com/vllm-project/llm-compressor) and with this workflow, on the
same {samples} sequences of {length} tokens, and compares what they make. Both start from the
dense checkpoint and the token ids on disk, and end with the pruned model on disk. The seconds
include the start of all processes. Ours include Snakemake and, in each row, a dense pass for
that row alone. Each row is one run of each tool, one after the other.
"""
MEANING = """
With `dense` statistics, the inputs of all matrices are those of the dense model
(llm-compressor's pipeline `basic`). With `sparse`, each block sees the outputs of the pruned
blocks before it (its pipeline `sequential`, its default). A weight differs if only one of the
two prunes it. Both perplexities come from one function, on {windows} windows of {window} tokens
of Wikipedia. llm-compressor gets batches of 8 sequences (its default is one), as many tokens as
our batches have, and `ignore: re:.*lm_head`, without which it prunes the output head.
"""
REORDERED = """
With sparse statistics, rounding alone changes masks: a weight near the threshold may fall on the
other side, and then all later blocks get different inputs. The same {samples} sequences in another
order have sums that differ only by rounding. We pruned with them in other orders, too:
"""
UNEXPLAINED = """
The order changes only sums. llm-compressor's passes round differently, too: it has another version
of transformers. Where its masks differ from ours more than our own orders differ from each other,
that may be the reason; we have not checked.
"""
SWEEP = """
Four criteria (magnitude, Wanda, RIA, SparseGPT) by four patterns (`u50`, `u60`, `2of4`, `4of8`)
take this workflow {our_wall:.0f} s and {our_cpu:.0f} processor seconds, with one dense pass for all
of them (median of {runs} runs, {least:.0f} to {most:.0f} s). Of these {all_masks} masks,
llm-compressor can make the {shared} by Wanda and SparseGPT. These take it {wall:.0f} s and
{cpu:.0f} processor seconds: {times:.1f} and {cpu_times:.1f} times as much as our {all_masks}. Our
masks share one dense pass, and the jobs of a sweep read each block once and factorise each matrix
once for each core, whatever the number of masks. Each mask still has a job of its own, so a study
that adds a pattern makes only the new masks.
"""


class Spent(NamedTuple):
    """Seconds of wall-clock time and of all processors."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class Compared:
    """A cell that both made, how many weights its pruned matrices have, and how many of them only
    one of the two prunes; the perplexities of both and what both spent, llm-compressor's first;
    and for each other order of the calibration sequences, how many weights only one of our two
    results prunes, and the perplexity.
    """

    cell: Cell
    weights: int
    differ: int
    perplexities: tuple[float, float]
    spent: tuple[Spent, Spent]
    reordered: Sequence[tuple[int, float]] = ()

    @property
    def method(self) -> tuple[str, str]:
        criterion, _, statistics = self.cell.criterion.partition("_")
        return criterion, statistics or "dense"


def page(
    study: Study,
    compared: Sequence[Compared],
    sweeps: Sequence[Spent],
    windows: tuple[int, ...],
    cores: int,
    theirs: Mapping[str, str],
) -> str:
    """Return the page on cells that both made and on runs of our sweep, with how many windows of
    how many tokens the perplexities are of, the cores that each might use, and versions of
    llm-compressor and of packages beside it.
    """
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    beginning = BEGINNING.format(
        model=compared[0].cell.model,
        samples=study.calibration.samples,
        length=study.calibration_of(compared[0].cell.model).length,
    )
    lines = [
        "<!-- `make anchors` writes this page. -->",
        "# Beside llm-compressor",
        *("", _filled(beginning), ""),
        *(_filled(" ".join(findings(compared))), ""),
        *table(compared),
        *("", _filled(MEANING.format(windows=windows[0], window=windows[1])), ""),
        *_reordered(study, compared),
        *("## A sweep", "", sweep_text(study, compared, sweeps), ""),
        *("## Made with", ""),
        f"- {datetime.now(UTC).date().isoformat()}, commit {commit}",
        f"- {processor_name()}, {os.cpu_count()} cores, of which each tool used {cores}; "
        f"load average of the last 15 minutes: {os.getloadavg()[2]:.1f} (if it is above the "
        "number of cores, other work slowed both, and processor seconds say more than seconds)",
        f"- llm-compressor {theirs['llmcompressor']}, torch {theirs['torch']}, transformers "
        f"{theirs['transformers']}, in an environment of its own (`envs/anchors.txt`)",
        f"- ours: torch {version('torch')}, transformers {version('transformers')}",
    ]
    return "\n".join(lines) + "\n"


def findings(compared: Sequence[Compared]) -> Iterator[str]:
    """Yield in a sentence for each kind of statistics how far the two agree."""
    for statistics_of in ("dense", "sparse"):
        cells = [it for it in compared if it.method[1] == statistics_of]
        if cells:
            least = min(1 - it.differ / it.weights for it in cells)
            ratios = (ours / theirs for theirs, ours in (it.perplexities for it in cells))
            apart = max(abs(ratio - 1) for ratio in ratios)
            # Rounded away from each other, so that the sentence is true as it stands.
            yield (
                f"With {statistics_of} statistics, the two agree in at least "
                f"{math.floor(least * 1e4) / 1e2:.2f} % of a mask's entries, and perplexities "
                f"differ by at most {math.ceil(apart * 1e4) / 1e2:.2f} %."
            )


def table(compared: Sequence[Compared]) -> Iterator[str]:
    yield f"| {' | '.join(HEADS)} |"
    yield f"|{'---|' * 3}{'--:|' * (len(HEADS) - 3)}"
    yield from map(row, compared)


def row(it: Compared) -> str:
    criterion, of_model = it.method
    cells = [
        *(criterion, f"`{it.cell.pattern}`", of_model),
        _common(it.differ, it.weights),
        f"{it.differ:,}",
        *(f"{value:.3f}" for value in it.perplexities),
        *(f"{each.wall:.1f}" for each in it.spent),
        *(f"{each.cpu:.1f}" for each in it.spent),
    ]
    return f"| {' | '.join(cells)} |"


def _reordered(study: Study, compared: Sequence[Compared]) -> Iterator[str]:
    again = [it for it in compared if it.reordered]
    if not again:
        return
    yield from ("## What rounding alone changes", "")
    yield from (_filled(REORDERED.format(samples=study.calibration.samples)), "")
    heads = ("in common with order 1", "perplexity: ours", "order 1", "llm-compressor")
    yield f"| criterion | pattern | order | {' | '.join(heads)} |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for it in again:
        for order, (differ, perplexity) in enumerate(it.reordered, 2):
            cells = [
                *(it.method[0], f"`{it.cell.pattern}`", f"{order}", _common(differ, it.weights)),
                *(f"{value:.3f}" for value in (perplexity, *reversed(it.perplexities))),
            ]
            yield f"| {' | '.join(cells)} |"
    yield from ("", _filled(UNEXPLAINED), "")


def _common(differ: int, weights: int) -> str:
    return f"{100 * (1 - differ / weights):.3f} %"


def sweep_text(study: Study, compared: Sequence[Compared], sweeps: Sequence[Spent]) -> str:
    theirs = [it.spent[0] for it in compared if it.method[1] == "dense"]
    wall, cpu = map(sum, zip(*theirs, strict=True))
    our_wall, our_cpu = map(statistics.median, zip(*sweeps, strict=True))
    swept = in_sweep(study)
    text = SWEEP.format(
        our_wall=our_wall,
        our_cpu=our_cpu,
        runs=len(sweeps),
        least=min(sweeps).wall,
        most=max(sweeps).wall,
        all_masks=len(swept),
        shared=len(theirs),
        wall=wall,
        cpu=cpu,
        times=wall / our_wall,
        cpu_times=cpu / our_cpu,
    )
    return _filled(text)


def in_sweep(study: Study) -> list[Cell]:
    """Return the cells of the sweep: those that one dense pass serves."""
    pruned = (cell for cell in study.cells if not cell.is_dense)
    return [cell for cell in pruned if study.criterion(cell.criterion).statistics == "dense"]


def _filled(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_on_hyphens=False)
