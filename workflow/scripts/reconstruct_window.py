"""Adapt one group of windows of a pruned model."""

from typing import TYPE_CHECKING

from freelunch.adaptation.inputs import adaptation_inputs
from freelunch.adaptation.reconstruction.driver import reconstruct_windows
from freelunch.core.job import running
from freelunch.model.mask_store import count_pruned
from freelunch.study.windows import group_windows, split_windows

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job, adaptation_inputs(snakemake, job) as given:
        window = snakemake.params.window
        group, groups = map(int, snakemake.wildcards.scatteritem.split("-of-"))
        windows = group_windows(split_windows(given["model"].num_blocks, window), group, groups)
        job.counts |= {
            "window": window,
            "blocks": sum(map(len, windows)),
            "pruned_weights": count_pruned(given["masks"]),
        }
        # Folders of earlier runs, which may have had another number of groups. A forced run takes
        # nothing over.
        others = [] if snakemake.resources.anew else sorted(given["folder"].parent.glob("*-of-*"))
        job.made(reconstruct_windows(window=window, windows=windows, others=others, **given))
