"""The hidden folders beside one that is being fetched.

Apart from the other paths, since fetching a model depends on no study.
"""

from pathlib import Path


def scratch_of(folder: Path) -> Path:
    """Return where a step works while it fetches a model, a text or a task into a folder."""
    return folder.with_name(f".{folder.name}")


def downloads_of(scratch: Path) -> Path:
    """Return where files from the hub stay until the fetch has ended well; each attempt empties the
    scratch folder itself.
    """
    return scratch.with_name(f"{scratch.name}.downloads")
