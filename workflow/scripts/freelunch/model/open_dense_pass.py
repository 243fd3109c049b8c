"""A pass of token ids through the dense model, block by block, and what is kept of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.files import scratch_folder
from freelunch.core.job import Job
from freelunch.core.progress import Report, silent
from freelunch.model.checkpoint import StreamedModel


@dataclass(frozen=True)
class DensePass:
    """A pass of a sample's token ids through the dense model. Results go to `folder`, and the
    hidden states that are kept (`all`, `every_k` or `none`) to `hidden_folder`, others to
    `scratch`. The fingerprint is the digest of everything the results depend on; `report` is called
    after each block.
    """

    model: StreamedModel
    sample: Artifact
    keep: str
    folder: Path
    hidden_folder: Path
    fingerprint: str
    scratch: Path
    report: Report = silent


@contextmanager
def open_dense_pass(
    job: Job,
    *,
    model: Path,
    sample: Artifact,
    keep: str,
    folder: Path,
    hidden_folder: Path,
    settings: object,
    code: str,
) -> Iterator[DensePass]:
    """Open a dense pass of a running job through the model in a folder; the results depend on the
    settings and on the digest of the code, too. The other arguments are those of `DensePass`.
    """
    dense = StreamedModel(model, job.device)
    digest = fingerprint(code, settings, dense.artifact, sample)
    with scratch_folder(hidden_folder.with_name(f".{hidden_folder.name}.scratch")) as scratch:
        yield DensePass(dense, sample, keep, folder, hidden_folder, digest, scratch, job.report)
