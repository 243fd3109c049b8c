"""Draw more calibration text, for adaptations that train on more than the calibration sample."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.job import running
from freelunch.data.calibration import extend_calibration
from freelunch.data.documents import open_text
from freelunch.model import checkpoint, token_ids

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        model = Artifact.at(snakemake.input.model, checkpoint.KIND)
        text = open_text(Path(snakemake.input.text).parent)
        sample = Artifact.at(snakemake.input.calibration, token_ids.KIND)
        left_out = [Artifact.at(path, token_ids.KIND) for path in snakemake.input.held_out]
        samples = int(snakemake.wildcards.samples)
        made = extend_calibration(
            model=model,
            text=text,
            calibration=sample,
            held_out=left_out[0] if left_out else None,
            samples=samples,
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(snakemake.params.code, samples, model, text, sample, *left_out),
        )
        job.made(made)
