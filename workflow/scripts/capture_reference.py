"""Pass held-out text through the dense model, once for the drift of all cells."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.job import running
from freelunch.evaluation.reference import capture_reference
from freelunch.model.dense_inputs import dense_inputs

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        samples = snakemake.params.samples
        with dense_inputs(snakemake, job, snakemake.input.held_out, samples) as (held_out, given):
            made = capture_reference(
                held_out=held_out,
                cache_folder=Path(snakemake.params.hidden),
                **given,
            )
        job.made(made)
        length = held_out.facts["settings"]["length"]
        job.counts = {"tokens": samples * length, "sequences": samples, "length": length}
