"""The folder of a model as a study needs it, checked without reading its weights.

    python -m freelunch.data.model_source WHERE FOLDER FILE...

does so in a process of its own, for `freelunch check` and `freelunch new`, which must not import
torch. It prints an error, and its exit status is then `REFUSED`.
"""

import sys
from collections.abc import Iterable, Iterator, Mapping
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
from freelunch.data.sources.folder import check_json_files, check_rows, read_config
from freelunch.model.blocks import check_blocks, find_blocks
from freelunch.model.checkpoint import Sharding, load_config, meta_model
from freelunch.study.model_limits import check_shapes, check_supported


@dataclass(frozen=True)
class Source:
    """A folder of a model, checked as far as possible without reading its weights.

    Attributes:
        config: The decoder's config.
        sharding: How its tensors will be divided.
        places: The file that holds each tensor of the model, and the tensor's name there.
    """

    config: PreTrainedConfig
    sharding: Sharding
    places: dict[str, tuple[Path, str]]


def read_source(where: str, folder: Path, files: Iterable[str]) -> Source:
    """Look at the folder of a model: its config, its tokenizer, and the headers of its weights.

    Args:
        where: The model, for messages.
        folder: The folder.
        files: The names of the model's files in it.

    Raises:
        UserError: The model is of a kind that is not supported, or its files are damaged or do not
            fit each other.
    """
    written = read_config(folder)
    check_supported(written, where)
    check_shapes(written, folder / "config.json")
    config = load_config(folder)
    own, config.dtype = config.dtype, torch.float32
    # Shapes do not depend on the precision, which may be one that torch cannot compute in.
    meta = meta_model(config)
    config.dtype = own
    sharding = Sharding(find_blocks(meta, config.num_hidden_layers), config.num_hidden_layers)
    check_blocks(meta, sharding.path)
    others = [file for file in files if not file.endswith(".safetensors")]
    check_json_files(folder, others)
    _check_tokenizer(where, folder, others, config.vocab_size)
    places = _tensor_files(folder, files, meta, sharding)
    _check_tensor_shapes(places, meta)
    return Source(config, sharding, places)


def _tensor_files(
    folder: Path, files: Iterable[str], meta: torch.nn.Module, sharding: Sharding
) -> dict[str, tuple[Path, str]]:
    """Return, for each tensor of the model, the file that holds it and its name there.

    Some checkpoints name tensors relative to the backbone (`layers...` for `model.layers...`), or
    as older releases of transformers did (`embed_out` for GPT-NeoX's head).
    """
    found: dict[str, tuple[Path, str]] = {}
    for path in (folder / file for file in files if file.endswith(".safetensors")):
        with opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                found[name] = (path, name)
    prefix = f"{meta.base_model_prefix}."
    needed = set(meta.state_dict())
    conversions = get_model_conversion_mapping(meta)  # type: ignore[arg-type]
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]

    def today(name: str) -> str:
        for renaming in [] if name in needed else renamings:
            name = renaming.rename_source_key(name)[0]
        return name if name in needed or prefix + name not in needed else prefix + name

    renamed = {today(name): place for name, place in found.items()}
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
    return {name: place for name, place in renamed.items() if name in needed}


def _check_tensor_shapes(places: Mapping[str, tuple[Path, str]], meta: torch.nn.Module) -> None:
    """Refuse tensors whose shapes are not those that the model's config gives them.

    Args:
        places: The file that holds each tensor of the model, and the tensor's name there.
        meta: The model without weights.

    Raises:
        UserError: There is such a tensor, so `from_pretrained` would refuse the checkpoint.
    """
    expected = {name: list(tensor.shape) for name, tensor in meta.state_dict().items()}
    for name, (path, stored) in places.items():
        with opened(path) as file:
            found = list(file.get_slice(stored).get_shape())
        if found != expected[name]:
            raise UserError(
                "a tensor has another shape than the model's config gives it",
                where=f"{path}: {stored}",
                found=" x ".join(map(str, found)),
                expected=" x ".join(map(str, expected[name])),
                todo="use the config.json that belongs to the weights",
            )


def _check_tokenizer(model: str, folder: Path, files: Iterable[str], vocabulary: int) -> None:
    """Refuse a tokenizer that cannot be read, or has tokens for which there is no embedding.

    Raises:
        UserError: It is such a tokenizer.
    """
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
            todo="complete the download of the model",
        ) from error


if __name__ == "__main__":
    try:
        read_source(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
    except UserError as error:
        print(error)  # noqa: T201
        sys.exit(REFUSED)
