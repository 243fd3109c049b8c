"""Retrain a whole pruned model."""

from pathlib import Path

from freelunch.adaptation.job import open_adaptation
from freelunch.adaptation.retraining.training_run import retrain_model
from freelunch.core.artifact import Artifact
from freelunch.study.steps import CALIBRATION
from snakemake_job import running

if __name__ == "__main__":
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
            window=None,
            seed=int(snakemake.wildcards.seed),
            code=snakemake.params.code,
            entry=f"models.{snakemake.wildcards.model}",
            stop_at_divergence=snakemake.params.stop_at_divergence,
            search=snakemake.input.rate,
        ) as adaptation,
    ):
        job.counts["streamed"] = bool(snakemake.resources.streamed)
        job.made(retrain_model(adaptation, streamed=job.counts["streamed"]))
