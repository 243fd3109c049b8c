"""Adapt one group of windows of a pruned model."""

from pathlib import Path

from freelunch.adaptation.job import open_adaptation
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.core.artifact import Artifact
from freelunch.model.mask_store import count_pruned
from freelunch.study.steps import CALIBRATION
from freelunch.study.windows import group_windows, split_windows
from snakemake_job import running

if __name__ == "__main__":
    folder, window = Path(snakemake.output.manifest).parent, snakemake.params.window
    with (
        running(snakemake) as job,
        open_adaptation(
            job,
            model=Path(snakemake.input.model).parent,
            masks=snakemake.input.masks,
            start=snakemake.input.start,
            sample=Artifact.at(snakemake.input.sample, CALIBRATION),
            hidden=Path(snakemake.params.hidden),
            folder=folder,
            settings=snakemake.params.settings,
            window=window,
            seed=int(snakemake.wildcards.seed),
            code=snakemake.params.code,
            entry=f"models.{snakemake.wildcards.model}",
            stop_at_divergence=snakemake.params.stop_at_divergence,
            search=snakemake.input.rate,
        ) as adaptation,
    ):
        group, groups = map(int, snakemake.wildcards.scatteritem.split("-of-"))
        windows = group_windows(split_windows(adaptation.model.num_blocks, window), group, groups)
        job.counts |= {
            "window": window,
            "blocks": sum(map(len, windows)),
            "pruned_weights": count_pruned(adaptation.masks),
        }
        # Folders of earlier runs, which may have had another number of groups. A forced run takes
        # nothing over.
        others = [] if snakemake.resources.anew else sorted(folder.parent.glob("*-of-*"))
        job.made(reconstruct_windows(adaptation, window, windows, others))
