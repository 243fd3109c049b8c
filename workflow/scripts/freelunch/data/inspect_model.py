"""What a model is, from its small files alone: no tensor is read, and no tensor library imported.

Fetching takes the files that are named here, `freelunch new` chooses settings by what they say, and
`freelunch check` refuses what the first step of a study would refuse.
"""

import json
import math
import os
import subprocess
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from freelunch.core.errors import REFUSED, UserError, first_line, first_of
from freelunch.study.beginnings import Beginning
from freelunch.study.families import positions_of, sizes_of
from freelunch.study.gguf_header import read_header
from freelunch.study.model_limits import check_shapes, check_supported
from freelunch.study.source_files import gguf_of
from freelunch.study.sources import Dtype

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIG, TOKENIZER = "config.json", "tokenizer.json"
INDEX = "model.safetensors.index.json"
# Everything that a causal language model and its tokenizer need; no code and no pickle.
MODEL_FILES = [CONFIG, "generation_config.json", "*.safetensors", "*.safetensors.index.json"]
MODEL_FILES += [TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "*.model"]
MODEL_FILES += ["added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"]
MODEL_FILES += ["chat_template.json", "*.jinja"]
# Subfolders hold other formats; `consolidated` is Mistral's second copy of the weights.
OTHER_FILES = ["*/*", "consolidated*"]
TOKENIZERS = (TOKENIZER, "tokenizer.model", "vocab.json")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".msgpack", ".h5")
# A larger config.json is refused.
CONFIG_BYTES = 10_000_000
# Families that transformers converts from GGUF, out of those that are tested. A test compares them.
CONVERTED = ("bloom", "falcon", "gemma2", "gemma3", "llama", "mistral", "phi3", "qwen2", "qwen3")
# Keys of a GGUF header: the token, and whether the tokenizer begins a text with it.
_GGUF_BOS = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.add_bos_token")
COMPLETE = "complete the download of the model, or correct the file"


@dataclass(frozen=True)
class InspectedModel:
    """A model: the decoder's config, under the keys of a transformers config (of a GGUF file what
    its header tells); the precision in which a study keeps it unless it says otherwise, None if its
    config states none that can be used; its tokenizer, and how this begins a text, None if it is
    not in a `tokenizer.json`.
    """

    config: Mapping[str, Any]
    dtype: str | None
    tokenizer: "Tokenizer | None"
    gguf: bool = False
    beginning: Beginning | None = None

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
        return positions_of(self.sizes)


def inspect_path(path: Path, where: str) -> InspectedModel:
    """Look at a model on this machine: a folder of config, tokenizer and safetensors; a GGUF file;
    or a folder with one. `where` is the key or the argument that gave the path.

    UserError if there is no model, or its config or its tokenizer cannot be used.
    """
    gguf = gguf_of(path, where)
    if gguf is not None:
        config, keys = read_gguf_header(gguf, where), read_header(gguf).keys
        token, adds = map(keys.get, _GGUF_BOS)
        known = token is not None and adds is not None
        beginning = Beginning(f"token {token}", bool(adds)) if known else None
        return InspectedModel(config, "float32", None, gguf=True, beginning=beginning)
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


def inspect_files(folder: Path, names: Iterable[str], where: str) -> InspectedModel:
    """Look at the config and the tokenizer of a model whose files have these names; UserError if no
    study can use it.
    """
    written = read_config(folder, where)
    # Models with several parts (text, vision) keep the decoder's shapes in a config of its own.
    text = written.get("text_config")
    config = {**written, **text} if isinstance(text, Mapping) else written
    stated = [config.get("dtype"), config.get("torch_dtype")]
    dtype = next((each for each in stated if each in get_args(Dtype)), None)
    tokenizer = read_tokenizer(folder / TOKENIZER, where) if TOKENIZER in names else None
    rows = config.get("vocab_size")
    if tokenizer is not None and isinstance(rows, int):
        check_rows(tokenizer.get_vocab(), tokenizer.get_added_tokens_decoder(), rows, where)
    beginning = beginning_of(folder, tokenizer) if tokenizer is not None else None
    return InspectedModel(config, dtype, tokenizer, beginning=beginning)


