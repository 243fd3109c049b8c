"""Pass held-out text through the dense model, once for the drift of all cells."""

from pathlib import Path
from typing import TYPE_CHECKING

from freelunch.core.artifact import Artifact, fingerprint, scratch_folder
from freelunch.core.job import running
from freelunch.evaluation.reference import capture_reference
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel

if TYPE_CHECKING:
    from snakemake.script import snakemake

if __name__ == "__main__":
    with running(snakemake) as job:
        model = StreamedModel(Path(snakemake.input.model).parent, job.device)
        held_out = Artifact.at(snakemake.input.held_out, token_ids.KIND)
        samples, length = snakemake.params.samples, held_out.facts["settings"]["length"]
        hidden = Path(snakemake.params.hidden)
        with scratch_folder(hidden.with_name(f".{hidden.name}.scratch")) as scratch:
            made = capture_reference(
                model=model,
                held_out=held_out,
                samples=samples,
                keep=snakemake.resources.keep_hidden_states,
                folder=Path(snakemake.output.manifest).parent,
                cache_folder=hidden,
                fingerprint=fingerprint(snakemake.params.code, samples, model.artifact, held_out),
                scratch=scratch,
                report=job.report,
            )
        job.made(made)
        job.counts = {"tokens": samples * length, "sequences": samples, "length": length}
