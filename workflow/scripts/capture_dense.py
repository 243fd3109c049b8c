"""Pass the calibration sample through the dense model, once for all later steps."""

from pathlib import Path

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.files import scratch_folder
from freelunch.model.checkpoint import StreamedModel
from freelunch.pruning.dense_pass import capture_dense
from freelunch.study.steps import CALIBRATION
from snakemake_job import running

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.model).parent, job.device)
        sample = Artifact.at(snakemake.input.calibration, CALIBRATION)
        hidden, gram = Path(snakemake.params.hidden), snakemake.params.gram
        with scratch_folder(hidden.with_name(f".{hidden.name}.scratch")) as scratch:
            made = capture_dense(
                model,
                sample,
                folder=Path(snakemake.output.manifest).parent,
                hidden_folder=hidden,
                fingerprint=fingerprint(snakemake.params.code, gram, model.artifact, sample),
                scratch=scratch,
                keep=snakemake.resources.keep_hidden_states,
                gram=gram,
                dense_limit=snakemake.params.dense_limit,
                report=job.report,
            )
        job.made(made)
        job.counts = {key: made.facts[key] for key in ("sequences", "length", "gram")}
        job.counts["tokens"] = made.facts["sequences"] * made.facts["length"]
