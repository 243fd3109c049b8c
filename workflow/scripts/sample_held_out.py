"""Draw held-out calibration text: for comparing candidates, and for measuring cells."""

from freelunch.data.calibration import sample_held_out
from freelunch.data.token_job import TokenJob
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = snakemake.params.settings
        drawing = TokenJob.of_manifests(
            model=snakemake.input.model,
            text=snakemake.input.text,
            calibration=snakemake.input.calibration,
            output=snakemake.output.manifest,
            code=snakemake.params.code,
            settings=settings,
        )
        job.made(sample_held_out(drawing, **settings))
