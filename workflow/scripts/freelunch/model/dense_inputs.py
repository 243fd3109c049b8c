"""Inputs of every job that passes token ids through the dense model and keeps hidden states."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.files import scratch_folder
from freelunch.core.job import Job
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel


@contextmanager
def dense_inputs(
    snakemake: Any, job: Job, manifest: str, settings: Any
) -> Iterator[tuple[Artifact, dict[str, Any]]]:
    """Give the token ids, and the arguments that `capture_dense` and `capture_reference` share.

    Args:
        snakemake: The object that Snakemake hands to a script.
        job: The running job.
        manifest: Manifest of the token ids.
        settings: Settings that the result depends on.
    """
    model = StreamedModel(Path(snakemake.input.model).parent, job.device)
    sample = Artifact.at(manifest, token_ids.KIND)
    hidden = Path(snakemake.params.hidden)
    with scratch_folder(hidden.with_name(f".{hidden.name}.scratch")) as scratch:
        yield (
            sample,
            {
                "model": model,
                "keep": snakemake.resources.keep_hidden_states,
                "folder": Path(snakemake.output.manifest).parent,
                "fingerprint": fingerprint(snakemake.params.code, settings, model.artifact, sample),
                "scratch": scratch,
                "report": job.report,
            },
        )
