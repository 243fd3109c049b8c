"""Find the learning rate of an adaptation of a pruned model."""

from pathlib import Path

from freelunch.adaptation.job import open_adaptation
from freelunch.adaptation.rate_search import find_rate
from freelunch.core.artifact import Artifact
from freelunch.model.mask_store import count_pruned
from freelunch.study.steps import CALIBRATION
from snakemake_job import running

if __name__ == "__main__":
    window = snakemake.params.window
    with (
        running(snakemake) as job,
        open_adaptation(
            job,
            model=Path(snakemake.input.model).parent,
            masks=snakemake.input.masks,
            start=snakemake.input.start,
            sample=Artifact.at(snakemake.input.sample, CALIBRATION),
            hidden=Path(snakemake.params.hidden),
            folder=Path(snakemake.output.manifest).parent,
            settings=snakemake.params.settings,
            window=window,
            seed=int(snakemake.wildcards.seed),
            code=snakemake.params.code,
            entry=f"models.{snakemake.wildcards.model}",
        ) as adaptation,
    ):
        streamed = bool(snakemake.resources.streamed)
        made = find_rate(adaptation, snakemake.wildcards.adaptation, window, streamed)
        job.made(made)
        probe, rates = made.facts["probe"], len(made.files)
        tokens = rates * probe["sequences"] * probe["epochs"] * job.counts["length"]
        job.counts |= {
            "window": window,
            "streamed": streamed,
            "tokens": tokens,
            "probe": probe,
            "rates": rates,
            "pruned_weights": count_pruned(adaptation.masks),
        }
