"""Draw held-out calibration text: for comparing candidates, and for measuring cells."""

from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.data.calibration import sample_held_out
from freelunch.data.job_inputs import token_id_inputs

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = snakemake.params.settings
        job.made(sample_held_out(**token_id_inputs(snakemake, settings), **settings))
