"""Choose the masks of a model for one criterion and pattern."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.files import scratch_folder
from freelunch.core.job import running
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import open_states
from freelunch.pruning import dense_pass
from freelunch.pruning.prune import prune_model
from freelunch.study.criteria import read_criterion
from freelunch.study.paths import read_run
from freelunch.study.patterns import Pattern
from freelunch.study.steps import CAPTURE_DENSE

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.model).parent, job.device)
        dense = Artifact.at(snakemake.input.dense, dense_pass.KIND)
        sample = Artifact.at(snakemake.input.calibration, token_ids.KIND)
        folder = Path(snakemake.output.manifest).parent
        pattern, seed = snakemake.wildcards.pattern, int(snakemake.wildcards.seed)
        settings = {"criterion": snakemake.params.criterion, "pattern": pattern, "seed": seed}
        criterion = read_criterion(snakemake.params.criterion)
        with scratch_folder(folder.with_name(f".{folder.name}.hidden")) as scratch:
            made = prune_model(
                model=model,
                dense=dense,
                criterion=criterion,
                pattern=Pattern.parse(pattern),
                seed=seed,
                folder=folder,
                fingerprint=fingerprint(snakemake.params.code, settings, model.artifact, dense),
                states=open_states(model, sample, Path(snakemake.params.hidden), scratch),
                report=job.report,
            )
        job.made(made)
        job.counts = {key: dense.facts[key] for key in ("sequences", "length")}
        if criterion.statistics == "sparse":
            job.counts["tokens"] = 2 * dense.facts["sequences"] * dense.facts["length"]
        job.counts["criterion"] = snakemake.params.criterion
        job.shared[CAPTURE_DENSE] = [read_run(dense.folder)]
