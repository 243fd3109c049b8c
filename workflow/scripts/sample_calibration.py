"""Draw the calibration sample of a model and seed."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.job import running
from freelunch.data.calibration import sample_calibration
from freelunch.data.documents import open_text
from freelunch.model import checkpoint

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = {
            "samples": snakemake.params.samples,
            "length": snakemake.params.length,
            "seed": int(snakemake.wildcards.seed),
        }
        model = Artifact.at(snakemake.input.model, checkpoint.KIND)
        text = open_text(Path(snakemake.input.text).parent)
        sample_calibration(
            model=model,
            text=text,
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(snakemake.params.code, settings, model, text),
            **settings,
        )
        job.counts["tokens"] = settings["samples"] * settings["length"]
