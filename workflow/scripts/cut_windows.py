"""Cut the evaluation text into windows of token ids."""

from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.data.job_inputs import token_id_inputs
from freelunch.data.text_windows import cut_windows

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = snakemake.params.settings
        job.made(cut_windows(**token_id_inputs(snakemake, settings), settings=settings))
