"""Assemble the checkpoint of a cell."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.adaptation import reconstruction
from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.job import running
from freelunch.model import mask_store
from freelunch.model.assembly import assemble_model
from freelunch.model.checkpoint import StreamedModel

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.model).parent, job.device)
        found = [Artifact(Path(path).parent, mask_store.KIND) for path in snakemake.input.masks]
        adapted = [
            Artifact(Path(path).parent, reconstruction.KIND) for path in snakemake.input.adapted
        ]
        made = assemble_model(
            model=model,
            masks=found[0] if found else None,
            adapted=adapted,
            folder=Path(snakemake.output.manifest).parent,
            fingerprint=fingerprint(snakemake.params.code, None, model.artifact, *found, *adapted),
            report=job.report,
        )
        job.made(made)
