"""Perplexity over windows of a text."""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from freelunch.core.artifact import Artifact
from freelunch.evaluation.measurements import Facts, Measured, MeasurementSpec
from freelunch.evaluation.window_losses import WindowLosses
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.token_ids import read_tokens
from freelunch.model.token_loss import scored_tokens
from freelunch.study.steps import CUT_WINDOWS, TEXT_WINDOWS


class Perplexity(WindowLosses):
    """Measure perplexity = exp(mean over windows of a window's mean loss). `facts` are stored with
    the result. Of an evaluation text, `text` has the facts of the windows that
    `freelunch.data.text_windows` cut. The other arguments are those of `WindowLosses`.
    """

    def __init__(
        self,
        model: StreamedModel,
        input_ids: Tensor,
        scratch: Path,
        stride: int | None = None,
        facts: Facts | None = None,
        text: Facts | None = None,
    ) -> None:
        super().__init__(model, input_ids, scratch, stride)
        self._facts, self._text = facts or {}, text

    def result(self) -> Measured:
        """Return the perplexity, its standard error over windows, and the windows' losses; of an
        evaluation text, also what is comparable across tokenizers.
        """
        windows, length = self._input_ids.shape
        scored = scored_tokens(length, self._stride)
        losses = self.losses()
        metrics = {
            **loss_facts(losses),
            "windows": windows,
            "length": length,
            "stride": self._stride,
            "tokens": windows * length,
            "predicted_tokens": windows * scored,
            "token_ids_sha256": tokens_digest(self._input_ids),
            **self._facts,
        }
        if text := self._text:
            metrics |= {**per_text(metrics, text), "text": text["text"]}
            if text["documents"] is not None:
                metrics["documents"] = text["documents"]
        counts = {"tokens": windows * length, "sequences": windows, "length": length}
        return Measured(metrics, counts)


def begin(model: StreamedModel, spec: MeasurementSpec, scratch: Path) -> Perplexity:
    """Return the measurement on its only input, the windows of the text."""
    (folder,) = spec.inputs
    windows = Artifact(folder, TEXT_WINDOWS)
    spec.check_made(folder, windows.facts["settings"], CUT_WINDOWS)
    return of_text(model, windows, scratch)


def of_text(model: StreamedModel, windows: Artifact, scratch: Path) -> Perplexity:
    """Return the measurement on the windows of an evaluation text."""
    facts = windows.facts
    return Perplexity(model, read_tokens(windows), scratch, facts["stride"], text=facts)


def tokens_digest(input_ids: Tensor) -> str:
    """Return the sha256 digest of int64 token ids."""
    return hashlib.sha256(input_ids.numpy().tobytes()).hexdigest()


def per_text(metrics: Facts, amounts: Mapping[str, int | None]) -> Facts:
    """Return perplexities per byte and per word, which are comparable across tokenizers: exp(loss
    of all scored tokens / bytes or words), as in lm-evaluation-harness; None where the `bytes`
    or `words` of the scored tokens' text (`amounts`) are not known. `metrics` is a result of
    `Perplexity`.
    """

    def loss_per(unit: str) -> float | None:
        amount, loss = amounts[unit], metrics["loss"]
        return loss * metrics["predicted_tokens"] / amount if amount and loss is not None else None

    of_byte, of_word = loss_per("bytes"), loss_per("words")
    return {
        "bytes": amounts["bytes"],
        "words": amounts["words"],
        "byte_perplexity": None if of_byte is None else exponential(of_byte),
        "bits_per_byte": None if of_byte is None else of_byte / math.log(2),
        "word_perplexity": None if of_word is None else exponential(of_word),
    }


def loss_facts(losses: Tensor) -> Facts:
    """Return the perplexity exp(mean loss) and the losses that it is computed from: the mean loss
    of each window, nats per token, (windows,), float64.
    """
    mean = float(losses.mean())
    error = float(losses.std()) / math.sqrt(len(losses))
    perplexity = exponential(mean)
    finite = perplexity is not None
    return {
        # JSON has no infinity: a perplexity that is not finite is stored as null.
        "perplexity": perplexity,
        "perplexity_standard_error": perplexity * error if perplexity is not None else None,
        "loss": mean if finite else None,
        "loss_standard_error": error if finite else None,
        "window_losses": [float(loss) if math.isfinite(loss) else None for loss in losses],
    }


def exponential(value: float) -> float | None:
    """Return exp(value); None if it is not finite."""
    fits = math.isfinite(value) and value < math.log(torch.finfo(torch.float64).max)
    return math.exp(value) if fits else None
