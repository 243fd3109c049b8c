"""Fetch a model and write it as a checkpoint with one shard per block."""

import json
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.digest import json_digest
from freelunch.core.errors import UserError, first_of
from freelunch.data.model_source import opened, read_model_folder
from freelunch.data.sources import fetching, obtain
from freelunch.data.sources.model_folder import read_gguf_header
from freelunch.model.checkpoint import KIND, Sharding, finish_checkpoint, write_shard
from freelunch.study.families import FAMILIES, sizes_of
from freelunch.study.source_files import GGUF
from freelunch.study.sources import Dtype, Model

DTYPES: tuple[torch.dtype, ...] = tuple(getattr(torch, name) for name in get_args(Dtype))


def fetch_model(
    name: str,
    entry: Model,
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Obtain a model and write it as a checkpoint with one shard per block.

    Args:
        name: Key in `models`, for messages.
        entry: The model's entry in the config.
        folder: Output folder.
        fingerprint: Digest of everything else that the result depends on.

    Raises:
        UserError: The model cannot be obtained, is of a kind that is not supported, its blocks
            cannot be found, it lacks tensors, a weight is not finite, or its shapes differ from
            those in `architecture`.
    """
    where = f"models.{name}"
    with fetching(folder) as scratch:
        obtained = obtain(where, entry, scratch)
        # A file at a path may have been replaced since an attempt was interrupted.
        depends_on = json_digest([fingerprint, obtained.origin["files"]])
        writer = ArtifactWriter(folder, KIND, depends_on)
        raw, files = obtained.path.parent, sorted(obtained.files)
        if obtained.path.suffix == GGUF:
            _check_convertible(obtained.path, where)
            raw = scratch / "dequantised"
            dequantise(obtained.path, raw)
            files = sorted(path.name for path in raw.iterdir())
        source = read_model_folder(where, raw, files)
        config, sharding = source.config, source.sharding
        if entry.architecture is not None:
            _check_architecture(where, config, entry.architecture.as_json())
        config.dtype = _dtype(where, entry, config)
        _write_shards(writer, sharding, source.places, config.dtype)
        for file in files:
            if not file.endswith((".safetensors", ".index.json")) and file != "config.json":
                writer.add(file, partial(shutil.copyfile, raw / file))
        writer.add_text("config.json", config.to_json_string(use_diff=False))
        return finish_checkpoint(
            writer,
            sharding.shards,
            settings=entry.deciding(),
            origin=obtained.origin,
            block_path=sharding.path,
        )


def _dtype(where: str, entry: Model, config: PreTrainedConfig) -> torch.dtype:
    """Return the precision in which a model is stored: the entry's, or the checkpoint's own."""
    if entry.dtype is not None:
        asked: torch.dtype = getattr(torch, entry.dtype)
        return asked
    if config.dtype not in DTYPES:
        raise UserError(
            "the model's config.json states no dtype that can be used here",
            where=f"{where}.dtype",
            found=config.dtype,
            expected=f"one of: {', '.join(get_args(Dtype))}",
            todo="set `dtype` in the model's entry",
        )
    return config.dtype


def _check_convertible(gguf: Path, where: str) -> None:
    """Refuse a GGUF file that is damaged, or that transformers cannot convert exactly."""
    architecture = read_gguf_header(gguf, where).architecture
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        convertible = sorted({*FAMILIES} & {*GGUF_SUPPORTED_ARCHITECTURES})
        raise UserError(
            "transformers cannot convert a GGUF file of this architecture",
            where=where,
            found=architecture,
            expected=f"one that it converts, such as {', '.join(convertible)}",
            todo="use the model's safetensors",
        )


def dequantise(gguf: Path, folder: Path) -> None:
    """Write the model of a GGUF file, as float32 safetensors, and its tokenizer to a folder.

    The whole model is in memory: GGUF files are for small models.

    Raises:
        UserError: The file lacks tensors, which transformers would draw at random.
    """
    loaded: tuple[Any, dict[str, Any]] = AutoModelForCausalLM.from_pretrained(  # type: ignore[assignment]
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, output_loading_info=True
    )
    model, info = loaded
    if info["missing_keys"]:
        missing = sorted(info["missing_keys"])
        raise UserError(
            "the GGUF file lacks tensors of its own architecture",
            where=gguf,
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
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def _write_shards(
    writer: ArtifactWriter,
    sharding: Sharding,
    places: Mapping[str, tuple[Path, str]],
    dtype: torch.dtype,
) -> None:
    """Copy tensor by tensor into shards; one shard is in memory at a time."""
    for shard in sharding.shards:
        names = [name for name in places if sharding.shard(name) == shard]
        if shard not in writer:
            write_shard(writer, shard, dict(_read(names, places, dtype)))


def _read(
    names: list[str], places: Mapping[str, tuple[Path, str]], dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for name in names:
        path, stored = places[name]
        with opened(path) as file:
            tensor: Tensor = file.get_tensor(stored).to(dtype)
        if not torch.isfinite(tensor).all():
            raise UserError(
                "a weight is not finite",
                where=f"{path}: {stored}",
                found=f"{int((~torch.isfinite(tensor)).sum())} of {tensor.numel()} not finite",
                expected=f"numbers that are finite as {str(dtype).removeprefix('torch.')}",
                todo="use a sound checkpoint, or a dtype that can hold its largest weight",
            )
        yield name, tensor


def _check_architecture(where: str, config: PreTrainedConfig, announced: Mapping[str, Any]) -> None:
    sizes = sizes_of(config.to_dict())
    different = {key: sizes.get(key) for key in announced if sizes.get(key) != announced[key]}
    if different:
        raise UserError(
            "the model's shapes differ from what the config announces",
            where=f"{where}.architecture",
            found=json.dumps(different),
            expected=json.dumps({key: announced[key] for key in different}),
            todo="correct `architecture`, or the model's source",
        )
