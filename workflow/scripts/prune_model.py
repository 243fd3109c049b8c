"""Choose the masks of a model for one criterion and pattern."""

from functools import cache
from pathlib import Path

from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.files import scratch_folder
from freelunch.pruning.sharing import Pruning, shared
from freelunch.study import steps
from freelunch.study.paths import read_run
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        model = Artifact.at(snakemake.input.model, steps.CHECKPOINT)
        sample = source = Artifact.at(snakemake.input.calibration, steps.CALIBRATION)
        # For sparse statistics, there is no dense pass.
        for manifest in snakemake.input.dense:
            source = Artifact.at(manifest, steps.DENSE_ACTIVATIONS)
            check_belongs(source, "calibration", sample)
            job.shared[steps.CAPTURE_DENSE] = [read_run(source.folder)]
        mine = Pruning.of(
            criterion=snakemake.params.criterion,
            pattern=snakemake.wildcards.pattern,
            seed=int(snakemake.wildcards.seed),
            folder=Path(snakemake.output.manifest).parent,
            code=snakemake.params.code,
            model=model,
            source=source,
        )

        # If another job has chosen the masks, this one does without the model, and without the
        # seconds that imports of what computes take.
        @cache
        def opened():
            from freelunch.model.checkpoint import StreamedModel

            job.begin()
            return StreamedModel(model.folder, job.device)

        def together(prunings):
            streamed = opened()
            from freelunch.pruning.prune import prune_together

            return prune_together(streamed, source, prunings, job.report)

        def alone():
            streamed = opened()
            from freelunch.model.hidden_states import DenseStates
            from freelunch.pruning.prune import prune_model

            with scratch_folder(mine.folder.with_name(f".{mine.folder.name}.hidden")) as scratch:
                states = DenseStates(streamed, sample, None, scratch)
                return prune_model(streamed, source, mine, states, job.report)

        made = mine.finish_left(source)
        if made is None:
            groups = mine.groups(snakemake.resources.get("together"), model, source)
            if groups:
                with shared(mine, groups, together) as spent:
                    job.lend(spent)
                    made = mine.finish_left(source) or alone()
            else:
                made = alone()
        job.made(made)
        drawn = sample.facts["settings"]
        job.counts = {"sequences": drawn["samples"], "length": drawn["length"]}
        if source is sample:
            job.counts["tokens"] = 2 * drawn["samples"] * drawn["length"]
        job.counts["criterion"] = snakemake.params.criterion
