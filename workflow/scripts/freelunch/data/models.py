"""Fetch a model and write it as a checkpoint with one shard per block.

    python -m freelunch.data.models WHERE FOLDER FILE...

checks a folder without reading its weights, in a process of its own, for `freelunch check` and
`freelunch new`, which must not import torch. It prints an error, and its exit status is `REFUSED`.
"""

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args

import gguf
import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.digest import json_digest
from freelunch.core.errors import REFUSED, UserError, first_line, first_of
from freelunch.data import inspect_model
from freelunch.data.sources import fetching, obtain
from freelunch.model import checkpoint
from freelunch.model.blocks import check_blocks, find_blocks
from freelunch.model.checkpoint import CONFIG, Sharding, write_shard
from freelunch.study.families import sizes_of
from freelunch.study.source_files import GGUF
from freelunch.study.sources import Dtype, Model

DTYPES: tuple[torch.dtype, ...] = tuple(getattr(torch, name) for name in get_args(Dtype))
# Longer arrays in the header of a GGUF file are those of a vocabulary.
_SHORT_ARRAY = 10_000
# Where a tensor is stored: the file, and the tensor's name there.
Place = tuple[Path, str]


def fetch_model(name: str, entry: Model, folder: Path, fingerprint: str) -> Artifact:
    """Obtain a model, the entry `name` of `models`, and write it as a checkpoint with one shard per
    block. The fingerprint is the digest of all else that the result depends on.

    UserError if the model cannot be obtained, is of a kind that is not supported, its blocks cannot
    be found, it lacks tensors, a weight is not finite, or its shapes differ from those in
    `architecture`.
    """
    where = f"models.{name}"
    with fetching(folder) as scratch:
        obtained = obtain(where, entry, scratch)
        # A file at a path may have been replaced since an attempt was interrupted.
        depends_on = json_digest([fingerprint, obtained.origin["files"]])
        writer = ArtifactWriter(folder, checkpoint.KIND, depends_on)
        raw, files = obtained.path.parent, sorted(obtained.files)
        is_gguf = obtained.path.suffix == GGUF
        if is_gguf:
            inspect_model.read_gguf_header(obtained.path, where)
            raw = scratch / "dequantised"
            _dequantise(obtained.path, raw)
            files = sorted(path.name for path in raw.iterdir())
        config, sharding, places = read_model_folder(where, raw, files, converted=is_gguf)
        if entry.architecture is not None:
            announced, sizes = entry.architecture.as_json(), sizes_of(config.to_dict())
            wrong = [key for key in announced if sizes.get(key) != announced[key]]
            if wrong:
                raise UserError(
                    "the model's shapes differ from what the config announces",
                    where=f"{where}.architecture",
                    found=json.dumps({key: sizes.get(key) for key in wrong}),
                    expected=json.dumps({key: announced[key] for key in wrong}),
                    todo="correct `architecture`, or the model's source",
                )
        config.dtype = dtype = getattr(torch, entry.dtype) if entry.dtype else config.dtype
        if dtype not in DTYPES:
            raise UserError(
                "the model's config.json states no dtype that can be used here",
                where=f"{where}.dtype",
                found=dtype,
                expected=f"one of: {', '.join(get_args(Dtype))}",
                todo="set `dtype` in the model's entry",
            )
        for shard in sharding.shards:
            if shard not in writer:
                names = [name for name in places if sharding.shard(name) == shard]
                read = ((name, _read_tensor(*places[name], dtype)) for name in names)
                write_shard(writer, shard, dict(read))
        for file in files:
            if not file.endswith((".safetensors", ".index.json")) and file != CONFIG:
                writer.add(file, partial(shutil.copyfile, raw / file))
        writer.add_text(CONFIG, config.to_json_string(use_diff=False))
        return checkpoint.finish_checkpoint(
            writer,
            sharding.shards,
            settings=entry.deciding(),
            origin=obtained.origin,
            block_path=sharding.path,
        )


