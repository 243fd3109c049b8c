"""Assemble the checkpoint of a cell and measure everything that the study asks of it."""

from pathlib import Path

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.files import scratch_folder
from freelunch.evaluation.measurements import MeasurementSpec, evaluate_cell
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.mask_store import assemble_model
from freelunch.study.steps import ADAPTED_BLOCKS, MASKS
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.model).parent, job.device)
        masks = [Artifact.at(path, MASKS) for path in snakemake.input.masks]
        adapted = [Artifact.at(path, ADAPTED_BLOCKS) for path in snakemake.input.adapted]
        checkpoint = assemble_model(
            model=model,
            masks=masks[0] if masks else None,
            adapted=adapted,
            folder=Path(snakemake.output.checkpoint).parent,
            fingerprint=fingerprint(snakemake.params.code, None, model.artifact, *masks, *adapted),
            report=job.report,
        )
        job.made(checkpoint)
        del model
        specs = [
            MeasurementSpec(
                name=name,
                settings=settings,
                inputs=[Path(path).parent for path in snakemake.input.get(name, [])],
                code=snakemake.params.measuring[name],
            )
            for name, settings in snakemake.params.measurements.items()
        ]
        folder = Path(snakemake.output.manifest).parent
        with scratch_folder(folder / ".scratch") as scratch:
            metrics, counts = evaluate_cell(
                model=StreamedModel(checkpoint.folder, job.device),
                specs=specs,
                folder=folder,
                scratch=scratch,
                report=job.report,
                dense_limit=snakemake.params.dense_limit,
                anew=bool(snakemake.resources.anew),
            )
        job.made(metrics)
        job.counts = counts
