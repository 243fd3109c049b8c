"""What makes a number no finding: it says more of the setup than of the method.

Each cell is judged by its own record, those of its dense model, and its answers to tasks. Tables,
the page and the terminal mark what is doubted, and no verdict stands on it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from freelunch.analysis.accuracy import MEAN, accuracies, guessing
from freelunch.analysis.intervals import half_width
from freelunch.analysis.pairing import Records, Row, Rows, exp, paired_losses, unit_losses
from freelunch.core.errors import first_of
from freelunch.records.read import load_answers
from freelunch.records.record import Record, adaptation_facts
from freelunch.study.cell import Cell
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import PROBES, chosen_of
from freelunch.study.steps import JOINED

PERPLEXITY, HELD_OUT_PERPLEXITY, ACCURACY = "perplexity", "held_out_perplexity", "accuracy"
BELOW, LEARNT = "below its dense model", "learnt the text"
NO_RATE = "no learning rate helped its short trainings"
EDGE = "best learning rate at an end of those tried"
KEPT, NO_FALL = "many windows kept as pruned", "its own loss did not fall"
HALVED, LOWER = "half the perplexity with another beginning", "better with another beginning"
GUESSED = "accuracy at chance"
_RATE = "The learning rate does not fit: search for it, the lower rates first."
_TODO = {
    BELOW: "Pruning repairs no sound model: look at the dense perplexity, the tokenizer, and how "
    "sequences begin (`bos`).",
    LEARNT: "Retraining also learns text of the kind that it is measured on, of which the dense "
    "model knows less, so its recovery is above 100 % and is no measure of repair: compare it on "
    "another text, or beside a distilled one, which learns from the dense model alone.",
    KEPT: _RATE,
    NO_FALL: _RATE,
    NO_RATE: "Short trainings could not find its learning rate: list some, so that whole trainings "
    "choose, or train on more text.",
    EDGE: "Try further ones: the best one may be beyond.",
    HALVED: "Remove `bos` from the model's entry, or set it to the other choice.",
    LOWER: "Compare a study with the other choice of `bos`.",
    GUESSED: "Ask more documents or easier tasks; this accuracy says nothing about the method.",
}
# These are about all cells of the model.
_OF_MODEL = (HALVED, LOWER)
# What might be better, but says what it says.
_HINTS = (LOWER, EDGE)
# A lower loss by as much is no effect of a text or a method: half the perplexity.
FAR = math.log(2)
# A rate that leaves a larger share of windows pruned does not fit. Rates that fit left at most 6 of
# 30 windows of SmolLM2, whose perplexity fell by a seventh. Three times Gemma's left 8 of 18, and
# it fell by 1 %. Ten times SmolLM2's left 12 of the first 15, and twenty times left all of them.
MANY = 1 / 3
# Standard errors of a clear difference.
CLEAR = 1.96


@dataclass(frozen=True)
class Doubt:
    """Why numbers of a cell are no finding.

    Attributes:
        cell: The cell; its dense model for what is about all cells of a model.
        kind: What is the matter, in a few words, to mark a number with.
        metric: The metric whose numbers are meant; None for all.
        words: What was seen, with numbers.
        todo: What it means, and what to do.
    """

    cell: str
    kind: str
    metric: str | None
    words: str
    todo: str

    @cached_property
    def _place(self) -> Row:
        names = vars(Cell.parse(self.cell))
        return {"model": names["model"]} if self.kind in _OF_MODEL else names

    def is_about(self, row: Row, *metrics: str) -> bool:
        """Return whether a row of a table is of its cell, as far as the row names one; with
        `metrics`, only if it is about one of these.
        """
        meant = not metrics or self.metric is None or self.metric in metrics
        return meant and all(row.get(key, value) == value for key, value in self._place.items())

    @property
    def mark(self) -> str:
        """Return what marks the numbers that are meant."""
        where = " held out" if self.metric == HELD_OUT_PERPLEXITY else ""
        return self.kind if self.kind in _HINTS else f"no finding{where}: {self.kind}"

    def __str__(self) -> str:
        return f"{self.cell}: {self.words}"


def find_doubts(records: Records, folder: Path) -> list[Doubt]:
    """Return all that makes numbers of a study no finding. The folder of the records has the
    answers to tasks beside them.
    """
    return [
        Doubt(str(cell), kind, metric, words, _TODO[kind])
        for cell, record in records.items()
        for kind, metric, words in _of_cell(cell, record, records, folder)
    ]


def doubted(rows: Rows, doubts: Sequence[Doubt]) -> list[Row]:
    """Return rows with the `doubts` about their cells, and with their `marks` in words."""
    marked = []
    for row in rows:
        of_row = [doubt for doubt in doubts if doubt.is_about(row)]
        marks = dict.fromkeys(doubt.mark for doubt in of_row)
        marked.append({**row, "doubts": of_row, "marks": "; ".join(marks) or None})
    return marked


def unsettled_by(doubts: Iterable[Doubt], cells: Iterable[Cell], metric: str) -> list[Doubt]:
    """Return the doubts for which a number that compares cells in a metric decides nothing.

    An accuracy at chance leaves a comparison nothing only if all of its pruned cells have one.
    """
    compared = list(dict.fromkeys(cells))
    about = [
        doubt
        for doubt in doubts
        if doubt.kind not in _HINTS and any(doubt.is_about(vars(cell), metric) for cell in compared)
    ]
    guessed = {doubt.cell for doubt in about if doubt.kind == GUESSED}
    if all(str(cell) in guessed for cell in compared if not cell.is_dense):
        return about
    return [doubt for doubt in about if doubt.kind != GUESSED]


def told(doubts: Sequence[Doubt], *metrics: str) -> Iterator[str]:
    """Yield a paragraph for each kind of doubts: the cells, what was seen, and what to do; with
    `metrics`, of those that are about one of these.
    """
    meant = [doubt for doubt in doubts if doubt.is_about({}, *metrics)]
    for mark in dict.fromkeys(doubt.mark for doubt in meant):
        these = [doubt for doubt in meant if doubt.mark == mark]
        yield f"{mark[0].upper()}{mark[1:]}. {'; '.join(first_of(these))}. {these[0].todo}"


# What is the matter with a cell: the kind, the metric, and the words.
_Found = Iterator[tuple[str, str | None, str]]


def _of_cell(cell: Cell, record: Record, records: Records, folder: Path) -> _Found:
    provenance: Mapping[str, Any] = record["provenance"]
    if cell.is_dense:
        yield from _beginning(provenance.get("bos"))
    elif cell.is_pruned:
        yield from _below_dense(cell, record, records)
    if record["adaptation"]:
        yield from _training(record)
    if record["metrics"].get("tasks"):
        answers = load_answers(folder / cell.record_name)
        shares, guesses = accuracies(answers), guessing(answers)
        excess = {task: shares[task] - chance for task, (chance, _) in guesses.items()}
        above = [task for task in excess if excess[task] > CLEAR * guesses[task][1]]
        if MEAN not in above:
            chance, error = (100 * each for each in guesses[MEAN])
            words = f"accuracy {100 * shares[MEAN]:.1f} %, where guessing has {chance:.1f} ± "
            but = f", and is clearly better only on {', '.join(above)}" if above else ""
            yield GUESSED, ACCURACY, f"{words}{error:.1f} %{but}"


def _below_dense(cell: Cell, record: Record, records: Records) -> _Found:
    """Yield the texts on which a pruned model is clearly below its dense one, or by half.

    Retraining on text of the same kind as it is measured on may really be: with 1.6 million tokens
    of a mixture, `full` had 0.75 times the dense perplexity on other documents of it. What does
    not learn from the text, or not from that kind of text, has no such reason.
    """
    evaluated = record["spec"]["evaluation"]["perplexity"]
    texts = [(PERPLEXITY, paired_losses(cell, records), evaluated.get("cut") == JOINED)]
    if drift := record["metrics"].get("drift"):
        pair = unit_losses(drift), unit_losses(drift["dense"])
        texts.append((HELD_OUT_PERPLEXITY, pair, False))
    settings = record["spec"].get("adaptation")
    entry = read_adaptation(settings) if settings else None
    learns = entry is not None and entry.learns_text
    for metric, (losses, dense), neighbours in texts:
        differences = np.array(losses) - np.array(dense)
        lower = -float(differences.mean())
        # Too few windows have no interval.
        if not (lower > half_width(differences, neighbours) or lower > FAR):
            continue
        text, own_kind = "held-out calibration text", True
        if metric == PERPLEXITY:
            text = f"`{evaluated['text']['name']}`"
            sampled = record["spec"]["calibration"]["text"]
            own_kind = not _origins(sampled).isdisjoint(_origins(evaluated["text"]))
        kind = LEARNT if learns and own_kind and lower <= FAR else BELOW
        own, dense_own = (exp(float(np.mean(each))) for each in (losses, dense))
        words = f"perplexity {own:.1f} on {text}, where the dense model has {dense_own:.1f}"
        yield kind, metric, words


def _origins(text: Mapping[str, Any]) -> set[str]:
    """Return the names of a text and its parts, and their repositories: parts of one, such as two
    splits, are of one kind.
    """
    entries = {text["name"]: text, **text.get("parts", {})}
    return {*entries, *(each["repository"] for each in entries.values() if "repository" in each)}


def _training(record: Record) -> _Found:
    facts = adaptation_facts(record)
    losses, choice = facts["losses"].values(), facts["choice"]
    if choice:
        tried, chosen = choice["candidates"].values(), chosen_of(choice, {})
        shares = [each.get("relative_loss") for each in tried]
        rates = [each["learning_rate"] for each in tried]
        lowest, highest = min(rates), max(rates)
        if choice["selected_on"] == PROBES and all(share is None or share >= 1 for share in shares):
            yield NO_RATE, None, f"none of {len(shares)} learning rates lowered the loss"
        elif lowest < highest and chosen["learning_rate"] in (lowest, highest):
            end = "lowest" if chosen["learning_rate"] == lowest else "highest"
            yield EDGE, None, f"{chosen['learning_rate']:g} is the {end} that was tried"
    settings = read_adaptation(record["spec"]["adaptation"] or {})
    if getattr(settings, "skip", None):
        # The losses are on the text that it skips, which the adaptation before it was trained on.
        return
    stuck = sum(not loss["after"] < loss["before"] for loss in losses)
    if settings.is_retraining:
        if stuck:
            (loss,) = losses
            ends = f"from {loss['before']:.3f} to {loss['after']:.3f} nats"
            yield NO_FALL, None, f"its loss went {ends} on sequences that it was trained on"
    elif stuck > MANY * len(losses):
        yield KEPT, None, f"{stuck} of {len(losses)} windows kept their pruned weights"


def _beginning(bos: Mapping[str, Any] | None) -> _Found:
    """Yield that the dense model is better if sequences begin the other way than they do."""
    if bos is None or None in (bos["loss_without"], bos["loss_with"]):
        return
    used, other = (bos[key] for key in ("loss_without", "loss_with")[:: -1 if bos["used"] else 1])
    how = f"{'without' if bos['used'] else 'with'} `{bos['token']}` before each sequence"
    words = f"the dense perplexity on calibration text is {exp(used):.1f}, and {exp(other):.1f} "
    if used - other > FAR:
        yield HALVED, None, words + how
    elif bos["standard_error"] is not None and used - other > CLEAR * bos["standard_error"]:
        yield LOWER, None, words + how
