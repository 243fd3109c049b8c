"""Perplexity on held-out calibration text, which decides between candidates."""

from dataclasses import replace
from pathlib import Path

from freelunch.core.artifact import Artifact
from freelunch.evaluation.measurements import Measured, MeasurementSpec
from freelunch.evaluation.perplexity import Perplexity
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.token_ids import read_tokens


class HeldOutPerplexity(Perplexity):
    """Measure perplexity on held-out token ids, of which the first are for choosing."""

    def __init__(self, model: StreamedModel, held_out: Artifact, scratch: Path) -> None:
        samples = held_out.facts["settings"]["samples"]
        super().__init__(model, read_tokens(held_out)[:samples], scratch)
        self._held_out = held_out

    def result(self) -> Measured:
        """Return the result of `Perplexity`, and the digest of the held-out token ids."""
        result = super().result()
        return replace(result, metrics={**result.metrics, "held_out": self._held_out.digest})


def begin(model: StreamedModel, spec: MeasurementSpec, scratch: Path) -> HeldOutPerplexity:
    """Return the measurement on its only input, the held-out token ids."""
    (folder,) = spec.inputs
    return HeldOutPerplexity(model, Artifact(folder, token_ids.KIND), scratch)
