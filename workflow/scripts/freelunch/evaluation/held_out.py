"""Perplexity on held-out calibration text, which decides between candidates."""

from pathlib import Path

from freelunch.core.artifact import Artifact
from freelunch.evaluation.measurements import MeasurementSpec
from freelunch.evaluation.perplexity import Perplexity
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel


def begin(model: StreamedModel, spec: MeasurementSpec, scratch: Path) -> Perplexity:
    """Return the measurement on held-out token ids, of which the first are for choosing."""
    held_out = Artifact(spec.inputs[0], token_ids.KIND)
    input_ids = token_ids.read_tokens(held_out)[: held_out.facts["settings"]["samples"]]
    return Perplexity(model, input_ids, scratch, facts={"held_out": held_out.digest})
