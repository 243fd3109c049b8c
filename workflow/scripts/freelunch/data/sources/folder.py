"""Decide which files of a folder make up a model."""

import json
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from freelunch.core.errors import UserError

CONFIG = "config.json"
# Everything that a causal language model and its tokenizer need; no code and no pickle.
MODEL_FILES = [CONFIG, "generation_config.json", "*.safetensors", "*.safetensors.index.json"]
MODEL_FILES += ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "*.model"]
MODEL_FILES += ["added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"]
MODEL_FILES += ["chat_template.json", "*.jinja"]
# Subfolders hold other formats; `consolidated` is Mistral's second copy of the weights.
OTHER_FILES = ["*/*", "consolidated*"]
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def read_config(folder: Path) -> Any:
    """Return the content of a model's config.json; empty if it is damaged, which whoever loads the
    model reports.
    """
    try:
        return json.loads((folder / CONFIG).read_text())
    except ValueError:
        return {}


def model_files(where: str, folder: Path, listed: Iterable[str] = ()) -> list[str]:
    """Return the names of the files that make up the model in a folder.

    Args:
        where: The key in the config, for messages.
        folder: The folder.
        listed: The files that the source lists, if the folder holds only some of them.

    Raises:
        UserError: The config, the tokenizer or safetensors weights are missing.
    """
    present = sorted(listed or (path.name for path in folder.iterdir() if path.is_file()))
    names = [
        name
        for name in present
        if any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)
        and not any(fnmatchcase(name, pattern) for pattern in OTHER_FILES)
    ]
    if CONFIG not in names:
        raise _lacking(where, CONFIG, present)
    if not any(name.endswith(".safetensors") for name in names):
        pickles = [name for name in present if name.endswith(PICKLES)]
        raise UserError(
            "safetensors only, never pickle: opening a pickle can run any code",
            where=where,
            found=", ".join(pickles[:5]) or "no weights",
            expected="*.safetensors",
            todo="if you trust the model, save it with `save_pretrained(folder)` and use that",
        )
    if not any(name in names for name in TOKENIZERS):
        raise _lacking(where, f"tokenizer ({', '.join(TOKENIZERS)})", present)
    weights = _weights(where, folder, names)
    return [name for name in names if name in weights or not name.endswith(".safetensors")]


def _weights(where: str, folder: Path, names: list[str]) -> set[str]:
    """Return the safetensors files that transformers would load, by its order of preference."""
    if "model.safetensors" in names:
        return {"model.safetensors"}
    if INDEX not in names:
        return {name for name in names if name.endswith(".safetensors")}
    try:
        named = {
            str(name) for name in json.loads((folder / INDEX).read_text())["weight_map"].values()
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError("the index is damaged", where=folder / INDEX, found=error) from error
    missing = sorted(named - set(names))
    if missing:
        raise UserError(
            f"{INDEX} names files that are not there",
            where=where,
            found=f"no {', '.join(missing[:5])} ({len(missing)} in all)",
            expected=f"all {len(named)} files of the index",
            todo="complete the download of the model",
        )
    return named


def _lacking(where: str, what: str, present: list[str]) -> UserError:
    found = ", ".join(present[:8]) or "an empty folder"
    return UserError(f"there is no {what}", where=where, found=found, todo="add it to the model")
