"""Snakemake's notes on how outputs were made, where one of them cannot be read."""

import os
from pathlib import Path

from snakemake.persistence import MetadataRecord  # type: ignore[import-untyped]

from freelunch.core.files import remove_path


def remove_broken_notes(folder: Path) -> list[Path]:
    """Remove the notes that Snakemake could not read, and return them.

    Snakemake passes over a note that is cut off, but stops with a traceback, at each run, if a note
    is not UTF-8 or not of its form. An output without a note counts as made by today's rule; its
    content is checked anyway.

    Args:
        folder: `.snakemake/metadata`.
    """
    broken = []
    for path in sorted(folder.glob("**/*")) if folder.is_dir() else ():
        # The name of a long path is divided among folders.
        if (path.is_dir() and path.name.startswith("@")) or not os.path.lexists(path):
            continue
        try:
            MetadataRecord.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            remove_path(path)
            broken.append(path)
    return broken
