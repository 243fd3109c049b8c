"""Pass the calibration sample through the dense model, once for all later steps."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, fingerprint, scratch_folder
from freelunch.core.job import running
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel
from freelunch.pruning.dense_pass import capture_dense

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.model).parent, job.device)
        sample, gram = (
            Artifact.at(snakemake.input.calibration, token_ids.KIND),
            snakemake.params.gram,
        )
        hidden = Path(snakemake.params.hidden)
        with scratch_folder(hidden.with_name(f".{hidden.name}.scratch")) as scratch:
            made = capture_dense(
                model=model,
                calibration=sample,
                dense_limit=snakemake.params.dense_limit,
                gram=gram,
                keep=snakemake.resources.keep_hidden_states,
                folder=Path(snakemake.output.manifest).parent,
                hidden_folder=hidden,
                fingerprint=fingerprint(snakemake.params.code, gram, model.artifact, sample),
                scratch=scratch,
                report=job.report,
            )
        job.made(made)
        job.counts = {key: made.facts[key] for key in ("sequences", "length", "gram")}
        job.counts["tokens"] = made.facts["sequences"] * made.facts["length"]
