"""Pass the calibration sample through the dense model, once for all later steps."""

from pathlib import Path

from freelunch.core.artifact import Artifact
from freelunch.model.block_pass import open_dense_pass
from freelunch.pruning.dense_pass import capture_dense
from freelunch.study.steps import CALIBRATION
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        gram = snakemake.params.gram
        with open_dense_pass(
            job,
            model=Path(snakemake.input.model).parent,
            sample=Artifact.at(snakemake.input.calibration, CALIBRATION),
            keep=snakemake.resources.keep_hidden_states,
            folder=Path(snakemake.output.manifest).parent,
            hidden_folder=Path(snakemake.params.hidden),
            settings=gram,
            code=snakemake.params.code,
        ) as dense:
            made = capture_dense(dense, gram, snakemake.params.dense_limit)
        job.made(made)
        job.counts = {key: made.facts[key] for key in ("sequences", "length", "gram")}
        job.counts["tokens"] = made.facts["sequences"] * made.facts["length"]
