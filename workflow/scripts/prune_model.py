"""Choose the masks of a model for one criterion and pattern."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.files import scratch_folder
from freelunch.core.job import Job, running
from freelunch.core.job_cost import Spent
from freelunch.pruning.sharing import Pruning, shared
from freelunch.study import steps
from freelunch.study.paths import read_run

if TYPE_CHECKING:
    from snakemake.script import snakemake

    from freelunch.model.checkpoint import StreamedModel


def choose(
    job: Job, mine: Pruning, groups: list[list[Pruning]], dense: Artifact, sample: Artifact
) -> Artifact:
    """Return the masks, which this job chooses, or has another job of its run choose."""

    def together(prunings: Sequence[Pruning]) -> Spent:
        model = opened(job)
        from freelunch.pruning.prune import prune_together

        return prune_together(model, dense, prunings, job.report)

    if not groups:
        return alone(job, mine, dense, sample)
    with shared(mine, groups, together) as spent:
        job.lend(spent)
        return mine.finish_left(dense) or alone(job, mine, dense, sample)


def alone(job: Job, mine: Pruning, dense: Artifact, sample: Artifact) -> Artifact:
    """Return the masks, which this job chooses for itself."""
    model = opened(job)
    from freelunch.model.hidden_states import open_states
    from freelunch.pruning.prune import prune_model

    with scratch_folder(mine.folder.with_name(f".{mine.folder.name}.hidden")) as scratch:
        states = open_states(model, sample, Path(snakemake.params.hidden), scratch)
        return prune_model(model, dense, mine, states, job.report)


@cache
def opened(job: Job) -> "StreamedModel":
    """Return the dense model.

    A job does without it if another one has chosen the masks, and without the seconds that imports
    of what computes take.
    """
    from freelunch.model.checkpoint import StreamedModel

    job.begin()
    return StreamedModel(Path(snakemake.input.model).parent, job.device)


if __name__ == "__main__":
    with running(snakemake) as job:
        model = Artifact.at(snakemake.input.model, steps.CHECKPOINT)
        dense = Artifact.at(snakemake.input.dense, steps.DENSE_ACTIVATIONS)
        sample = Artifact.at(snakemake.input.calibration, steps.CALIBRATION)
        check_belongs(dense, "calibration", sample)
        mine = Pruning.of(
            criterion=snakemake.params.criterion,
            pattern=snakemake.wildcards.pattern,
            seed=int(snakemake.wildcards.seed),
            folder=Path(snakemake.output.manifest).parent,
            code=snakemake.params.code,
            model=model,
            dense=dense,
        )
        groups = mine.groups(snakemake.resources.get("together"), model, dense)
        job.made(mine.finish_left(dense) or choose(job, mine, groups, dense, sample))
        job.counts = {key: dense.facts[key] for key in ("sequences", "length")}
        if mine.criterion.statistics == "sparse":
            job.counts["tokens"] = 2 * dense.facts["sequences"] * dense.facts["length"]
        job.counts["criterion"] = snakemake.params.criterion
        job.shared[steps.CAPTURE_DENSE] = [read_run(dense.folder)]
