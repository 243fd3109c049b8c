"""Draw more calibration text, for adaptations that train on more than the calibration sample."""

from freelunch.data.calibration import extend_calibration
from freelunch.data.token_job import TokenJob
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        samples = int(snakemake.wildcards.samples)
        drawing = TokenJob.of_manifests(
            model=snakemake.input.model,
            text=snakemake.input.text,
            calibration=snakemake.input.calibration,
            held_out=snakemake.input.held_out,
            output=snakemake.output.manifest,
            code=snakemake.params.code,
            settings=samples,
        )
        job.made(extend_calibration(drawing, samples))