def beginning_of(folder: Path, tokenizer: "Tokenizer") -> Beginning:
    """Return how the tokenizer in a folder begins a text."""
    stated: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        content = read_json(folder / name) if (folder / name).is_file() else {}
        stated |= content if isinstance(content, dict) else {}
    token = stated.get("bos_token")
    token = token.get("content") if isinstance(token, Mapping) else token
    first = tokenizer.encode("a").tokens[:1]
    return Beginning(token, token is not None and first == [token])


def check_as_fetched(path: Path, where: str) -> None:
    """Refuse a folder that fetching would refuse before it reads a weight: its config, its
    tokenizer or the headers of its weights are damaged, or do not fit each other.

    These checks need torch, so a process of their own makes them. A GGUF file is passed over, since
    it must be converted first.
    """
    if gguf_of(path, where) is not None:
        return
    files = model_files(where, path)
    command = [sys.executable, "-m", "freelunch.data.models", where, str(path), *files]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode == REFUSED:
        raise UserError(done.stdout.strip())
    if done.returncode:
        found = (done.stderr.strip().splitlines() or ["no reason given"])[-1][:300]
        todo = "use a sound model"
        raise UserError("the model cannot be read", where=where, found=found, todo=todo)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of a model; UserError if it is damaged."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        found, problem = first_line(error), "a file of the model is not valid JSON"
        raise UserError(problem, where=path, found=found, todo=COMPLETE) from error


def read_config(folder: Path, where: str) -> dict[str, Any]:
    """Return the content of a model's config.json; `where` is the model, for messages.

    UserError if it is no config, or that of a model that cannot be pruned, whatever its weights
    are: of a kind that is not supported, of absurd shapes, without a family, or quantised, so that
    its weights mean nothing without their scales.
    """
    path = folder / CONFIG
    if (size := path.stat().st_size) > CONFIG_BYTES:
        expected = f"at most {CONFIG_BYTES:,} bytes"
        raise UserError("no config is so large", where=path, found=size, expected=expected)
    config = read_json(path)
    if not isinstance(config, dict):
        found, expected = str(config)[:60], "a JSON object"
        raise UserError("not a config", where=path, found=found, expected=expected)
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
    return config


