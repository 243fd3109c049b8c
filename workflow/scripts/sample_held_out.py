"""Draw held-out calibration text: for comparing candidates, and for measuring cells."""

from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.data.calibration import sample_held_out
from freelunch.data.token_job import TokenJob

if TYPE_CHECKING:
    from snakemake.script import snakemake

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
