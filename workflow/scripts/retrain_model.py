"""Retrain a whole pruned model."""

from freelunch.adaptation.job import open_adaptation
from freelunch.adaptation.retraining.training_run import retrain_model
from snakemake_job import adapting, running

if __name__ == "__main__":
    with running(snakemake) as job, open_adaptation(job, **adapting(snakemake)) as adaptation:
        job.counts["streamed"] = bool(snakemake.resources.streamed)
        job.made(retrain_model(adaptation, streamed=job.counts["streamed"]))
