"""Draw more calibration text, for adaptations that train on more than the calibration sample."""

from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.data.calibration import extend_calibration
from freelunch.data.job_inputs import token_id_inputs

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        samples = int(snakemake.wildcards.samples)
        given = {"held_out": None, **token_id_inputs(snakemake, samples)}
        job.made(extend_calibration(**given, samples=samples))
