"""Models as they are fetched, their precision and shapes; each broken one is one clear error."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    GPT2Config,
    MambaConfig,
    MixtralConfig,
    PreTrainedConfig,
    T5Config,
)

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.data import models
from freelunch.data.models import fetch_model
from freelunch.model.checkpoint import StreamedModel, load_config, write_shard
from freelunch.study.model_limits import check_shapes
from freelunch.study.sources import read_model
from refusals import refused
from tiny_gguf import FAMILY, write_gguf
from tiny_models import save_tiny_model, tiny_model, tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("sound") / "source")


@pytest.fixture
def source(sound: Path, tmp_path: Path) -> Path:
    """A private copy of a sound model's folder."""
    shutil.copytree(sound, tmp_path / "source")
    return tmp_path / "source"


def fetch(source: Path, folder: str = "checkpoint", **more: Any) -> Artifact:
    entry = read_model({"source": "path", "path": str(source), **more})
    return fetch_model("tiny", entry, source.with_name(folder), "fingerprint")


def tensors_of(checkpoint: Artifact) -> dict[str, torch.Tensor]:
    shards = [name for name in checkpoint.files if name.endswith(".safetensors")]
    return {
        name: tensor
        for shard in shards
        for name, tensor in load_file(checkpoint.path(shard)).items()
    }


def edit_config(source: Path, **changes: Any) -> None:
    """Change keys of a config.json; None leaves a key out."""
    path = source / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))


