"""Draw the calibration sample of a model and seed."""

from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.data.calibration import sample_calibration
from freelunch.data.job_inputs import token_id_inputs

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = {**snakemake.params.settings, "seed": int(snakemake.wildcards.seed)}
        job.made(sample_calibration(**token_id_inputs(snakemake, settings), **settings))
        job.counts["tokens"] = settings["samples"] * settings["length"]