def _dequantise(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file, as float32 safetensors, and its tokenizer to a folder. The
    whole model is in memory. UserError if the file lacks tensors, which would be drawn at random.
    """
    place: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    with _reading_no_vocabulary():
        loaded: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
            **place, dtype=torch.float32, output_loading_info=True
        )
        tokenizer = AutoTokenizer.from_pretrained(**place)
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            "the GGUF file lacks tensors of its own architecture",
            where=file,
            found=f"no {', '.join(first_of(missing))}",
            todo="use a complete GGUF file, or the model's safetensors",
        )
    # With these attributes, save_pretrained takes the model for a quantised one and refuses.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    # This name comes from the file's header and would make equal configs differ.
    model.config._name_or_path = ""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _reading_no_vocabulary() -> Iterator[None]:
    """Let transformers read GGUF files without making arrays of each token of a vocabulary.

    For the config and the tensors, it reads a file three times by the gguf package, which takes 13
    seconds each time if there are 262,144 tokens. There it only counts them: it makes a tokenizer
    by a reader of its own.
    """
    whole = gguf.GGUFReader
    gguf.GGUFReader = _WithoutVocabulary  # type: ignore[misc]
    try:
        yield
    finally:
        gguf.GGUFReader = whole  # type: ignore[misc]


class _WithoutVocabulary(gguf.GGUFReader):
    """A reader that takes all texts of a long array for the first one, and of numbers only that."""

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[Any], list[int], list[gguf.GGUFValueType]]:
        kind = int(self._get(orig_offs, np.uint32)[0])
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        if raw_type != gguf.GGUFValueType.ARRAY or count <= _SHORT_ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        first = end = orig_offs + 12
        size, parts, at, types = super()._get_field_parts(first, kind)
        types = [gguf.GGUFValueType.ARRAY, *types]
        if kind != gguf.GGUFValueType.STRING:
            return 12 + size * count, parts, at, types
        data = memoryview(self.data)  # type: ignore[arg-type]
        for _ in range(count):
            end += 8 + int.from_bytes(data[end : end + 8], "little")
        return end - orig_offs, parts, at * count, types


def _read_tensor(path: Path, stored: str, dtype: torch.dtype) -> torch.Tensor:
    with _opened(path) as file:
        tensor: torch.Tensor = file.get_tensor(stored).to(dtype)
    finite, found = torch.isfinite(tensor), None
    if not finite.all():
        found = f"{int((~finite).sum())} of {tensor.numel()} not finite"
    elif tensor.dim() > 1 and not tensor.any():
        found = f"{tensor.numel()} zeros"
    if found is not None:
        raise UserError(
            "these are no weights of a trained model",
            where=f"{path}: {stored}",
            found=found,
            expected=f"numbers that are finite as {str(dtype).removeprefix('torch.')}, not all 0",
            todo="use a sound checkpoint, or a dtype that can hold its weights",
        )
    return tensor


def read_model_folder(
    where: str, folder: Path, files: Iterable[str], *, converted: bool = False
) -> tuple[PreTrainedConfig, Sharding, dict[str, Place]]:
    """Look at these files of a model: its config, its tokenizer (unless transformers has converted
    it just now), and the headers of its weights. Return the decoder's config, how the tensors will
    be divided, and where each of them is.

    UserError if it is of a kind that is not supported, or its files are damaged or do not fit each
    other.
    """
    inspect_model.read_config(folder, where)
    config = checkpoint.load_config(folder)
    own, config.dtype = config.dtype, torch.float32
    # Shapes do not depend on the precision, which may be one that torch cannot compute in.
    meta = checkpoint.meta_model(config)
    config.dtype = own
    blocks = config.num_hidden_layers
    sharding = Sharding(find_blocks(meta, blocks), blocks)
    check_blocks(meta, sharding.path)
    if not converted:
        _check_tokenizer(where, folder, files, config.vocab_size)
    return config, sharding, _places(folder, files, meta, sharding)


def _check_tokenizer(where: str, folder: Path, files: Iterable[str], rows: int) -> None:
    others = [file for file in files if not file.endswith(".safetensors")]
    for file in others:
        if file.endswith(".json"):
            # Whoever loads the checkpoint reads it.
            inspect_model.read_json(folder / file)
    place = f"{where}: tokenizer"
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        added, known = tokenizer.added_tokens_decoder, tokenizer.get_vocab()
    # Whatever a damaged or hostile tokenizer makes these libraries raise.
    except Exception as error:
        raise UserError(
            "the tokenizer cannot be read",
            where=place,
            found=first_line(error),
            expected=f"a tokenizer that transformers reads, in {', '.join(others)}",
            todo=inspect_model.COMPLETE,
        ) from error
    inspect_model.check_rows(known, added, rows, place)


def _places(
    folder: Path, files: Iterable[str], meta: torch.nn.Module, sharding: Sharding
) -> dict[str, Place]:
    """Return where each tensor of the model is. Some checkpoints name them relative to the backbone
    (`layers...` for `model.layers...`), or as older releases did (`embed_out` for GPT-NeoX's head).
    """
    kinds: dict[Place, tuple[list[int], str]] = {}
    for path in (folder / file for file in files if file.endswith(".safetensors")):
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                tensor = file.get_slice(name)
                kinds[path, name] = list(tensor.get_shape()), str(tensor.get_dtype())
    prefix, needed = f"{meta.base_model_prefix}.", meta.state_dict()
    conversions = get_model_conversion_mapping(meta)  # type: ignore[arg-type]
    renamings = [each for each in conversions if isinstance(each, WeightRenaming)]

    def today(name: str) -> str:
        for renaming in [] if name in needed else renamings:
            name = renaming.rename_source_key(name)[0]
        return name if name in needed or prefix + name not in needed else prefix + name

    renamed = {today(name): (path, name) for path, name in kinds}
    # Tied tensors are stored once, under either name.
    tied = getattr(meta, "all_tied_weights_keys", None) or {}
    stored = {tied.get(name, name) for name in renamed}
    if missing := sorted(name for name in needed if tied.get(name, name) not in stored):
        raise UserError(
            "the checkpoint lacks tensors of its own architecture",
            where=folder,
            found=f"no {', '.join(first_of(missing))}",
            expected=f"the {len(needed)} tensors of {type(meta).__name__}",
            todo="use a complete safetensors checkpoint",
        )
    todo = "use the config.json that belongs to the weights"
    beyond = [name for name in renamed if sharding.shard(name) not in sharding.shards]
    if beyond:
        raise UserError(
            "the weights have more blocks than the config says",
            where=folder,
            found=beyond[0],
            expected=f"num_hidden_layers = {sharding.num_blocks} blocks",
            todo=todo,
        )
    used = {name: place for name, place in renamed.items() if name in needed}
    for name, place in used.items():
        (shape, dtype), tensor = kinds[place], needed[name]
        is_whole = tensor.is_floating_point() and "F" not in dtype
        if shape != list(tensor.shape) or is_whole:
            raise UserError(
                "a tensor has another shape or kind of numbers than the model's config gives it",
                where=f"{place[0]}: {place[1]}",
                found=f"{dtype}, {' x '.join(map(str, shape))}",
                expected=f"floating-point numbers, {' x '.join(map(str, tensor.shape))}",
                todo=f"{todo}; of a quantised model, use the one that it was quantised from",
            )
    return used


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
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
