"""What `freelunch new` chooses: the settings, and the lengths that fit a model and its texts.

`cli.cell_choices` chooses the cells.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from freelunch.core.errors import UserError
from freelunch.data.inspect_model import InspectedModel
from freelunch.data.inspect_text import Amounts
from freelunch.study.steps import JOINED, WITHIN

# The settings of the default study, for which the learning rates were tuned.
_SAMPLES, _LENGTH, _WINDOWS, _WINDOW_LENGTH = 32, 256, 48, 256
_HELD_OUT = 16
# Sequences of a sample, the preferred number first.
_SIZES = _SAMPLES, _SAMPLES // 2, _SAMPLES // 4
# The fewest documents that windows are drawn from, one from each, and the fewest windows of joined
# documents that have an interval.
_FEWEST_DOCUMENTS, _FEWEST_WINDOWS = 24, 8
# Shorter sequences say nothing about a model.
LEAST_LENGTH = 8
# Documents for which one calibration sample leaves enough to hold out.
_MANY_DOCUMENTS = 48
# The share of estimated tokens that is relied on.
_SURE = 0.7


@dataclass(frozen=True)
class Choices:
    """The settings of a study that depend on the model, the texts and the machine.

    Attributes:
        samples: Sequences of the calibration sample.
        length: Tokens in each.
        why_calibration: Why these samples and this length.
        held_out: Sequences of held-out text; 0 if the text has no documents to hold out.
        windows: Windows of the perplexity.
        window_length: Tokens in each.
        cut: How the evaluation text is cut, as in a study.
        why_evaluation: Why these windows, this length and this cut.
        criteria: Pruning criteria.
        adaptations: Adaptations that are compared for Wanda.
        why_cells: Why these cells.
    """

    samples: int
    length: int
    why_calibration: str
    held_out: int
    windows: int
    window_length: int
    cut: str
    why_evaluation: str
    criteria: tuple[str, ...] = ("magnitude", "wanda", "ria", "sparsegpt")
    adaptations: tuple[str, ...] = ()
    why_cells: str = ""

    def as_study(self, texts: tuple[str, str], model: str) -> dict[str, Any]:
        """Return the `study` block without its name.

        Args:
            texts: The names of the texts for calibration and for evaluation.
            model: The model's name.
        """
        asked: list[tuple[tuple[str, ...], ...]] = [(self.criteria, ("none", "recon_block"))]
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
            **({} if self.cut == WITHIN else {"cut": self.cut}),
        }
        evaluation: dict[str, Any] = {"perplexity": perplexity}
        study: dict[str, Any] = {
            "calibration": {"text": texts[0], "samples": self.samples, "length": self.length},
            "evaluation": evaluation,
        }
        if self.held_out:
            evaluation["drift"] = {"samples": self.held_out}
            study["selection"] = {"samples": self.held_out}
        return {**study, "grids": grids}


def _lengths(longest: int, model: InspectedModel) -> Iterator[int]:
    """Yield lengths from the longest sensible one down, each half of the one before."""
    length = min(longest, model.positions or longest)
    while length >= LEAST_LENGTH:
        yield length
        length //= 2


def choose_calibration(
    model: InspectedModel, text: Amounts, where: str
) -> tuple[int, int, str, int]:
    """Return the first four settings of `Choices`: those of the calibration sample.

    Args:
        model: The model.
        text: The calibration text.
        where: The text, for messages.

    Raises:
        UserError: The text or the model's context is too short.
    """
    sure = text if text.exact else replace(text, lengths=[int(_SURE * n) for n in text.lengths])
    lengths = list(_lengths(_LENGTH, model))
    for length in lengths:
        if (count := sure.longer_than(length)) >= _MANY_DOCUMENTS:
            why = f"{count:,} documents are longer than {length} tokens"
            return _SAMPLES, length, why, _HELD_OUT
    # Few documents: a smaller sample leaves some of them to hold out.
    for length in lengths:
        count = sure.longer_than(length)
        for samples in _SIZES:
            if count >= 4 and sure.left_after(samples, length, seed=0) >= 2:
                why = f"{count} documents are longer than {length} tokens; this sample leaves some "
                return samples, length, f"{why}to hold out", _HELD_OUT
    for samples in _SIZES:
        for length in lengths:
            # Sequences of one document overlap unless there is room for all of them.
            if sure.longer_than(length) and sure.tokens >= samples * length:
                why = f"too few documents are longer than {length} tokens to hold some out; drift "
                return samples, length, f"{why}is left out", 0
    if not lengths:
        raise UserError(
            "the model's context is too short",
            where=where,
            found=f"{model.positions} tokens",
            expected=f"at least {LEAST_LENGTH}",
            todo="use another model",
        )
    about = "" if text.exact else "about "
    raise UserError(
        "the text is too short",
        where=where,
        found=f"{about}{text.tokens:,} tokens, in documents of at most {max(text.lengths):,}",
        expected=f"at least {_SIZES[-1]} sequences of {LEAST_LENGTH} tokens, and a document that "
        "is longer than one of them; some thousand tokens are better",
        todo="use a longer text",
    )


def choose_windows(model: InspectedModel, text: Amounts, where: str) -> tuple[int, int, str, str]:
    """Return the next four settings of `Choices`: the windows of the perplexity.

    Args:
        model: The model.
        text: The evaluation text.
        where: The text, for messages.

    Raises:
        UserError: The text is too short.
    """
    tokens = int(text.tokens * (1 if text.exact else _SURE))
    lengths = list(_lengths(_WINDOW_LENGTH, model))
    sure = 1 if text.exact else _SURE
    for length in lengths:
        count = text.longer_than(math.ceil(length / sure) - 1)
        if count >= _FEWEST_DOCUMENTS:
            has = f"{count:,} documents have {length} tokens or more, and windows of different "
            return min(_WINDOWS, count), length, WITHIN, f"{has}documents are independent"
    for length in lengths:
        if tokens // length >= _FEWEST_WINDOWS:
            has = f"{_why_windows(model, text, length)}, in too few documents for a window of each"
            count = min(_WINDOWS, tokens // length)
            if count < _FEWEST_DOCUMENTS:
                has += "; so few windows hardly decide a claim: a longer text would"
            return count, length, JOINED, has
    raise UserError(
        "the text is too short to evaluate on",
        where=where,
        found=f"about {text.tokens:,} tokens",
        expected=f"at least {_FEWEST_WINDOWS} windows of {LEAST_LENGTH} tokens; some thousand "
        "tokens are better",
        todo="use a longer text",
    )


def _why_windows(model: InspectedModel, text: Amounts, length: int) -> str:
    """Return why windows have this length."""
    about = "" if text.exact else "about "
    has = f"the text has {about}{text.tokens:,} tokens"
    if not text.complete:
        has = f"the text has more than {text.tokens:,} tokens"
    if model.positions == length:
        has += f", and the model a context of {model.positions}"
    return has
