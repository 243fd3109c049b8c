"""Pass held-out text through the dense model, once for the drift of all cells."""

from pathlib import Path

from freelunch.core.artifact import Artifact
from freelunch.evaluation.dense_reference import capture_reference
from freelunch.model.block_pass import open_dense_pass
from freelunch.study.steps import CALIBRATION
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        samples = snakemake.params.samples
        held_out = Artifact.at(snakemake.input.held_out, CALIBRATION)
        with open_dense_pass(
            job,
            model=Path(snakemake.input.model).parent,
            sample=held_out,
            keep=snakemake.resources.keep_hidden_states,
            folder=Path(snakemake.output.manifest).parent,
            hidden_folder=Path(snakemake.params.hidden),
            settings=samples,
            code=snakemake.params.code,
        ) as dense:
            job.made(capture_reference(dense))
        length = held_out.facts["settings"]["length"]
        job.counts = {"tokens": samples * length, "sequences": samples, "length": length}
