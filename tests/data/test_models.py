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
from freelunch.data.sources import Obtained
from freelunch.model.checkpoint import StreamedModel, load_config, write_shard
from freelunch.study.sources import read_model
from tiny_gguf import FAMILY, write_gguf
from tiny_models import save_tiny_model, tiny_model, tokenizer

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
WHEEL = {"source": "wheel", "package": "p", "version": "1", "sha256": "0" * 64}


def model_in(folder: Path, dtype: torch.dtype) -> Path:
    """Save a random model in a precision, with its tokenizer."""
    tiny_model("llama").to(dtype).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def fetch(source: Path, folder: str = "checkpoint", **more: Any) -> Artifact:
    entry = read_model({"source": "path", "path": str(source), **more})
    return fetch_model("tiny", entry, source.with_name(folder), "fingerprint")


def refused(source: Path, **more: Any) -> str:
    """Return the message of the error; nothing may be left that looks like a model."""
    with pytest.raises(UserError) as caught:
        fetch(source, "refused", **more)
    assert not (source.with_name("refused") / "manifest.json").exists()
    return str(caught.value)


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


def test_a_config_that_states_no_dtype(tmp_path: Path) -> None:
    """transformers would then take float32, and so would nobody who wrote bfloat16 weights."""
    source = model_in(tmp_path / "source", torch.bfloat16)
    edit_config(source, dtype=None)
    assert refused(source) == (
        "models.tiny.dtype: the model's config.json states no dtype that can be used here\n"
        "  expected: one of: float32, bfloat16, float16\n"
        "  to do:    set `dtype` in the model's entry"
    )
    fetch(source, dtype="bfloat16")


def test_a_config_that_states_a_dtype_that_cannot_be_used(tmp_path: Path) -> None:
    source = model_in(tmp_path / "source", torch.float32)
    edit_config(source, dtype="float64")
    message = refused(source)
    assert message.startswith("models.tiny.dtype: the model's config.json states no dtype that")
    assert "found:    torch.float64\n" in message
    fetch(source, dtype="float32")


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


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_gguf_file_becomes_float32_unless_the_entry_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str | None
) -> None:
    """Its matrices are float16 here: no dtype of its own is taken from them."""
    model = tiny_model(FAMILY, use_sliding_window=False, tie_word_embeddings=True)
    write_gguf(tmp_path / "tiny.gguf", model)
    origin = {"source": "wheel", "files": {"tiny.gguf": "0" * 64}}
    obtained = Obtained(tmp_path / "tiny.gguf", origin)
    monkeypatch.setattr(models, "obtain_model", lambda *_: obtained)
    written = {**WHEEL, "member": "tiny.gguf"} | ({} if dtype is None else {"dtype": dtype})
    checkpoint = fetch_model("tiny", read_model(written), tmp_path / "checkpoint", "fingerprint")
    wanted = DTYPES[dtype or "float32"]
    expected = model.state_dict()
    del expected["lm_head.weight"]  # It is the embedding.
    found = tensors_of(checkpoint)
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        own = expected[name]
        own = own.half() if own.dim() == 2 else own
        assert tensor.dtype == wanted
        assert torch.equal(tensor, own.to(wanted)), name
    assert StreamedModel(checkpoint.folder).dtype == wanted
    text = "the shells she sells"
    ids = AutoTokenizer.from_pretrained(checkpoint.folder)(text)["input_ids"]
    assert ids == tokenizer()(text)["input_ids"]


def test_a_gguf_file_is_dequantised_exactly(tmp_path: Path) -> None:
    """Of float32 matrices nothing is lost."""
    model = tiny_model(FAMILY, use_sliding_window=False, tie_word_embeddings=True)
    write_gguf(tmp_path / "tiny.gguf", model, numpy.float32)
    models.dequantise(tmp_path / "tiny.gguf", tmp_path / "folder")
    for name, tensor in load_file(tmp_path / "folder" / "model.safetensors").items():
        assert torch.equal(tensor, model.state_dict()[name]), name


# --- A GGUF file of one's own


def gguf_model(**changes: Any) -> torch.nn.Module:
    settings = {"use_sliding_window": False, "tie_word_embeddings": True, **changes}
    return tiny_model(FAMILY, **settings)


@pytest.mark.parametrize("in_folder", [False, True])
def test_a_gguf_file_at_a_path(tmp_path: Path, in_folder: bool) -> None:
    model, folder = gguf_model(), tmp_path / "own"
    folder.mkdir()
    (folder / "README.md").touch()
    write_gguf(folder / "tiny.gguf", model, numpy.float32)
    checkpoint = fetch(folder if in_folder else folder / "tiny.gguf")
    expected = model.state_dict()
    del expected["lm_head.weight"]  # It is the embedding.
    found = tensors_of(checkpoint)
    assert found.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())
    assert list(checkpoint.facts["origin"]["files"]) == ["tiny.gguf"]


