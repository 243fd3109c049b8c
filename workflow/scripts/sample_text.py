"""Draw a sample from a single text: for calibration, to train on, or held out."""

from freelunch.data.samples import TokenJob, sample_text
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = {**snakemake.params.settings, "seed": int(snakemake.wildcards.seed)}
        if samples := snakemake.wildcards.get("samples"):
            settings["samples"] = int(samples)
        sampling = TokenJob.of_manifests(
            snakemake.input, snakemake.output.manifest, snakemake.params.code, settings
        )
        job.made(sample_text(sampling, settings))
        if sampling.calibration is None:
            job.counts["tokens"] = settings["samples"] * settings["length"]
