"""What a model is, from its small files alone: no tensor is read, and no tensor library imported.

From this, `freelunch new` chooses a study's settings, and `freelunch check` refuses what the first
step of a study would refuse.
"""

import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from freelunch.core.errors import REFUSED, UserError, first_line
from freelunch.data.sources.model_folder import (
    CONFIG,
    check_config,
    check_rows,
    model_files,
    read_config,
    read_gguf_header,
)
from freelunch.study.families import sizes_of
from freelunch.study.source_files import gguf_of
from freelunch.study.sources import Dtype

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
# Families that transformers converts from GGUF, out of those that are tested. A test compares them.
CONVERTED = ("bloom", "falcon", "gemma2", "gemma3", "llama", "mistral", "phi3", "qwen2", "qwen3")


@dataclass(frozen=True)
class InspectedModel:
    """A model as its config and its tokenizer describe it.

    Attributes:
        config: The decoder's config, under the keys of a transformers config; of a GGUF file, only
            the family, the number of blocks and the longest sequence.
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
        longest = self.config.get("max_position_embeddings")
        return longest if isinstance(longest, int) else None


def inspect_path(path: Path, where: str) -> InspectedModel:
    """Look at a model on this machine.

    Args:
        path: A folder of config, tokenizer and safetensors; a GGUF file; or a folder with one.
        where: The path's key in the study, or the argument that gave it, for messages.

    Raises:
        UserError: There is no model, or its config or its tokenizer cannot be used.
    """
    gguf = gguf_of(path, where)
    if gguf is not None:
        return _inspect_gguf(gguf, where)
    if not path.is_dir():
        raise UserError(
            "there is no model",
            where=where,
            found=f"{path.absolute()} {'is a file' if path.exists() else 'does not exist'}",
            expected=f"a folder with {CONFIG}, a tokenizer and safetensors, or a GGUF file",
            todo="correct the path, which may be absolute, or relative to this folder; of a model "
            "in a folder, name the folder",
        )
    return inspect_files(path, model_files(where, path), where)


def check_as_fetched(path: Path, where: str) -> None:
    """Refuse a folder that fetching would refuse before it reads a weight: its config, its
    tokenizer or the headers of its weights are damaged, or do not fit each other.

    These checks need torch, so a process of their own makes them. A GGUF file is passed over, since
    it must be converted first. The arguments are those of `inspect_path`.
    """
    if gguf_of(path, where) is not None:
        return
    files = model_files(where, path)
    command = [sys.executable, "-m", "freelunch.data.model_source", where, str(path), *files]
    library = {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        command, env={**os.environ, **library}, capture_output=True, text=True, check=False
    )
    if done.returncode == REFUSED:
        raise UserError(done.stdout.strip())
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        raise UserError(
            "the model cannot be read", where=where, found=lines[-1][:300], todo="use a sound model"
        )


def inspect_files(folder: Path, names: Iterable[str], where: str) -> InspectedModel:
    """Look at the config and the tokenizer of a model whose files have these names.

    Raises:
        UserError: They do not describe a model that a study can use.
    """
    written = read_config(folder)
    check_config(written, where, folder / CONFIG)
    # Models with several parts (text, vision) keep the decoder's shapes in a config of its own.
    text = written.get("text_config")
    config = {**written, **text} if isinstance(text, Mapping) else written
    stated = [config.get("dtype"), config.get("torch_dtype")]
    dtype = next((each for each in stated if each in get_args(Dtype)), None)
    tokenizer = read_tokenizer(folder / TOKENIZER, where) if TOKENIZER in names else None
    rows = config.get("vocab_size")
    if tokenizer is not None and isinstance(rows, int):
        check_rows(tokenizer.get_vocab(), tokenizer.get_added_tokens_decoder(), rows, where)
    return InspectedModel(config, dtype, tokenizer, gguf=False)


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


def _inspect_gguf(file: Path, where: str) -> InspectedModel:
    header = read_gguf_header(file, where)
    if header.architecture not in CONVERTED:
        raise UserError(
            "GGUF files of this family cannot be converted, or are not tested",
            where=where,
            found=header.architecture,
            expected=f"one of {', '.join(CONVERTED)}",
            todo="use the model's safetensors",
        )
    if not header.has_tokenizer:
        raise UserError("the GGUF file has no tokenizer", where=where, todo="use a complete file")
    config = {
        # As transformers names it; llama.cpp names Mistral `llama`, too: their blocks are alike.
        "model_type": "gemma3_text" if header.architecture == "gemma3" else header.architecture,
        "num_hidden_layers": header.blocks,
        "max_position_embeddings": header.positions,
    }
    return InspectedModel(config, "float32", None, gguf=True)
