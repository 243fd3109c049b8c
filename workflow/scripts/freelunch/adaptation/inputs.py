"""What every adaptation starts from: a model, masks, and hidden states of its sample."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact, fingerprint, scratch_folder
from freelunch.core.job import Job
from freelunch.model import mask_store, token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import open_states


@contextmanager
def adaptation_inputs(snakemake: Any, job: Job) -> Iterator[dict[str, Any]]:
    """Give the arguments that `reconstruct_windows` and `retrain_model` share, and note their
    counts.

    Args:
        snakemake: The object that Snakemake hands to a script.
        job: The running job.
    """
    model = StreamedModel(Path(snakemake.input.model).parent, job.device)
    sample = Artifact.at(snakemake.input.sample, token_ids.KIND)
    masks = Artifact.at(snakemake.input.masks, mask_store.KIND)
    settings, seed = snakemake.params.settings, int(snakemake.wildcards.seed)
    folder = Path(snakemake.output.manifest).parent
    with scratch_folder(folder.with_name(f".{folder.name}.scratch")) as scratch:
        states = open_states(model, sample, Path(snakemake.params.hidden), scratch)
        job.counts |= {
            "tokens": states.sequences * states.length * settings.get("epochs", 1),
            "sequences": states.sequences,
            "length": states.length,
            "adaptation": dict(settings),
        }
        yield {
            "model": model,
            "masks": masks,
            "states": states,
            "settings": settings,
            "seed": seed,
            "folder": folder,
            "fingerprint": fingerprint(
                snakemake.params.code, [settings, seed], model.artifact, sample, masks
            ),
            "report": job.report,
            "stop_at_divergence": snakemake.params.stop_at_divergence,
        }
