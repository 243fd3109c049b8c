"""Cut the evaluation text into windows of token ids."""

from freelunch.data.samples import TokenJob
from freelunch.data.text_windows import cut_windows
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = snakemake.params.settings
        cutting = TokenJob.of_manifests(
            snakemake.input, snakemake.output.manifest, snakemake.params.code, settings
        )
        job.made(cut_windows(cutting, settings))
