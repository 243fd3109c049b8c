"""What `freelunch new` chooses for a model and a text, and why.

Lengths follow from the documents and the model's context, windows from its family, and the number
of cells from what the machine does in about an hour.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from freelunch.core.errors import UserError
from freelunch.costs.jobs import jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.room import lacking_disk, misfits
from freelunch.costs.work import Cost
from freelunch.data.seen_model import SeenModel
from freelunch.data.text_amounts import Amounts
from freelunch.study.families import has_halves, whole_of

# Those of the default study, for which the learning rates were tuned.
_SAMPLES, _LENGTH, _WINDOWS, _WINDOW_LENGTH = 32, 256, 24, 512
_HELD_OUT, _DRIFT = 16, 4
# Shorter sequences say nothing about a model.
_LEAST_LENGTH = 8
# Documents for which one calibration sample leaves enough to hold out.
_MANY_DOCUMENTS = 48
# Seconds on this machine beyond which fewer cells are chosen.
_LONGEST_S = 3600
# Of estimated tokens, how many are counted on.
_SURE = 0.7


@dataclass(frozen=True)
class Choices:
    """The settings of a study that depend on the model, the text and the machine.

    Attributes:
        samples: Sequences of the calibration sample.
        length: Tokens in each.
        why_calibration: Why these.
        held_out: Sequences of held-out text; 0 if the text has no documents to hold out.
        windows: Windows of the perplexity.
        window_length: Tokens in each.
        why_evaluation: Why these.
        criteria: Pruning criteria.
        adaptations: Adaptations that are compared after the first criterion but magnitude.
        why_cells: Why these cells.
    """

    samples: int
    length: int
    why_calibration: str
    held_out: int
    windows: int
    window_length: int
    why_evaluation: str
    criteria: tuple[str, ...] = ("magnitude", "wanda", "sparsegpt")
    adaptations: tuple[str, ...] = ()
    why_cells: str = ""

    def as_study(self, texts: tuple[str, str], model: str) -> dict[str, Any]:
        """Return the `study` block without its name.

        Args:
            texts: The names of the texts for calibration and for evaluation.
            model: The model's name.
        """
        asked = [(self.criteria, ("none", "recon_block"))]
        asked += [(("wanda",), self.adaptations)] if self.adaptations else []
        grids = [
            {
                "models": [model],
                "criteria": list(criteria),
                "patterns": ["u50"],
                "adaptations": list(adaptations),
            }
            for criteria, adaptations in asked
        ]
        perplexity = {
            "text": texts[1],
            "length": self.window_length,
            "windows": self.windows,
        }
        evaluation: dict[str, Any] = {"perplexity": perplexity}
        study: dict[str, Any] = {
            "calibration": {"text": texts[0], "samples": self.samples, "length": self.length},
            "evaluation": evaluation,
        }
        if self.held_out:
            evaluation["drift"] = {"samples": min(_DRIFT, self.held_out)}
            study["selection"] = {"samples": self.held_out}
        return {**study, "grids": grids}


def choose_lengths(model: SeenModel, text: Amounts, evaluated: Amounts, where: str) -> Choices:
    """Return the calibration sample and the windows of the perplexity for a model and its texts.

    Args:
        model: The model.
        text: The calibration text.
        evaluated: The evaluation text.
        where: The text, for messages.

    Raises:
        UserError: A text is too short, or the model's context is.
    """
    samples, length, held_out, why = _calibration(model, text, where)
    windows, window_length = _windows(model, evaluated, where)
    about = "" if evaluated.exact else "about "
    has = f"the text has {about}{evaluated.tokens:,} tokens"
    if not evaluated.complete:
        has = f"the text has more than {evaluated.tokens:,} tokens"
    if model.positions is not None and model.positions == window_length:
        has += f", the model a context of {model.positions}"
    return Choices(samples, length, why, held_out, windows, window_length, has)


def _lengths(longest: int, model: SeenModel) -> Iterator[int]:
    """Yield lengths from the longest that is sensible, each half of the one before."""
    length = min(longest, model.positions or longest)
    while length >= _LEAST_LENGTH:
        yield length
        length //= 2


def _calibration(model: SeenModel, text: Amounts, where: str) -> tuple[int, int, int, str]:
    sure = text if text.exact else replace(text, lengths=[int(_SURE * n) for n in text.lengths])
    lengths = list(_lengths(_LENGTH, model))
    for length in lengths:
        if (count := sure.longer_than(length)) >= _MANY_DOCUMENTS:
            return _SAMPLES, length, _HELD_OUT, f"{count:,} documents are longer than {length}"
    # Few documents: a smaller sample leaves some of them to hold out.
    for length in lengths:
        count = sure.longer_than(length)
        for samples in (_SAMPLES, _SAMPLES // 2, _SAMPLES // 4):
            if count >= 4 and sure.left_after(samples, length, seed=0) >= 2:
                why = f"{count} documents are longer than {length}; this leaves some to hold out"
                return samples, length, _HELD_OUT, why
    for length in lengths:
        # Sequences of one document overlap unless there is room for all of them.
        if sure.longer_than(length) and sure.tokens >= _SAMPLES * length:
            break
    else:
        length = next((each for each in lengths if sure.longer_than(each)), 0)
    if not length:
        raise UserError(
            "the text is too short",
            where=where,
            found=f"documents of at most {max(text.lengths, default=0):,} tokens"
            + (f", and a context of {model.positions}" if not lengths else ""),
            expected=f"one of more than {_LEAST_LENGTH} tokens",
            todo="use a longer text",
        )
    why = f"too few documents of more than {length} tokens to hold some out, so no drift"
    return _SAMPLES, length, 0, why


def _windows(model: SeenModel, text: Amounts, where: str) -> tuple[int, int]:
    """Return the number of windows and their length."""
    tokens = int(text.tokens * (1 if text.exact else _SURE))
    lengths = list(_lengths(_WINDOW_LENGTH, model))
    for enough in (_WINDOWS // 3, 2):
        for length in lengths:
            if tokens // length >= enough:
                return min(_WINDOWS, tokens // length), length
    raise UserError(
        "the text is too short to evaluate on",
        where=where,
        found=f"about {text.tokens:,} tokens",
        expected=f"at least two windows of {_LEAST_LENGTH} tokens, and better some thousands",
        todo="use a longer text",
    )


def choose_cells(
    base: Choices, study_of: Any, model: SeenModel, machine: Machine | None
) -> Choices:
    """Return the criteria and adaptations that fit a model and a machine.

    Args:
        base: The lengths.
        study_of: Function from choices to the study with them.
        model: The model.
        machine: The machine that runs the study; None to choose without one.

    Raises:
        UserError: Not even the smallest study fits the machine.
    """
    whole = whole_of(model.config)
    windows = ["recon_matrix"]
    windows += ["recon_attention_mlp"] if has_halves(model.family, whole) else []
    windows += ["recon_block"]
    windows += ["recon_all"] if model.config.get("num_hidden_layers", 0) > 1 else []
    full = replace(base, adaptations=(*windows, "full"))
    halves = ""
    if "recon_attention_mlp" not in windows:
        halves = (
            f"; no attention_mlp: {whole.because}"
            if whole
            else (
                f"; no attention_mlp: the parts of {model.family} are not in the table of families"
            )
        )
    first = Plan.of(study_of(full), machine.device_bytes if machine else None)
    if machine is None or not first.shapes:
        why = "all windows and a retraining" + halves
        return replace(full, why_cells=why + ("" if machine else "; another machine runs it"))
    left_out = {each.name: each.problem for each in misfits(first, machine)}
    fitting = tuple(name for name in full.adaptations if name not in left_out)
    without = "".join(
        f"; no {name}: it {problem}"
        for name, problem in left_out.items()
        if name in full.adaptations
    )
    smaller = replace(base, criteria=("wanda",))
    rungs = [
        (replace(full, adaptations=fitting), "windows and a retraining" + halves + without),
        (replace(base, criteria=("magnitude", "wanda")), "few cells"),
        (smaller, "one criterion"),
        (
            replace(
                smaller,
                length=max(_LEAST_LENGTH, base.length // 2),
                windows=8 if base.windows > 8 else base.windows,
            ),
            "one criterion and short sequences",
        ),
    ]
    possible: list[tuple[float, Choices]] = []
    problems: list[str] = []
    for choices, why in rungs:
        plan = Plan.of(study_of(choices), machine.device_bytes)
        lacking = lacking_disk(plan)
        problems = [str(each) for each in misfits(plan, machine)]
        problems += [f"the study {lacking}"] if lacking else []
        if problems:
            continue
        seconds = sum((plan.step(*job) or Cost()).seconds(machine) for job in jobs_of(plan.study))
        if why != rungs[0][1]:
            why += ": more would not fit this machine, or take it more than an hour" + halves
        possible.append((seconds, replace(choices, why_cells=why)))
        if seconds <= _LONGEST_S:
            return possible[-1][1]
    if possible:
        return min(possible, key=lambda each: each[0])[1]
    raise UserError(
        "not even a small study of this model fits this machine",
        found="; ".join(problems),
        todo="use a smaller model or a larger machine; `--elsewhere` writes the study for another "
        "machine",
    )
