"""Measure how far a checkpoint's activations are from the dense model's, on held-out text."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, scratch_folder, write_json
from freelunch.core.job import running
from freelunch.costs.passes import measure_drift as cost_of
from freelunch.costs.shapes import Shapes
from freelunch.evaluation.drift import measure_drift
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.token_ids import read_tokens

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        samples = snakemake.params.samples
        dense = StreamedModel(Path(snakemake.input.model).parent, job.device)
        model = StreamedModel(Path(snakemake.input.checkpoint).parent, job.device)
        held_out = Artifact(Path(snakemake.input.held_out).parent, token_ids.KIND)
        input_ids = read_tokens(held_out)[:samples]
        output = Path(snakemake.output.metrics)
        with scratch_folder(output.parent / ".hidden") as scratch:
            metrics = measure_drift(dense, model, input_ids, scratch, job.report)
        metrics |= {
            "settings": {"samples": samples},
            "checkpoint": model.artifact.digest,
            "model": dense.artifact.digest,
            "held_out": held_out.digest,
        }
        write_json(output, metrics)
        shapes = Shapes.of(model.config.to_dict(), "float32")
        job.cost["tokens"] = 3 * input_ids.numel()
        job.cost["flops"] = cost_of(shapes, *input_ids.shape).flops
