"""Ask a checkpoint the questions of the zero-shot tasks."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, scratch_folder, write_json
from freelunch.core.job import running
from freelunch.costs.passes import task_flops
from freelunch.costs.shapes import Shapes
from freelunch.data.documents import TASK
from freelunch.evaluation.tasks import evaluate_tasks, write_answers
from freelunch.model.checkpoint import StreamedModel

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        settings = snakemake.params.settings
        model = StreamedModel(Path(snakemake.input.checkpoint).parent, job.device)
        folders = [Path(path).parent for path in snakemake.input.tasks]
        tasks = {folder.name: Artifact(folder, TASK) for folder in folders}
        output = Path(snakemake.output.metrics)
        with scratch_folder(output.parent / ".scratch") as scratch:
            metrics, answers = evaluate_tasks(
                model, tasks, settings["limit"], settings["seed"], scratch, job.report
            )
        write_answers(Path(snakemake.output.answers), answers)
        metrics |= {"settings": dict(settings), "checkpoint": model.artifact.digest}
        write_json(output, metrics)
        shapes = Shapes.of(model.config.to_dict(), "float32")
        passed = [metrics[key] for key in ("passed_tokens", "sequences", "predicted_tokens")]
        job.cost["tokens"] = metrics["passed_tokens"]
        job.cost["flops"] = task_flops(shapes, *passed)
