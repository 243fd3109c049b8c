"""Retrain a whole pruned model."""

from typing import TYPE_CHECKING

from freelunch.adaptation.inputs import adaptation_inputs
from freelunch.adaptation.retraining.driver import retrain_model
from freelunch.core.job import running

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job, adaptation_inputs(snakemake, job) as given:
        streamed = bool(snakemake.resources.streamed)
        job.counts["streamed"] = streamed
        job.made(retrain_model(**given, streamed=streamed))
