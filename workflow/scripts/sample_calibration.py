"""Draw the calibration sample of a model and seed."""

from freelunch.data.calibration import sample_calibration
from freelunch.data.token_job import TokenJob
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = {**snakemake.params.settings, "seed": int(snakemake.wildcards.seed)}
        drawing = TokenJob.of_manifests(
            model=snakemake.input.model,
            text=snakemake.input.text,
            output=snakemake.output.manifest,
            code=snakemake.params.code,
            settings=settings,
        )
        job.made(sample_calibration(drawing, **settings))
        job.counts["tokens"] = settings["samples"] * settings["length"]
