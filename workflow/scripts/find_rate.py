"""Find the learning rate of an adaptation of a pruned model."""

from freelunch.adaptation.job import open_adaptation
from freelunch.adaptation.rate_search import find_rate
from freelunch.model.mask_store import count_pruned
from snakemake_job import adapting, running

if __name__ == "__main__":
    window = snakemake.params.window
    with running(snakemake) as job, open_adaptation(job, **adapting(snakemake)) as adaptation:
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