def test_a_folder_with_several_gguf_files(tmp_path: Path) -> None:
    folder = tmp_path / "own"
    folder.mkdir()
    for name in ("q4.gguf", "q8.gguf"):
        (folder / name).touch()
    message = refused(folder)
    assert message.startswith("models.tiny.path: the folder holds several GGUF files")
    assert "found:    q4.gguf, q8.gguf" in message


def test_a_folder_with_gguf_and_safetensors(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "source")
    (source / "tiny.gguf").touch()
    message = refused(source)
    assert "the folder holds the weights twice" in message
    assert "tiny.gguf, model.safetensors" in message


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a GGUF file at all"])
def test_a_gguf_file_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tiny.gguf"
    path.write_bytes(content)
    said = refused(path)
    assert said.startswith("models.tiny: not a valid GGUF file: it is damaged or cut off")
    assert said.endswith("fetch the file again")


@pytest.mark.parametrize(
    ("architecture", "experts", "said"),
    [
        ("olmo2", 0, "transformers cannot convert a GGUF file of this architecture"),
        # As llama.cpp writes Mixtral: a Llama with experts.
        ("llama", 8, "this model is a mixture of experts"),
        ("mamba", 0, "this model is a state-space or other recurrent model"),
    ],
)
def test_a_gguf_file_that_cannot_be_converted(
    tmp_path: Path, architecture: str, experts: int, said: str
) -> None:
    path = tmp_path / "tiny.gguf"
    write_gguf(path, gguf_model(), architecture=architecture, experts=experts)
    message = refused(path)
    assert said in message and architecture in message


def test_a_gguf_file_that_lacks_a_tensor(tmp_path: Path) -> None:
    """transformers would draw it at random, with no more than a warning."""
    path, name = tmp_path / "tiny.gguf", "model.layers.1.mlp.up_proj.weight"
    write_gguf(path, gguf_model(), leave_out=name)
    message = refused(path)
    assert "the GGUF file lacks tensors of its own architecture" in message and name in message


# --- Kinds and families


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (MixtralConfig(hidden_size=16), "this model is a mixture of experts"),
        (MambaConfig(hidden_size=16), "this model is a state-space or other recurrent model"),
        (T5Config(), "this model is an encoder-decoder"),
        ({"model_type": "not_in_transformers"}, "transformers cannot read this model's config"),
        (
            {"model_type": "clip"},
            "transformers cannot build a causal language model from this config",
        ),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "configuration_own.Own"}},
            "transformers cannot read this model's config",
        ),
        (GPT2Config(n_embd=8, n_head=2), "hold their matrices outside of linear layers"),
        ("{", "config.json is not valid JSON"),
    ],
    ids=str,
)
def test_models_that_are_refused(config: Any, said: str, tmp_path: Path) -> None:
    """By one error, before any tensor is read."""
    source = save_tiny_model(tmp_path / "source")
    if isinstance(config, PreTrainedConfig):
        config = {**config.to_dict(), "dtype": "float32"}
    written = config if isinstance(config, str) else json.dumps({"dtype": "float32", **config})
    (source / "config.json").write_text(written)
    assert said in refused(source)


# --- Shapes


@pytest.mark.parametrize("family", ["opt", "bloom", "falcon", "gpt_neox"])
def test_shapes_are_announced_under_the_names_of_llama(tmp_path: Path, family: str) -> None:
    source = save_tiny_model(tmp_path / "source", family)
    names = {"bloom": 64, "opt": 32}
    sizes = {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4}
    sizes |= {"intermediate_size": names.get(family, 24), "vocab_size": len(tokenizer())}
    fetch(source, architecture={**sizes, "model_type": family})
    message = refused(source, architecture={**sizes, "intermediate_size": 8})
    assert 'expected: {"intermediate_size": 8}' in message


def test_announced_shapes_have_to_be_the_models(tmp_path: Path) -> None:
    source = save_tiny_model(tmp_path / "source")
    sizes = {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4}
    right = {**sizes, "intermediate_size": 24, "vocab_size": len(tokenizer())}
    message = refused(source, architecture={**right, "num_hidden_layers": 4, "hidden_size": 32})
    assert message.startswith("models.tiny.architecture: the model's shapes differ")
    # Only what differs.
    assert 'found:    {"hidden_size": 16, "num_hidden_layers": 3}' in message
    assert 'expected: {"hidden_size": 32, "num_hidden_layers": 4}' in message
    announced, unannounced = fetch(source, architecture=right), fetch(source)
    assert announced.facts["settings"] == unannounced.facts["settings"], "shapes decide no number"
