"""Inputs of every adaptation: the model, its masks, and hidden states of the calibration sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.errors import UserError
from freelunch.core.files import scratch_folder
from freelunch.core.job import Job
from freelunch.model import mask_store, token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import open_states
from freelunch.study.adaptations import Training
from freelunch.study.retraining import read_adaptation
from freelunch.study.sources import NO_GRADIENTS, TRAINED, UNTRAINED
from freelunch.study.windows import AUTO


@contextmanager
def adaptation_inputs(snakemake: Any, job: Job) -> Iterator[dict[str, Any]]:
    """Give the arguments that `reconstruct_windows` and `retrain_model` share; set the job's
    counts.

    Args:
        snakemake: The object that Snakemake hands to a script.
        job: The running job.
    """
    model = StreamedModel(Path(snakemake.input.model).parent, job.device)
    sample = Artifact.at(snakemake.input.sample, token_ids.KIND)
    masks = Artifact.at(snakemake.input.masks, mask_store.KIND)
    written, seed = snakemake.params.settings, int(snakemake.wildcards.seed)
    settings = read_adaptation(written)
    passes = 1
    if isinstance(settings, Training):
        passes = settings.passes
        if model.dtype == getattr(torch, UNTRAINED):
            raise UserError(
                NO_GRADIENTS,
                where=f"models.{snakemake.wildcards.model}.dtype",
                found=f"{UNTRAINED}, the checkpoint's own",
                expected=TRAINED,
                todo="set `dtype` in the model's entry",
            )
    folder = Path(snakemake.output.manifest).parent
    with scratch_folder(folder.with_name(f".{folder.name}.scratch")) as scratch:
        states = open_states(model, sample, Path(snakemake.params.hidden), scratch)
        job.counts |= {
            "tokens": states.sequences * states.length * passes,
            "sequences": states.sequences,
            "length": states.length,
            "adaptation": written,
        }
        yield {
            "model": model,
            "masks": masks,
            "states": states,
            "settings": settings,
            "seed": seed,
            "folder": folder,
            "fingerprint": fingerprint(
                snakemake.params.code,
                [_decided(snakemake.params), seed],
                model.artifact,
                sample,
                masks,
            ),
            "report": job.report,
            "stop_at_divergence": snakemake.params.stop_at_divergence,
        }


def _decided(params: Any) -> dict[str, Any]:
    """Return the settings as JSON, with the window that the plan decided in place of `auto`.

    Blocks of an interrupted attempt, or of another grouping, may only be taken over if they were
    adapted in the same window.
    """
    written: dict[str, Any] = params.settings
    if written.get("window") == AUTO:
        return written | {"window": params.window}
    return written
