"""Draw a sample from a mixture: for calibration, to train on, or held out."""

from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact
from freelunch.core.job import running
from freelunch.data.job_inputs import token_id_inputs
from freelunch.data.mixture_samples import sample_mixture
from freelunch.study.steps import TEXT, TEXT_WINDOWS

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = {**snakemake.params.settings, "seed": int(snakemake.wildcards.seed)}
        if samples := snakemake.wildcards.get("samples"):
            settings["samples"] = int(samples)
        evaluation = Artifact.at(snakemake.input.evaluation, TEXT)
        windows = Artifact.at(snakemake.input.windows, TEXT_WINDOWS)
        depends_on = {**settings, "evaluation": evaluation.digest, "windows": windows.digest}
        job.made(
            sample_mixture(
                **token_id_inputs(snakemake, depends_on),
                evaluation=evaluation,
                windows=windows,
                settings=settings,
                most=snakemake.resources.get("most_samples", 0),
            )
        )
        if snakemake.input.get("calibration") is None:
            job.counts["tokens"] = settings["samples"] * settings["length"]
