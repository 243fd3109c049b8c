"""Texts of given documents, and jobs that draw from them."""

import json
from collections.abc import Sequence
from pathlib import Path

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.data.samples import TokenJob
from freelunch.study.steps import DOCUMENTS, TEXT


def text_of(folder: Path, documents: Sequence[str]) -> Artifact:
    """Write documents as a text that was fetched."""
    writer = ArtifactWriter(folder, TEXT, "test")
    lines = "".join(json.dumps({"text": document}) + "\n" for document in documents)
    writer.add_text(DOCUMENTS, lines)
    return writer.finish(settings={}, origin={"files": {}})


def job_of(
    model: Artifact,
    text: Artifact,
    folder: Path,
    calibration: Artifact | None = None,
    held_out: Artifact | None = None,
) -> TokenJob:
    return TokenJob(model, text, folder, "test", calibration, held_out)
