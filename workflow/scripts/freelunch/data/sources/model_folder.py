"""Which files make up a model, and what its config and the header of a GGUF file say."""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from freelunch.core.errors import UserError, first_line, first_of
from freelunch.study.model_limits import check_shapes, check_supported

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
# A larger config.json is refused.
CONFIG_BYTES = 10_000_000
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of a model; UserError if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(
            "a file of the model is not valid JSON",
            where=path,
            found=first_line(error),
            todo="complete the download of the model, or correct the file",
        ) from error


def read_config(folder: Path) -> Any:
    """Return the content of a model's config.json.

    Raises:
        UserError: It is not a JSON object, is nested too deeply, or is larger than any config.
    """
    path = folder / CONFIG
    if (size := path.stat().st_size) > CONFIG_BYTES:
        expected = f"at most {CONFIG_BYTES:,} bytes"
        raise UserError("no config is so large", where=path, found=size, expected=expected)
    config = read_json(path)
    if not isinstance(config, dict):
        found, expected = str(config)[:60], "a JSON object"
        raise UserError("not a config", where=path, found=found, expected=expected)
    return config


def check_config(config: Any, where: str, path: Path) -> None:
    """Refuse the config of a model that cannot be pruned, whatever its weights are.

    Args:
        config: The content of a config.json.
        where: The model, for messages.
        path: The file.

    Raises:
        UserError: The model is of a kind that is not supported, has absurd shapes, names no family,
            or is quantised: its weights mean nothing without their scales.
    """
    check_supported(config, where)
    check_shapes(config, path)
    if not config.get("model_type"):
        raise UserError(
            "config.json names no family",
            where=path,
            found="no `model_type`",
            expected="a `model_type`, such as llama",
            todo="use the config.json that belongs to the model",
        )
    quantised = config.get("quantization_config")
    if isinstance(quantised, Mapping):
        raise UserError(
            "the weights are quantised, so they cannot be pruned",
            where=where,
            found=f"quantization_config: {quantised.get('quant_method', 'no quant_method')}",
            expected="weights in float32, bfloat16 or float16, or a GGUF file",
            todo="use the model that this one was quantised from",
        )


def check_rows(vocabulary: Mapping[str, int], added: Container[int], rows: int, where: str) -> None:
    """Refuse a tokenizer with tokens for which there is no row of the embedding.

    Numbers of `added` tokens may lie beyond, such as that of a token for images: texts with it are
    refused later.
    """
    largest = max((at for at in vocabulary.values() if at not in added), default=-1)
    if largest >= rows:
        raise UserError(
            "the tokenizer does not fit the model's embedding",
            where=where,
            found=f"a token with the number {largest:,}",
            expected=f"numbers below {rows:,}, the rows of the embedding",
            todo="use the tokenizer that belongs to the model",
        )


def check_weights(where: str, present: Sequence[str]) -> None:
    """Refuse a model that has no safetensors among its files."""
    if any(name.endswith(".safetensors") for name in _of_model(present)):
        return
    pickles = [name for name in present if name.endswith(PICKLES)]
    if not pickles:
        found = ", ".join(first_of(present))
        todo = "add them to the model"
        raise UserError("there are no weights", where=where, found=found, todo=todo)
    raise UserError(
        "safetensors only, never pickle: opening a pickle can run any code",
        where=where,
        found=", ".join(first_of(pickles)),
        expected="*.safetensors",
        todo="look among the pull requests on the hub's page of the model for a conversion, and "
        "set `revision: refs/pr/NUMBER`; or, if you trust the model, save it with "
        "`save_pretrained(folder)` and use that",
    )


def _of_model(present: Iterable[str]) -> list[str]:
    """Return the names of files that may belong to a model."""
    return [
        name
        for name in present
        if "/" not in name
        and any(fnmatchcase(name, pattern) for pattern in MODEL_FILES)
        and not any(fnmatchcase(name, pattern) for pattern in OTHER_FILES)
    ]


