"""Cut the evaluation text into windows of token ids."""

from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.data.text_windows import cut_windows
from freelunch.data.token_job import TokenJob

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = snakemake.params.settings
        cutting = TokenJob.of_manifests(
            model=snakemake.input.model,
            text=snakemake.input.text,
            output=snakemake.output.manifest,
            code=snakemake.params.code,
            settings=settings,
        )
        job.made(cut_windows(cutting, settings))