def test_a_model_that_was_replaced_since_an_interrupt_is_fetched_whole(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []

    def stop(writer: ArtifactWriter, name: str, *rest: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        write_shard(writer, name, *rest)
        written.append(name)

    with monkeypatch.context() as patch:
        patch.setattr(models, "write_shard", stop)
        with pytest.raises(KeyboardInterrupt):
            fetch(source)
    weights = {name: 2 * tensor for name, tensor in load_file(source / "model.safetensors").items()}
    save_file(weights, source / "model.safetensors", {"format": "pt"})
    found = tensors_of(fetch(source))
    assert all(torch.equal(found[name], tensor) for name, tensor in weights.items())


# --- Precision


@pytest.mark.parametrize(
    ("stored", "key", "asked"),
    [
        *((dtype, key, None) for dtype in DTYPES for key in ("dtype", "torch_dtype")),
        *((dtype, "dtype", "bfloat16") for dtype in DTYPES),
    ],
)
def test_a_checkpoint_has_its_own_dtype_or_that_of_the_entry(
    tmp_path: Path, stored: str, key: str, asked: str | None
) -> None:
    """Its own as config.json states it, under today's key or that of transformers before 5."""
    source = tmp_path / "source"
    tiny_model("llama").to(DTYPES[stored]).save_pretrained(source)
    tokenizer().save_pretrained(source)
    edit_config(source, **{"dtype": None, key: stored})
    settings = {"dtype": asked} if asked else {}
    checkpoint = fetch(source, **settings)
    expected, wanted = load_file(source / "model.safetensors"), asked or stored
    found = tensors_of(checkpoint)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == DTYPES[wanted]
        assert torch.equal(tensor, expected[name].to(DTYPES[wanted])), name
    assert json.loads(checkpoint.path("config.json").read_text())["dtype"] == wanted
    assert StreamedModel(checkpoint.folder).dtype == DTYPES[wanted]
    own = {"source": "path", "path": str(source)}
    assert checkpoint.facts["settings"] == {**own, **settings}


@pytest.mark.parametrize("stated", [None, "float64"])
def test_a_config_that_states_no_dtype_that_can_be_used(source: Path, stated: str | None) -> None:
    """transformers would then take float32, and so would nobody who wrote bfloat16 weights."""
    edit_config(source, dtype=stated)
    with refused(where="models.tiny.dtype", expected="float16"):
        fetch(source)
    fetch(source, "another", dtype="bfloat16")


@pytest.mark.parametrize("inside", [None, "float16"])
def test_a_model_with_several_parts_states_its_dtype_outside(
    tmp_path: Path, inside: str | None
) -> None:
    """That of the decoder itself goes first, where it is stated."""
    config = {"model_type": "gemma3", "dtype": "bfloat16"}
    decoder = {"model_type": "gemma3_text", "num_hidden_layers": 2, "dtype": inside}
    (tmp_path / "config.json").write_text(json.dumps({**config, "text_config": decoder}))
    found = load_config(tmp_path)
    assert found.model_type == "gemma3_text"
    assert found.dtype == DTYPES[inside or "bfloat16"]


# --- GGUF files


def gguf_model() -> torch.nn.Module:
    return tiny_model(FAMILY, use_sliding_window=False, tie_word_embeddings=True)


@pytest.mark.parametrize(
    ("stored", "dtype", "in_folder"),
    [(numpy.float16, None, True), (numpy.float32, None, False), (numpy.float16, "bfloat16", False)],
)
def test_a_gguf_file_is_dequantised_exactly(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stored: type,
    dtype: str | None,
    in_folder: bool,
) -> None:
    """To float32, unless the entry says otherwise: no dtype of its own is taken from its matrices,
    which are float16 or float32 here. This vocabulary counts as a long one.
    """
    monkeypatch.setattr(models, "_SHORT_ARRAY", 100)
    model, folder = gguf_model(), tmp_path / "own"
    folder.mkdir()
    (folder / "README.md").touch()
    write_gguf(folder / "tiny.gguf", model, stored)
    more = {} if dtype is None else {"dtype": dtype}
    checkpoint = fetch(folder if in_folder else folder / "tiny.gguf", **more)
    wanted = DTYPES[dtype or "float32"]
    expected = model.state_dict()
    del expected["lm_head.weight"]  # It is the embedding.
    tensors = tensors_of(checkpoint)
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        own = expected[name]
        own = own.half() if own.dim() == 2 and stored is numpy.float16 else own
        assert tensor.dtype == wanted
        assert torch.equal(tensor, own.to(wanted)), name
    assert StreamedModel(checkpoint.folder).dtype == wanted
    assert list(checkpoint.facts["origin"]["files"]) == ["tiny.gguf"]
    text = "the shells she sells"
    ids = AutoTokenizer.from_pretrained(checkpoint.folder)(text)["input_ids"]
    assert ids == tokenizer()(text)["input_ids"]


def test_a_folder_that_holds_weights_twice(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("q4.gguf", "q8.gguf"):
        (folder / name).touch()
    with refused(where="models.tiny.path", found="q4.gguf, q8.gguf"):
        fetch(folder)
    (source / "tiny.gguf").touch()
    with refused(where="models.tiny.path", found="tiny.gguf, model.safetensors"):
        fetch(source)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a GGUF file at all"])
def test_a_gguf_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(content)
    with refused(where="models.tiny", found=path, todo="fetch the file again"):
        fetch(path)


@pytest.mark.parametrize(
    ("changes", "where", "found"),
    [
        ({"architecture": "olmo2"}, "models.tiny", "olmo2"),
        # As llama.cpp writes Mixtral: a Llama with experts.
        ({"architecture": "llama", "experts": 8}, "models.tiny", "num_experts = 8"),
        ({"architecture": "mamba"}, "models.tiny", "mamba"),
        # transformers would draw it at random, with no more than a warning.
        ({"leave_out": "model.layers.1.mlp.up_proj.weight"}, "tiny.gguf", "layers.1.mlp.up_proj"),
    ],
)
def test_a_gguf_file_that_cannot_be_converted(
    tmp_path: Path, changes: dict[str, Any], where: str, found: str
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, gguf_model(), **changes)
    with refused(where=where, found=found):
        fetch(path)


# --- Kinds, configs and shapes


OWN_CODE = {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}}


@pytest.mark.parametrize(
    ("config", "where", "found"),
    [
        (MixtralConfig(hidden_size=16), "models.tiny", "model_type = mixtral"),
        (MambaConfig(hidden_size=16), "models.tiny", "model_type = mamba"),
        (T5Config(), "models.tiny", "model_type = t5"),
        (GPT2Config(n_embd=8, n_head=2), "models.tiny", "model_type = gpt2"),
        ({"model_type": "not_in_transformers"}, "config.json", "not_in_transformers"),
        ({"model_type": "clip"}, "clip", "CLIPTextConfig"),
        (OWN_CODE, "config.json", None),
    ],
    ids=str,
)
def test_models_that_are_refused(source: Path, config: Any, where: str, found: str | None) -> None:
    """By one error, before any tensor is read, and without running a model's own code."""
    ran = source.with_name("ran")
    (source / "configuration_own.py").write_text(f"open({str(ran)!r}, 'w')")
    written = config.to_dict() if isinstance(config, PreTrainedConfig) else config
    (source / "config.json").write_text(json.dumps({"dtype": "float32", **written}))
    with refused(where=where, found=found):
        fetch(source)
    assert not ran.exists()


def test_an_absurd_number_wherever_it_is(source: Path) -> None:
    check_shapes({"model_type": "bloom", "n_layer": 3, "hidden_size": None}, "here")
    absurd = (
        *(("num_hidden_layers", 10**9), ("num_hidden_layers", 0), ("num_attention_heads", 0)),
        *(("num_key_value_heads", -1), ("hidden_size", 10**12), ("hidden_size", 1.5)),
        *(("hidden_size", "64"), ("vocab_size", True), ("intermediate_size", 10**30)),
        # Every activation would be NaN.
        *(("rms_norm_eps", 1e30), ("layer_norm_epsilon", -1e-5)),
        *(("rms_norm_eps", float("nan")), ("rope_theta", float("inf")), ("n_layer", 10**9)),
    )
    for key, value in absurd:
        for config in ({key: value}, {"text_config": {key: value}}):
            with refused(where="here", found=f"{key} = {value!r}"):
                check_shapes(config, "here")
    edit_config(source, rope_parameters={"rope_type": "default", "rope_theta": float("-inf")})
    with refused(where="config.json", found="-inf"):
        fetch(source)


@pytest.mark.parametrize("family", ["llama", "opt", "bloom", "falcon", "gpt_neox"])
def test_announced_shapes_have_to_be_the_models(tmp_path: Path, family: str) -> None:
    """Under the names of Llama; an error says only what differs, and shapes decide no number."""
    source = save_tiny_model(tmp_path / "source", family)
    sizes = {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4}
    sizes |= {"intermediate_size": {"bloom": 64, "opt": 32}.get(family, 24)}
    right = {**sizes, "vocab_size": len(tokenizer()), "model_type": family}
    with refused(
        where="models.tiny.architecture",
        found='{"hidden_size": 16, "num_hidden_layers": 3}',
        expected='{"hidden_size": 32, "num_hidden_layers": 4}',
    ):
        fetch(source, "other", architecture={**right, "num_hidden_layers": 4, "hidden_size": 32})
    announced, unannounced = fetch(source, architecture=right), fetch(source)
    assert announced.facts["settings"] == unannounced.facts["settings"]


# --- Links


@pytest.mark.parametrize("name", ["tokenizer_config.json", "vocab.txt", "model.safetensors"])
def test_a_link_that_leaves_the_folder_is_refused(source: Path, name: str) -> None:
    """Whatever it points to would be copied into the checkpoint."""
    secret = source.with_name("secret")
    secret.write_text("a private key")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(secret)
    with refused(where=f"models.tiny.path: {name}", found=secret):
        fetch(source)


def test_a_link_within_the_folder_is_followed_and_a_pipe_not_read(source: Path) -> None:
    """Reading it would wait for ever."""
    (source / "model.safetensors").rename(source / "weights")
    (source / "model.safetensors").symlink_to("weights")
    os.mkfifo(source / "vocab.txt")
    files = fetch(source).files
    assert "block-000.safetensors" in files and "vocab.txt" not in files


def test_the_layout_of_the_hub_s_cache_is_followed(source: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--team--tiny"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    assert fetch(snapshot).files
    (snapshot / "vocab.txt").symlink_to("../../../secret")
    (tmp_path / "secret").touch()
    with refused(found=tmp_path / "secret"):
        fetch(snapshot)


# --- Broken files


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("name", "content", "where", "found"),
    [
        ("config.json", b"", "config.json", "JSONDecodeError"),
        ("config.json", b"{", "config.json", "JSONDecodeError"),
        ("config.json", b"\xff\xfe{}", "config.json", "Error"),
        ("config.json", DEEP, "config.json", "RecursionError"),
        ("config.json", b"[]", "config.json", "[]"),
        ("config.json", b"{}", "config.json", "no `model_type`"),
        ("config.json", b'{"model_type": "made_up"}', "config.json", "made_up"),
        ("config.json", b" " * 10_000_001, "config.json", "10000001"),
        # Whoever loads a checkpoint reads these.
        ("tokenizer.json", b"", "tokenizer.json", "JSONDecodeError"),
        ("tokenizer.json", DEEP, "tokenizer.json", "RecursionError"),
        ("generation_config.json", b"{", "generation_config.json", "JSONDecodeError"),
        ("special_tokens_map.json", b"{", "special_tokens_map.json", "JSONDecodeError"),
        ("tokenizer.json", b'{"version": "1.0"}', "models.tiny: tokenizer", None),
        ("tokenizer.json", b"[]", "models.tiny: tokenizer", None),
        ("tokenizer.json", b"[" * 500 + b"]" * 500, "models.tiny: tokenizer", None),
        ("model.safetensors", b"", "model.safetensors", "0 bytes"),
        ("model.safetensors", b"GGUF", "model.safetensors", "4 bytes"),
        # A header of absurd size, and files that are cut off.
        ("model.safetensors", b"\xff" * 7 + b"\x7f{}", "model.safetensors", "10 bytes"),
        ("model.safetensors", 100, "model.safetensors", "100 bytes"),
        ("model.safetensors", -1, "model.safetensors", "bytes"),
    ],
)
def test_a_broken_file(
    source: Path, name: str, content: bytes | int, where: str, found: str | None
) -> None:
    path = source / name
    path.write_bytes(path.read_bytes()[:content] if isinstance(content, int) else content)
    with refused(where=where, found=found):
        fetch(source)
    assert not (source.with_name("checkpoint") / "manifest.json").exists()


def test_files_of_another_model(source: Path) -> None:
    """A tokenizer, quantised weights, shapes in the config, and a transposed weight."""
    for key, change, stored in (
        ("vocab_size", 1, "lm_head.weight"),
        ("intermediate_size", -8, "_proj.weight"),
    ):
        size = json.loads((source / "config.json").read_text())[key]
        edit_config(source, **{key: size + change})
        with refused(where=stored, found=size, expected=size + change):
            fetch(source, key)
        edit_config(source, **{key: size})
    weights, name = source / "model.safetensors", "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(weights)
    rows, columns = tensors[name].shape
    save_file({**tensors, name: tensors[name].T.contiguous()}, weights, metadata={"format": "pt"})
    with refused(where=f"{weights}: {name}", found=f"{columns} x {rows}"):
        fetch(source, "1")
    vocabulary = json.loads((source / "tokenizer.json").read_text())
    vocabulary["model"]["vocab"]["beyond"] = 100_000
    (source / "tokenizer.json").write_text(json.dumps(vocabulary))
    with refused(where="models.tiny: tokenizer", found="100,000"):
        fetch(source, "2")
    vocabulary["model"]["vocab"]["beyond"] = 5
    (source / "tokenizer.json").write_text(json.dumps(vocabulary))
    with refused(where="models.tiny: tokenizer", found="1 of 300 tokens"):
        fetch(source, "shared")
    edit_config(source, quantization_config={"quant_method": "gptq"})
    with refused(where="models.tiny", found="gptq"):
        fetch(source, "3")


@pytest.mark.parametrize("dtype", [torch.int32, torch.int8, torch.float32, torch.float16])
def test_weights_that_hold_no_model(source: Path, dtype: torch.dtype) -> None:
    """Whole numbers, which would be taken for weights of up to 10^9, and zeros alone."""
    weights, name = source / "model.safetensors", "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(weights)
    tensors[name] = torch.zeros_like(tensors[name], dtype=dtype)
    save_file(tensors, weights, metadata={"format": "pt"})
    found = f"{tensors[name].numel()} zeros" if dtype.is_floating_point else "I"
    with refused(where=f"{weights}: {name}", found=found):
        fetch(source)
