"""What a model is, from its small files alone: no tensor is read, and no tensor library imported.

From this, `freelunch new` chooses a study's settings, and `freelunch check` refuses what the first
step of a study would refuse.
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from freelunch.core.errors import REFUSED, UserError, first_line, first_of
from freelunch.data.sources.folder import (
    CONFIG,
    check_json_files,
    check_rows,
    model_files,
    read_config,
)
from freelunch.study.families import FAMILIES, sizes_of
from freelunch.study.model_limits import check_shapes, check_supported
from freelunch.study.source_files import GGUF, gguf_of
from freelunch.study.sources import Dtype

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
# Families that transformers converts from GGUF, out of those that are tested. A test compares them.
CONVERTED = ("bloom", "falcon", "gemma2", "gemma3", "llama", "mistral", "phi3", "qwen2", "qwen3")
# Keys of a transformers config by those of a GGUF file, behind the name of its architecture.
_GGUF_KEYS = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
}
# A file with a longer header is damaged.
_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class SeenModel:
    """A model as its config and its tokenizer describe it.

    Attributes:
        config: The decoder's config, under the keys of a transformers config.
        dtype: Precision in which a study keeps it unless it says otherwise; None if the config
            states none that a study can use.
        tokenizer: The tokenizer; None if it is not in a `tokenizer.json`.
        gguf: Whether it is a GGUF file.
    """

    config: Mapping[str, Any]
    dtype: str | None
    tokenizer: "Tokenizer | None"
    gguf: bool

    @property
    def family(self) -> str:
        """Return the `model_type` of the config."""
        return str(self.config.get("model_type", ""))

    @property
    def sizes(self) -> dict[str, Any]:
        """Return the config with the sizes under Llama's names, as far as they are known ones."""
        try:
            return sizes_of(self.config)
        except KeyError:
            # A size that others follow from has a name that is not known.
            return dict(self.config)

    @property
    def positions(self) -> int | None:
        """Return the longest sequence that the model takes; None if its config states none."""
        found = self.config.get("max_position_embeddings")
        return found if isinstance(found, int) else None


def model_at(path: Path, where: str) -> SeenModel:
    """Look at a model on this machine.

    Args:
        path: A folder of config, tokenizer and safetensors; a GGUF file; or a folder with one.
        where: The path's key in the study, or the argument that gave it, for messages.

    Raises:
        UserError: There is no model, or fetching it would fail for a reason that shows without
            reading its tensors.
    """
    gguf = gguf_of(path, where)
    if gguf is not None:
        return _gguf_model(gguf, where)
    if not path.is_dir():
        raise _no_model(path, where)
    if not (path / CONFIG).is_file() and (inside := _models_below(path)):
        raise UserError(
            "this folder holds several models, but is not one itself"
            if len(inside) > 1
            else "this folder is not a model, but holds one",
            where=where,
            found=", ".join(first_of(inside)),
            expected="the folder of one model",
            todo=f"give the path of a model, such as {inside[0]}",
            instead=inside[0],
        )
    if not any(path.iterdir()):
        raise UserError(
            "this folder is empty",
            where=where,
            found=path.absolute(),
            expected=f"a folder with {CONFIG}, a tokenizer and safetensors, or a GGUF file",
            todo="download the model into it, or give the path of another folder",
        )
    names = model_files(where, path)
    for name in names:
        if name.endswith(".safetensors"):
            tensors_in(path / name, "complete the download of the model")
    check_json_files(path, names)
    return model_of_files(path, names, where)


def check_as_fetched(path: Path, where: str) -> None:
    """Refuse a folder that fetching would refuse before it reads a weight.

    These checks need torch, so a process of their own makes them. A GGUF file is passed over, since
    it must be converted first.

    Args:
        path: As of `model_at`, which has looked at it.
        where: The path's key in the study, or the argument that gave it, for messages.

    Raises:
        UserError: The config, the tokenizer or the headers of the weights are damaged, or do not
            fit each other.
    """
    if gguf_of(path, where) is not None:
        return
    files = model_files(where, path)
    command = [sys.executable, "-m", "freelunch.data.model_source", where, str(path), *files]
    library = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        command,
        env={**os.environ, "PYTHONPATH": library},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == REFUSED:
        raise UserError(done.stdout.strip())
    if done.returncode:
        raise UserError(
            "the model cannot be read",
            where=where,
            found=(done.stderr.strip().splitlines() or ["no reason given"])[-1][:300],
            todo="use a sound model",
        )


def model_of_files(folder: Path, names: Iterable[str], where: str) -> SeenModel:
    """Look at a model's config and tokenizer.

    Args:
        folder: The folder that holds both.
        names: The names of all files of the model.
        where: The model, for messages.

    Raises:
        UserError: They do not describe a model that a study can use.
    """
    written = read_config(folder)
    check_supported(written, where)
    check_shapes(written, folder / CONFIG)
    # Models with several parts (text, vision) keep the decoder's shapes in a config of its own.
    text = written.get("text_config")
    config = {**written, **text} if isinstance(text, Mapping) else written
    _check_kind(config, where)
    known = [config.get("dtype"), config.get("torch_dtype")]
    dtype = next((each for each in known if each in get_args(Dtype)), None)
    tokenizer = read_tokenizer(folder / TOKENIZER, where) if TOKENIZER in names else None
    rows = config.get("vocab_size")
    if tokenizer is not None and isinstance(rows, int):
        check_rows(tokenizer.get_vocab(), tokenizer.get_added_tokens_decoder(), rows, where)
    return SeenModel(config, dtype, tokenizer, gguf=False)