def model_files(where: str, folder: Path, listed: Iterable[str] = ()) -> list[str]:
    """Return the names of the files that make up the model in a folder.

    Args:
        where: The key in the config, for messages.
        folder: The folder.
        listed: The files that the source lists, if the folder holds only some of them.

    Raises:
        UserError: The config, the tokenizer or safetensors weights are missing, or a file is a link
            out of the folder.
    """
    present = sorted(listed or (path.name for path in folder.iterdir() if path.is_file()))
    names = _of_model(present)
    if CONFIG not in names:
        folders = (each for each in folder.iterdir() if each.is_dir())
        beside = [] if listed else sorted(f"{each.name}/" for each in folders)
        raise _lacking(where, CONFIG, [*beside, *present])
    check_weights(where, present)
    if not any(name in names for name in TOKENIZERS):
        raise _lacking(where, f"tokenizer ({', '.join(TOKENIZERS)})", present)
    weights = _weights(where, folder, names)
    taken = [name for name in names if name in weights or not name.endswith(".safetensors")]
    for name in taken:
        if (folder / name).is_symlink():
            check_link(where, folder, name)
    return taken


def check_link(where: str, folder: Path, name: str) -> None:
    """Refuse a link that leaves a model's folder: whatever it points to would be copied.

    In the hub's cache, files are links from `snapshots/COMMIT` to `blobs`.
    """
    target, inside = (folder / name).resolve(), folder.resolve()
    blobs = inside.parent.parent / "blobs"
    in_cache = inside.parent.name == "snapshots" and target.parent == blobs
    if not (target.is_relative_to(inside) or in_cache):
        raise UserError(
            "a file of the model is a link that leaves its folder",
            where=f"{where}: {name}",
            found=target,
            expected=f"a file, or a link to one in {inside}",
            todo="if you trust it, replace the link by the file",
        )


def _weights(where: str, folder: Path, names: list[str]) -> set[str]:
    """Return the safetensors files that transformers would load, by its order of preference."""
    if "model.safetensors" in names:
        return {"model.safetensors"}
    if INDEX not in names:
        return {name for name in names if name.endswith(".safetensors")}
    index = read_json(folder / INDEX)
    try:
        named = {str(name) for name in index["weight_map"].values()}
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError("the index is damaged", where=folder / INDEX, found=error) from error
    missing = sorted(named - set(names))
    if missing:
        raise UserError(
            f"{INDEX} names files that are not there",
            where=where,
            found=f"no {', '.join(first_of(missing))}",
            expected=f"all {len(named)} files of the index",
            todo="complete the download of the model",
        )
    return named


def _lacking(where: str, what: str, present: list[str]) -> UserError:
    return UserError(
        f"there is no {what}",
        where=where,
        found=", ".join(first_of(present, 8)) or "an empty folder",
        todo="add it to the model, or name the folder that has it",
    )


@dataclass(frozen=True)
class GGUFHeader:
    """A model as the header of a GGUF file describes it.

    Attributes:
        architecture: The family, as llama.cpp names it.
        blocks: Number of decoder blocks; None if it is not stated.
        positions: The longest sequence that the model takes; None if it is not stated.
        has_tokenizer: Whether the file holds a tokenizer.
    """

    architecture: str
    blocks: int | None
    positions: int | None
    has_tokenizer: bool


def read_gguf_header(file: Path, where: str) -> GGUFHeader:
    """Return the header of a GGUF file.

    Args:
        file: The file.
        where: The model, for messages.

    Raises:
        UserError: The file is damaged, or its model is of a kind that is not supported.
    """
    from gguf import GGUFReader

    try:
        fields = GGUFReader(file).fields
        architecture = str(fields["general.architecture"].contents())
        sizes = [fields.get(f"{architecture}.{key}") for key in ("block_count", "context_length")]
        blocks, positions = (None if size is None else int(size.contents()) for size in sizes)
        experts = [
            field.contents() for key, field in fields.items() if key.endswith(".expert_count")
        ]
    except (ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise UserError(
            "not a valid GGUF file: it is damaged or cut off",
            where=where,
            found=f"{file}: {error.strerror}" if isinstance(error, OSError) else file,
            todo="fetch the file again",
        ) from error
    # Of Mixtral, llama.cpp writes `llama` as the architecture: only the number of experts differs.
    kind = {"model_type": architecture.replace("-", "_"), "num_experts": max(experts, default=0)}
    check_supported(kind, where)
    return GGUFHeader(architecture, blocks, positions, "tokenizer.ggml.tokens" in fields)
