"""Draw held-out calibration text, on which candidates are compared."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.job import running
from freelunch.data.calibration import sample_held_out
from freelunch.data.documents import open_text
from freelunch.model import checkpoint, token_ids

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        model = Artifact.at(snakemake.input.model, checkpoint.KIND)
        text = open_text(Path(snakemake.input.text).parent)
        sample = Artifact.at(snakemake.input.calibration, token_ids.KIND)
        samples = snakemake.params.samples
        made = sample_held_out(
            model=model,
            text=text,
            calibration=sample,
            samples=samples,
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(snakemake.params.code, samples, model, text, sample),
        )
        job.made(made)
