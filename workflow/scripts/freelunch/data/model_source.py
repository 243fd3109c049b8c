"""The folder of a model as a study needs it, checked without reading its weights.

    python -m freelunch.data.model_source WHERE FOLDER FILE...

does so in a process of its own, for `freelunch check` and `freelunch new`, which must not import
torch. It prints an error, and its exit status is then `REFUSED`.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoTokenizer, PreTrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from freelunch.core.errors import REFUSED, UserError, first_line, first_of
from freelunch.data.sources.model_folder import (
    CONFIG,
    check_config,
    check_rows,
    read_config,
    read_json,
)
from freelunch.model.blocks import check_blocks, find_blocks
from freelunch.model.checkpoint import Sharding, load_config, meta_model


@dataclass(frozen=True)
class ModelFolder:
    """A folder of a model, checked as far as possible without reading its weights.

    Attributes:
        config: The decoder's config.
        sharding: How its tensors will be divided.
        places: The file that holds each tensor of the model, and the tensor's name there.
    """

    config: PreTrainedConfig
    sharding: Sharding
    places: dict[str, tuple[Path, str]]


def read_model_folder(where: str, folder: Path, files: Iterable[str]) -> ModelFolder:
    """Look at the folder of a model: its config, its tokenizer, and the headers of its weights.

    Args:
        where: The model, for messages.
        folder: The folder.
        files: The names of the model's files in it.

    Raises:
        UserError: The model is of a kind that is not supported, or its files are damaged or do not
            fit each other.
    """
    check_config(read_config(folder), where, folder / CONFIG)
    config = load_config(folder)
    own, config.dtype = config.dtype, torch.float32
    # Shapes do not depend on the precision, which may be one that torch cannot compute in.
    meta = meta_model(config)
    config.dtype = own
    sharding = Sharding(find_blocks(meta, config.num_hidden_layers), config.num_hidden_layers)
    check_blocks(meta, sharding.path)
    others = [file for file in files if not file.endswith(".safetensors")]
    for file in others:
        if file.endswith(".json"):
            # Whoever loads the checkpoint reads it.
            read_json(folder / file)
    _check_tokenizer(where, folder, others, config.vocab_size)
    return ModelFolder(config, sharding, _tensor_files(folder, files, meta, sharding))


def _tensor_files(
    folder: Path, files: Iterable[str], meta: torch.nn.Module, sharding: Sharding
) -> dict[str, tuple[Path, str]]:
    """Return, for each tensor of the model, the file that holds it and its name there.

    Some checkpoints name tensors relative to the backbone (`layers...` for `model.layers...`), or
    as older releases of transformers did (`embed_out` for GPT-NeoX's head).
    """
    places: dict[str, tuple[Path, str]] = {}
    shapes: dict[tuple[Path, str], list[int]] = {}
    for path in (folder / file for file in files if file.endswith(".safetensors")):
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                places[name] = (path, name)
                shapes[path, name] = list(file.get_slice(name).get_shape())
    prefix = f"{meta.base_model_prefix}."
    needed = {name: list(tensor.shape) for name, tensor in meta.state_dict().items()}
    conversions = get_model_conversion_mapping(meta)  # type: ignore[arg-type]
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]

    def today(name: str) -> str:
        for renaming in [] if name in needed else renamings:
            name = renaming.rename_source_key(name)[0]
        return name if name in needed or prefix + name not in needed else prefix + name

    renamed = {today(name): place for name, place in places.items()}
    # Tied tensors are stored once, under either name.
    tied = getattr(meta, "all_tied_weights_keys", None) or {}
    stored = {tied.get(name, name) for name in renamed}
    missing = {name for name in needed if tied.get(name, name) not in stored}
    if missing:
        raise UserError(
            "the checkpoint lacks tensors of its own architecture",
            where=folder,
            found=f"no {', '.join(first_of(sorted(missing)))}",
            expected=f"the {len(needed)} tensors of {type(meta).__name__}",
            todo="use a complete safetensors checkpoint",
        )
    shards = {name: sharding.shard(name) for name in renamed}
    beyond = [name for name, shard in shards.items() if shard not in sharding.shards]
    if beyond:
        raise UserError(
            "the weights have more blocks than the config says",
            where=folder,
            found=beyond[0],
            expected=f"num_hidden_layers = {sharding.num_blocks} blocks",
            todo="use the config.json that belongs to the weights",
        )
    used = {name: place for name, place in renamed.items() if name in needed}
    for name, (path, stored_name) in used.items():
        if (shape := shapes[path, stored_name]) != needed[name]:
            raise UserError(
                "a tensor has another shape than the model's config gives it",
                where=f"{path}: {stored_name}",
                found=" x ".join(map(str, shape)),
                expected=" x ".join(map(str, needed[name])),
                todo="use the config.json that belongs to the weights",
            )
    return used


def _check_tokenizer(model: str, folder: Path, files: Iterable[str], vocabulary: int) -> None:
    """Refuse a tokenizer that cannot be read, or has tokens for which there is no embedding."""
    where = f"{model}: tokenizer"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        added, known = tokenizer.added_tokens_decoder, tokenizer.get_vocab()
    # Whatever a damaged or hostile tokenizer makes these libraries raise.
    except Exception as error:
        raise UserError(
            "the tokenizer cannot be read",
            where=where,
            found=first_line(error),
            expected=f"a tokenizer that transformers reads, in {', '.join(files)}",
            todo="complete the download of the model, or correct the file",
        ) from error
    check_rows(known, added, vocabulary, where)


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open a safetensors file; raise UserError if it is not a complete one."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except SafetensorError as error:
        raise UserError(
            "not a complete safetensors file",
            where=path,
            found=f"{path.stat().st_size:,} bytes: {first_line(error)}",
            todo="complete the download (a file of about 130 bytes is a pointer of Git "
            "LFS: run `git lfs pull`)",
        ) from error


if __name__ == "__main__":
    try:
        read_model_folder(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    except UserError as error:
        print(error)  # noqa: T201
        sys.exit(REFUSED)
