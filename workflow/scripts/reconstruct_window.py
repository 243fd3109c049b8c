"""Adapt one group of windows of a pruned model."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch import activations, pruned
from freelunch.artifact import Artifact, fingerprint
from freelunch.checkpoint import StreamedModel
from freelunch.cost import Shapes, reconstruction_flops
from freelunch.job import running
from freelunch.reconstruction import group_windows, reconstruct_windows, split_windows

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.model).parent, job.device)
        dense = Artifact(Path(snakemake.input.dense).parent, activations.KIND)
        masks = Artifact(Path(snakemake.input.masks).parent, pruned.KIND)
        settings = snakemake.params.settings
        seed = int(snakemake.wildcards.seed)
        group, groups = map(int, snakemake.wildcards.scatteritem.split("-of-"))
        windows = group_windows(
            split_windows(model.num_blocks, settings["window_blocks"]), group, groups
        )
        made = reconstruct_windows(
            model=model,
            masks=masks,
            dense=dense,
            windows=windows,
            settings=settings,
            seed=seed,
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(
                snakemake.params.code, [settings, seed], model.artifact, dense, masks
            ),
            report=job.report,
        )
        job.made(made)
        samples, length = dense.facts["sequences"], dense.facts["length"]
        shapes = Shapes.of(model.config.to_dict(), "float32")
        blocks = sum(map(len, windows))
        job.cost["tokens"] = samples * length * settings["epochs"]
        job.cost["flops"] = reconstruction_flops(shapes, samples, length, settings, blocks)
