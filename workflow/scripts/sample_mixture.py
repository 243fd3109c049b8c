"""Draw a sample from a mixture: for calibration, to train on, or held out."""

from freelunch.core.artifact import Artifact
from freelunch.data.mixture_drawing import sample_mixture
from freelunch.data.samples import TokenJob
from freelunch.study.steps import TEXT, TEXT_WINDOWS
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = {**snakemake.params.settings, "seed": int(snakemake.wildcards.seed)}
        if samples := snakemake.wildcards.get("samples"):
            settings["samples"] = int(samples)
        evaluation = Artifact.at(snakemake.input.evaluation, TEXT)
        windows = Artifact.at(snakemake.input.windows, TEXT_WINDOWS)
        left_out = {"evaluation": evaluation.digest, "windows": windows.digest}
        sampling = TokenJob.of_manifests(
            snakemake.input,
            snakemake.output.manifest,
            snakemake.params.code,
            {**settings, **left_out},
        )
        most = snakemake.resources.get("most_samples", 0)
        job.made(sample_mixture(sampling, evaluation, windows, settings, most))
        if sampling.calibration is None:
            job.counts["tokens"] = settings["samples"] * settings["length"]
