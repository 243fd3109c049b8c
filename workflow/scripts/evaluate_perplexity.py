"""Measure the perplexity of a checkpoint."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import scratch_folder, write_json
from freelunch.core.job import running
from freelunch.costs.passes import evaluate_perplexity as cost_of
from freelunch.costs.shapes import Shapes
from freelunch.data.documents import open_text
from freelunch.evaluation.perplexity import evaluate_perplexity, per_text, text_windows
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.token_loss import check_dense

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = snakemake.params.settings
        model = StreamedModel(Path(snakemake.input.checkpoint).parent, job.device)
        text = open_text(Path(snakemake.input.text).parent)
        windows = text_windows(model.artifact, text, **settings)
        output = Path(snakemake.output.metrics)
        with scratch_folder(output.parent / ".hidden") as scratch:
            metrics = evaluate_perplexity(
                model, windows.input_ids, scratch, job.report, windows.stride
            )
        metrics |= {
            **per_text(metrics, windows),
            "settings": dict(settings),
            "checkpoint": model.artifact.digest,
            "text": text.digest,
        }
        if snakemake.params.is_dense:
            check_dense(metrics["perplexity"], snakemake.params.dense_limit, output)
        write_json(output, metrics)
        job.cost["tokens"] = metrics["tokens"]
        shapes = Shapes.of(model.config.to_dict(), "float32")
        job.cost["flops"] = cost_of(shapes, *windows.input_ids.shape).flops
