"""Pass the calibration sample through the dense model, once for all later steps."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.model.dense_inputs import dense_inputs
from freelunch.pruning.dense_pass import capture_dense

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        gram = snakemake.params.gram
        with dense_inputs(snakemake, job, snakemake.input.calibration, gram) as (sample, given):
            made = capture_dense(
                calibration=sample,
                dense_limit=snakemake.params.dense_limit,
                gram=gram,
                hidden_folder=Path(snakemake.params.hidden),
                **given,
            )
        job.made(made)
        job.counts = {key: made.facts[key] for key in ("sequences", "length", "gram")}
        job.counts["tokens"] = made.facts["sequences"] * made.facts["length"]
