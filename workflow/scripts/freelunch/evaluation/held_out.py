"""Perplexity on held-out calibration text, which decides between candidates."""

from pathlib import Path

from freelunch.core.artifact import Artifact
from freelunch.evaluation.cell import Found, Part
from freelunch.evaluation.perplexity import Perplexity
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.token_ids import read_tokens


class HeldOutPerplexity(Perplexity):
    """Measure perplexity on held-out token ids.

    Args:
        model: The checkpoint.
        held_out: Held-out token ids; the first of them are for choosing.
        scratch: As in `Perplexity`.
    """

    def __init__(self, model: StreamedModel, held_out: Artifact, scratch: Path) -> None:
        samples = held_out.facts["settings"]["samples"]
        super().__init__(model, read_tokens(held_out)[:samples], scratch)
        self._held_out = held_out

    def found(self) -> Found:
        """Return the result of `Perplexity`, and the digest of the held-out token ids."""
        found = super().found()
        found.metrics["held_out"] = self._held_out.digest
        return found


def begin(model: StreamedModel, part: Part, scratch: Path) -> HeldOutPerplexity:
    """Return the measurement on the part's only input, the held-out token ids."""
    (folder,) = part.inputs
    return HeldOutPerplexity(model, Artifact(folder, token_ids.KIND), scratch)