def read_tokenizer(file: Path, where: str) -> "Tokenizer":
    """Return the tokenizer in a `tokenizer.json`; UserError if it cannot be read."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    # The library raises nothing more specific.
    except Exception as error:
        raise UserError(
            "the tokenizer cannot be read",
            where=f"{where}: {file}",
            found=first_line(error),
            todo="complete the download of the model, or correct the file",
        ) from error


def _check_kind(config: Mapping[str, Any], where: str) -> None:
    """Refuse models that the fetch refuses as soon as it has built or read them."""
    family = config.get("model_type")
    if not isinstance(family, str) or not family:
        raise UserError(
            "config.json names no family",
            where=where,
            found="no `model_type`",
            expected=f"a `model_type`, such as {', '.join(list(FAMILIES)[:3])}",
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


def tensors_in(file: Path, todo: str) -> list[str]:
    """Return the names of the tensors in a safetensors file; only its header is read.

    Args:
        file: The file.
        todo: What to do about a file that is none, or that is not complete.

    Raises:
        UserError: The file has no header, or is shorter or longer than its header says.
    """
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header: Any = json.loads(opened.read(length)) if length <= _HEADER_BYTES else None
        names = [key for key in header if key != "__metadata__"]
        ends = [header[name]["data_offsets"][1] for name in names]
        announced = 8 + length + max(ends, default=0)
    except (struct.error, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise UserError(
            "not a complete safetensors file",
            where=file,
            found=f"{size:,} bytes that do not begin with a header",
            todo=f"{todo} (a file of about 130 bytes is a pointer of Git LFS: run `git lfs pull`)",
        ) from error
    if announced != size:
        raise UserError(
            "not a complete safetensors file",
            where=file,
            found=f"{size:,} bytes",
            expected=f"{announced:,} bytes, as its header says",
            todo=todo,
        )
    return names


def _gguf_model(file: Path, where: str) -> SeenModel:
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        fields = {
            key: field.contents() for key, field in reader.fields.items() if "ggml" not in key
        }
        architecture = str(fields["general.architecture"])
        vocabulary = reader.fields.get("tokenizer.ggml.tokens")
        tied = all(tensor.name != "output.weight" for tensor in reader.tensors)
    except (ValueError, KeyError, IndexError, OSError) as error:
        raise UserError(
            "not a valid GGUF file: it is damaged or cut off",
            where=where,
            found=f"{file}: {error.strerror}" if isinstance(error, OSError) else file,
            todo="fetch the file again",
        ) from error
    # llama.cpp writes `llama` also for Mistral and Mixtral.
    experts = [value for key, value in fields.items() if key.endswith(".expert_count")]
    check_supported(
        {"model_type": architecture.replace("-", "_"), "num_experts": max(experts, default=0)},
        where,
    )
    if architecture not in CONVERTED:
        raise UserError(
            "GGUF files of this family cannot be converted, or are not tested",
            where=where,
            found=architecture,
            expected=f"one of {', '.join(CONVERTED)}",
            todo="use the model's safetensors",
        )
    if vocabulary is None:
        raise UserError("the GGUF file has no tokenizer", where=where, todo="use a complete file")
    config: dict[str, Any] = {
        "model_type": _model_type(architecture, str(fields.get("general.name", ""))),
        "vocab_size": len(vocabulary.data),
        "tie_word_embeddings": tied,
    }
    for theirs, ours in _GGUF_KEYS.items():
        value = fields.get(f"{architecture}.{theirs}")
        # Some families list a value for each block.
        if isinstance(value, int):
            config[ours] = value
    return SeenModel(config, "float32", None, gguf=True)


def _model_type(architecture: str, name: str) -> str:
    """Return the family of a GGUF file, as transformers names it."""
    if architecture == "llama" and "mistral" in name.lower():
        return "mistral"
    return "gemma3_text" if architecture == "gemma3" else architecture


def _models_below(folder: Path) -> list[Path]:
    """Return the folders and GGUF files below a folder that the user may mean, at most three levels
    deep: the hub's cache keeps a model in `snapshots/COMMIT`.
    """
    found = {
        path.parent for depth in range(1, 4) for path in folder.glob(f"{'*/' * depth}{CONFIG}")
    }
    found |= {path for depth in (1, 2) for path in folder.glob(f"{'*/' * depth}*{GGUF}")}
    return sorted(found)


def _no_model(path: Path, where: str) -> UserError:
    found, instead = f"{path.absolute()} does not exist", None
    todo = "correct the path; it may be absolute, or relative to this folder"
    if path.is_file():
        found = f"the file {path}"
        todo = "unpack it" if path.suffix == ".zip" else "give the path of a model"
        if (path.parent / CONFIG).is_file():
            todo, instead = f"name its folder: {path.parent}", path.parent
    return UserError(
        "there is no model",
        where=where,
        found=found,
        expected=f"a folder with {CONFIG}, a tokenizer and safetensors, or a GGUF file",
        todo=todo,
        instead=instead,
    )