def read_tokenizer(file: Path, where: str) -> "Tokenizer":
    """Return the tokenizer in a `tokenizer.json`; UserError if it cannot be read."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    # The library raises nothing more specific.
    except Exception as error:
        place, found = f"{where}: {file}", first_line(error)
        problem = "the tokenizer cannot be read"
        raise UserError(problem, where=place, found=found, todo=COMPLETE) from error


def check_rows(vocabulary: Mapping[str, int], added: Container[int], rows: int, where: str) -> None:
    """Refuse a tokenizer with tokens for which there is no row of the embedding, or that share one.
    Numbers of `added` tokens may lie beyond, such as that of a token for images: texts with it are
    refused later.
    """
    numbers = [at for at in vocabulary.values() if at not in added]
    largest, shared = max(numbers, default=-1), len(numbers) - len({*numbers})
    if largest >= rows or shared:
        many = f"{shared} of {len(numbers):,} tokens with the number of another one"
        raise UserError(
            "the tokenizer does not fit the model's embedding",
            where=where,
            found=many if shared else f"a token with the number {largest:,}",
            expected=f"a number below {rows:,}, the rows of the embedding, for each token",
            todo="use the tokenizer that belongs to the model",
        )


def model_files(where: str, folder: Path, listed: Iterable[str] = ()) -> list[str]:
    """Return the names of the files that make up the model in a folder, or in what the source lists
    if the folder holds only some of it.

    UserError if the config, the tokenizer or safetensors weights are missing, or a file is a link
    out of the folder.
    """
    present = sorted(listed or (path.name for path in folder.iterdir() if path.is_file()))
    names = _of_model(present)
    if CONFIG not in names:
        folders = (each for each in folder.iterdir() if each.is_dir())
        beside = [] if listed else sorted(f"{each.name}/" for each in folders)
        raise _lacking(where, f"is no {CONFIG}", [*beside, *present])
    check_weights(where, present)
    if not any(name in names for name in TOKENIZERS):
        raise _lacking(where, f"is no tokenizer ({', '.join(TOKENIZERS)})", present)
    weights = _weights(where, folder, names)
    taken = [name for name in names if name in weights or not name.endswith(".safetensors")]
    for name in taken:
        check_link(where, folder, name)
    return taken


def check_weights(where: str, present: Sequence[str]) -> None:
    """Refuse a model that has no safetensors among its files."""
    if any(name.endswith(".safetensors") for name in _of_model(present)):
        return
    pickles = [name for name in present if name.endswith(PICKLES)]
    if not pickles:
        raise _lacking(where, "are no weights", present)
    raise UserError(
        "safetensors only, never pickle: opening a pickle can run any code",
        where=where,
        found=", ".join(first_of(pickles)),
        expected="*.safetensors",
        todo="look among the pull requests on the hub's page of the model for a conversion, and "
        "set `revision: refs/pr/NUMBER`; or, if you trust the model, save it with "
        "`save_pretrained(folder)` and use that",
    )


def check_link(where: str, folder: Path, name: str) -> None:
    """Refuse a link that leaves a model's folder: whatever it points to would be copied. In the
    hub's cache, files are links from `snapshots/COMMIT` to `blobs`.
    """
    target, inside = (folder / name).resolve(), folder.resolve()
    blobs = inside.parent.parent / "blobs"
    in_cache = inside.parent.name == "snapshots" and target.parent == blobs
    if (folder / name).is_symlink() and not (target.is_relative_to(inside) or in_cache):
        raise UserError(
            "a file of the model is a link that leaves its folder",
            where=f"{where}: {name}",
            found=target,
            expected=f"a file, or a link to one in {inside}",
            todo="if you trust it, replace the link by the file",
        )


def read_gguf_header(file: Path, where: str) -> dict[str, Any]:
    """Return the shapes and the kind of the model in a GGUF file, under the keys of a transformers
    config, as its header states them.

    UserError if the file is damaged or has no tokenizer, or if its family is not supported, or not
    tested to be converted by transformers.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        header, size = read_header(file), file.stat().st_size
        for each in header.tensors.values():
            values, stored = GGML_QUANT_SIZES[GGMLQuantizationType(each.kind)]
            if each.start + math.prod(each.shape) // values * stored > size:
                raise ValueError("cut off")
        config, family = header.config, header.family
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(
            "not a valid GGUF file: it is damaged or cut off",
            where=where,
            found=f"{file}: {error.strerror}" if isinstance(error, OSError) else file,
            todo="fetch the file again",
        ) from error
    check_supported(config, where)
    check_shapes(config, file)
    if family not in CONVERTED or "tokenizer.ggml.tokens" not in header.keys:
        raise UserError(
            "a GGUF file of this family cannot be converted, or it is not tested",
            where=where,
            found=family if family not in CONVERTED else f"{family}, without a tokenizer",
            expected=f"one of {', '.join(CONVERTED)}, with a tokenizer",
            todo="use the model's safetensors",
        )
    tokens = header.keys["tokenizer.ggml.tokens"]
    check_rows({"the last token": tokens - 1}, (), config.get("vocab_size", tokens), where)
    return config


def _of_model(present: Iterable[str]) -> list[str]:

    def matches(name: str, patterns: Iterable[str]) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    return [
        name for name in present if matches(name, MODEL_FILES) and not matches(name, OTHER_FILES)
    ]


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
    if missing := sorted(named - set(names)):
        raise UserError(
            f"{INDEX} names files that are not there",
            where=where,
            found=f"no {', '.join(first_of(missing))}",
            expected=f"all {len(named)} files of the index",
            todo="complete the download of the model",
        )
    return named


def _lacking(where: str, what: str, present: Sequence[str]) -> UserError:
    found = ", ".join(first_of(present, 8)) or "an empty folder"
    todo = "add it to the model, or name the folder that has it"
    return UserError(f"there {what}", where=where, found=found, todo=todo)
