"""Adapt one group of windows of a pruned model."""

from pathlib import Path

from freelunch.adaptation.job import open_adaptation
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.model.mask_store import count_pruned
from freelunch.study.windows import group_windows, split_windows
from snakemake_job import adapting, running

if __name__ == "__main__":
    folder, window = Path(snakemake.output.manifest).parent, snakemake.params.window
    with running(snakemake) as job, open_adaptation(job, **adapting(snakemake)) as adaptation:
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
