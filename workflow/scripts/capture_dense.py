"""Pass the calibration sample through the dense model, once for everything that follows."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, fingerprint, scratch_folder
from freelunch.core.job import running
from freelunch.costs.passes import capture_flops
from freelunch.costs.shapes import Shapes
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.pruning.dense_pass import capture_dense

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.model).parent, job.device)
        sample = Artifact(Path(snakemake.input.calibration).parent, token_ids.KIND)
        samples, length = (sample.facts["settings"][key] for key in ("samples", "length"))
        folder, hidden = Path(snakemake.output.manifest).parent, Path(snakemake.params.hidden)
        with scratch_folder(hidden.with_name(f".{hidden.name}.scratch")) as scratch:
            made = capture_dense(
                model=model,
                calibration=sample,
                dense_limit=snakemake.params.dense_limit,
                gram=snakemake.params.gram,
                keep=snakemake.resources.keep_hidden_states,
                folder=folder,
                hidden_folder=hidden,
                fingerprint=fingerprint(
                    snakemake.params.code, snakemake.params.gram, model.artifact, sample
                ),
                scratch=scratch,
                report=job.report,
            )
        job.made(made)
        shapes = Shapes.of(model.config.to_dict(), "float32")
        job.cost["tokens"] = samples * length
        job.cost["flops"] = capture_flops(shapes, samples, length, snakemake.params.gram)
