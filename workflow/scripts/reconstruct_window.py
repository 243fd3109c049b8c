"""Adapt one group of windows of a pruned model."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.adaptation.reconstruction.driver import reconstruct_windows
from freelunch.core.artifact import Artifact, fingerprint, scratch_folder
from freelunch.core.job import running
from freelunch.costs.reconstruction import decide_window, reconstruction_flops
from freelunch.costs.shapes import Shapes
from freelunch.model import mask_store, token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import open_states
from freelunch.model.mask_store import count_pruned
from freelunch.study.windows import group_windows, split_windows

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
            # In the shapes' own precision: the budget is for what is trained.
            shapes = Shapes.of(model.config.to_dict(), str(model.dtype).removeprefix("torch."))
            window, why = decide_window(shapes, states.sequences, states.length, settings)
            if why:
                job.say(why)
            group, groups = map(int, snakemake.wildcards.scatteritem.split("-of-"))
            windows = group_windows(split_windows(model.num_blocks, window), group, groups)
            made = reconstruct_windows(
                model=model,
                masks=masks,
                states=states,
                window=window,
                windows=windows,
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
        tokens = states.sequences * states.length
        job.cost["tokens"] = tokens * settings.get("epochs", 1)
        job.cost["flops"] = reconstruction_flops(
            shapes,
            states.sequences,
            states.length,
            {**settings, "window": window},
            sparsity=count_pruned(masks) / (shapes.blocks * shapes.block_weights),
            blocks=sum(map(len, windows)),
        )
        # Its share of the dense pass that made what it learns from, here or for all cells together.
        job.cost["dense_flops"] = shapes.forward_flops(
            tokens, states.length, sum(map(len, windows))
        )
