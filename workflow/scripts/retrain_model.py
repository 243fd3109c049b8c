"""Retrain a whole pruned model."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.adaptation.retraining.driver import retrain_model
from freelunch.core.artifact import Artifact, fingerprint, scratch_folder
from freelunch.core.job import running
from freelunch.costs.retraining import retraining_flops
from freelunch.costs.shapes import Shapes
from freelunch.model import mask_store, token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import open_states
from freelunch.study.methods import DISTILLATION

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.model).parent, job.device)
        sample = Artifact(Path(snakemake.input.sample).parent, token_ids.KIND)
        masks = Artifact(Path(snakemake.input.masks).parent, mask_store.KIND)
        settings, seed = snakemake.params.settings, int(snakemake.wildcards.seed)
        folder = Path(snakemake.output.manifest).parent
        with scratch_folder(folder.with_name(f".{folder.name}.scratch")) as scratch:
            states = open_states(model, sample, Path(snakemake.params.hidden), scratch)
            made = retrain_model(
                model=model,
                masks=masks,
                states=states,
                settings=settings,
                seed=seed,
                folder=folder,
                fingerprint=fingerprint(
                    snakemake.params.code, [settings, seed], model.artifact, sample, masks
                ),
                report=job.report,
                stop_at_divergence=snakemake.params.stop_at_divergence,
            )
        job.made(made)
        shapes = Shapes.of(model.config.to_dict(), str(model.dtype).removeprefix("torch."))
        tokens = states.sequences * states.length
        job.cost["tokens"] = tokens * settings["epochs"]
        job.cost["flops"] = retraining_flops(shapes, states.sequences, states.length, settings)
        if settings["loss"] == DISTILLATION:
            # The dense pass that made what it learns from, here or for all cells together.
            job.cost["dense_flops"] = shapes.forward_flops(tokens, states.length)
