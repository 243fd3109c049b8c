"""Measure a candidate's perplexity on held-out calibration text."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, scratch_folder, write_json
from freelunch.core.job import running
from freelunch.costs.passes import evaluate_perplexity as cost_of
from freelunch.costs.shapes import Shapes
from freelunch.evaluation.perplexity import evaluate_perplexity
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.token_ids import read_tokens

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.checkpoint).parent, job.device)
        held_out = Artifact(Path(snakemake.input.held_out).parent, token_ids.KIND)
        input_ids = read_tokens(held_out)
        output = Path(snakemake.output.metrics)
        with scratch_folder(output.parent / ".hidden") as scratch:
            metrics = evaluate_perplexity(model, input_ids, scratch, job.report)
        metrics |= {"checkpoint": model.artifact.digest, "held_out": held_out.digest}
        write_json(output, metrics)
        job.cost["tokens"] = metrics["tokens"]
        shapes = Shapes.of(model.config.to_dict(), "float32")
        job.cost["flops"] = cost_of(shapes, *input_ids.shape).flops
