"""Models as they are fetched: in which precision, and of which shapes."""

import json
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
from freelunch.core.errors import UserError
from freelunch.data import models
from freelunch.data.models import fetch_model
from freelunch.model.checkpoint import StreamedModel, load_config, write_shard
from freelunch.study.sources import read_model
from refusals import refused
from tiny_gguf import FAMILY, write_gguf
from tiny_models import save_tiny_model, tiny_model, tokenizer

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


def model_in(folder: Path, dtype: torch.dtype) -> Path:
    """Save a random model in a precision, with its tokenizer."""
    tiny_model("llama").to(dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


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


# --- An interrupted fetch


def test_a_model_that_was_replaced_since_an_interrupt_is_fetched_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = model_in(tmp_path / "source", torch.float32)
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


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_without_a_dtype_a_checkpoint_keeps_its_own(tmp_path: Path, dtype: str, key: str) -> None:
    """As config.json states it, under today's key or that of transformers before its fifth."""
    source = model_in(tmp_path / "source", DTYPES[dtype])
    edit_config(source, **{"dtype": None, key: dtype})
    checkpoint = fetch(source)
    expected = load_file(source / "model.safetensors")
    found = tensors_of(checkpoint)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        assert tensor.dtype == DTYPES[dtype]
        assert torch.equal(tensor, expected[name]), name
    assert json.loads(checkpoint.path("config.json").read_text())["dtype"] == dtype
    assert StreamedModel(checkpoint.folder).dtype == DTYPES[dtype]
    assert checkpoint.facts["settings"] == {"source": "path", "path": str(source)}


@pytest.mark.parametrize("stored", DTYPES)
def test_a_dtype_of_the_entry_takes_the_place_of_the_checkpoints_own(
    tmp_path: Path, stored: str
) -> None:
    source = model_in(tmp_path / "source", DTYPES[stored])
    checkpoint = fetch(source, dtype="bfloat16")
    expected = load_file(source / "model.safetensors")
    for name, tensor in tensors_of(checkpoint).items():
        assert torch.equal(tensor, expected[name].to(torch.bfloat16)), name
    assert StreamedModel(checkpoint.folder).dtype == torch.bfloat16
    assert checkpoint.facts["settings"]["dtype"] == "bfloat16"


def test_a_config_that_states_no_dtype_that_can_be_used(tmp_path: Path) -> None:
    """transformers would then take float32, and so would nobody who wrote bfloat16 weights."""
    source = model_in(tmp_path / "source", torch.bfloat16)
    edit_config(source, dtype=None)
    with pytest.raises(UserError, match="dtype"):
        fetch(source)
    edit_config(source, dtype="float64")
    with pytest.raises(UserError, match="float64"):
        fetch(source)
    fetch(source, dtype="bfloat16")


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


def gguf_model(**changes: Any) -> torch.nn.Module:
    settings = {"use_sliding_window": False, "tie_word_embeddings": True, **changes}
    return tiny_model(FAMILY, **settings)


@pytest.mark.parametrize(
    ("stored", "dtype", "in_folder"),
    [
        (numpy.float16, None, True),
        (numpy.float32, None, False),
        (numpy.float16, "bfloat16", False),
    ],
)
def test_a_gguf_file_is_dequantised_exactly(
    tmp_path: Path, stored: type, dtype: str | None, in_folder: bool
) -> None:
    """To float32, unless the entry says otherwise: no dtype of its own is taken from its matrices,
    which are float16 or float32 here.
    """
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


def test_a_folder_that_holds_weights_twice(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("q4.gguf", "q8.gguf"):
        (folder / name).touch()
    with refused(where="models.tiny.path", found="q4.gguf, q8.gguf"):
        fetch(folder)
    source = save_tiny_model(tmp_path / "source")
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


# --- Kinds and families


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
def test_models_that_are_refused(
    config: Any, where: str, found: str | None, tmp_path: Path
) -> None:
    """By one error, before any tensor is read, and without running a model's own code."""
    source = save_tiny_model(tmp_path / "source")
    ran = tmp_path / "ran"
    (source / "configuration_own.py").write_text(f"open({str(ran)!r}, 'w')")
    written = config.to_dict() if isinstance(config, PreTrainedConfig) else config
    (source / "config.json").write_text(json.dumps({"dtype": "float32", **written}))
    with refused(where=where, found=found):
        fetch(source)
    assert not ran.exists()


# --- Shapes


@pytest.mark.parametrize("family", ["opt", "bloom", "falcon", "gpt_neox"])
def test_shapes_are_announced_under_the_names_of_llama(tmp_path: Path, family: str) -> None:
    source = save_tiny_model(tmp_path / "source", family)
    names = {"bloom": 64, "opt": 32}
    sizes = {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4}
    sizes |= {"intermediate_size": names.get(family, 24), "vocab_size": len(tokenizer())}
    fetch(source, architecture={**sizes, "model_type": family})
    with refused(where="models.tiny.architecture", expected='{"intermediate_size": 8}'):
        fetch(source, architecture={**sizes, "intermediate_size": 8})


def test_announced_shapes_have_to_be_the_models(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "source")
    sizes = {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4}
    right = {**sizes, "intermediate_size": 24, "vocab_size": len(tokenizer())}
    # Only what differs.
    with refused(
        where="models.tiny.architecture",
        found='{"hidden_size": 16, "num_hidden_layers": 3}',
        expected='{"hidden_size": 32, "num_hidden_layers": 4}',
    ):
        fetch(source, "other", architecture={**right, "num_hidden_layers": 4, "hidden_size": 32})
    announced, unannounced = fetch(source, architecture=right), fetch(source)
    assert announced.facts["settings"] == unannounced.facts["settings"], "shapes decide no number"
