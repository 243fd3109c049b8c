"""Model folders that are broken or hostile: each is one clear error, before any long work."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.data.models import fetch_model
from freelunch.study.model_limits import check_shapes
from freelunch.study.sources import read_model
from tiny_models import save_tiny_model


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("sound") / "source")


@pytest.fixture
def source(sound: Path, tmp_path: Path) -> Path:
    """A private copy of a sound model's folder."""
    shutil.copytree(sound, tmp_path / "source")
    return tmp_path / "source"


def fetch(source: Path) -> Artifact:
    entry = read_model({"source": "path", "path": str(source)})
    return fetch_model("tiny", entry, source.with_name("checkpoint"), "fingerprint")


def refused(source: Path) -> str:
    with pytest.raises(UserError) as caught:
        fetch(source)
    assert not (source.with_name("checkpoint") / "manifest.json").exists()
    return str(caught.value)


def edit_config(source: Path, **changes: Any) -> None:
    path = source / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# --- Links


@pytest.mark.parametrize("name", ["tokenizer_config.json", "vocab.txt", "model.safetensors"])
def test_a_link_that_leaves_the_folder_is_refused(source: Path, name: str) -> None:
    """Whatever it points to would be copied into the checkpoint."""
    secret = source.with_name("secret")
    secret.write_text("a private key")
    (source / name).unlink(missing_ok=True)
    (source / name).symlink_to(secret)
    message = refused(source)
    assert f"models.tiny.path: {name}: a file of the model is a link that leaves" in message
    assert str(secret) in message


def test_a_link_within_the_folder_is_followed(source: Path) -> None:
    (source / "model.safetensors").rename(source / "weights")
    (source / "model.safetensors").symlink_to("weights")
    assert "block-000.safetensors" in fetch(source).files


def test_the_layout_of_the_hub_s_cache_is_followed(source: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--team--tiny"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(source.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    entry = read_model({"source": "path", "path": str(snapshot)})
    assert fetch_model("tiny", entry, tmp_path / "checkpoint", "fingerprint").files
    (snapshot / "vocab.txt").symlink_to("../../../secret")
    (tmp_path / "secret").touch()
    with pytest.raises(UserError, match="a link that leaves its folder"):
        fetch_model("tiny", entry, tmp_path / "checkpoint", "fingerprint")


def test_a_file_that_is_none_is_not_taken(source: Path) -> None:
    """Reading a pipe would wait for ever."""
    os.mkfifo(source / "vocab.txt")
    assert "vocab.txt" not in fetch(source).files


# --- Broken files


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "config.json is not valid JSON"),
        (b"{", "config.json is not valid JSON"),
        (b"\xff\xfe{}", "config.json is not valid JSON"),
        (b"[" * 100_000, "config.json is not valid JSON"),
        (b"[]", "config.json is not a config"),
        (b"{}", "transformers cannot read this model's config"),
        (b'{"model_type": "made_up"}', "transformers cannot read this model's config"),
        (b" " * 10_000_001, "no config is so large"),
    ],
)
def test_a_broken_config(source: Path, content: bytes, said: str) -> None:
    (source / "config.json").write_bytes(content)
    message = refused(source)
    assert said in message and "config.json" in message


@pytest.mark.parametrize("bytes_left", [0, 4, 100, -1])
def test_a_broken_safetensors_file(source: Path, bytes_left: int) -> None:
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:bytes_left])
    message = refused(source)
    assert f"{path}: not a complete safetensors file" in message
    assert "complete the download of the model" in message


def test_a_header_of_any_size(source: Path) -> None:
    (source / "model.safetensors").write_bytes(b"\xff" * 7 + b"\x7f" + b"{}")
    assert "not a complete safetensors file" in refused(source)


@pytest.mark.parametrize("content", ["", "{", "[" * 100_000])
def test_a_tokenizer_that_is_no_json(source: Path, content: str) -> None:
    (source / "tokenizer.json").write_text(content)
    assert "tokenizer.json: a file of the model is not valid JSON" in refused(source)


@pytest.mark.parametrize("content", ['{"version": "1.0"}', "[]", "[" * 500 + "]" * 500])
def test_a_broken_tokenizer(source: Path, content: str) -> None:
    (source / "tokenizer.json").write_text(content)
    message = refused(source)
    assert "models.tiny: tokenizer: the tokenizer cannot be read" in message


def test_a_tokenizer_of_another_model(source: Path) -> None:
    path = source / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["beyond"] = 100_000
    path.write_text(json.dumps(content))
    message = refused(source)
    assert "the tokenizer does not fit the model's embedding" in message
    assert "100,000" in message


# --- Absurd shapes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 0),
        ("num_attention_heads", 0),
        ("num_key_value_heads", -1),
        ("hidden_size", 10**12),
        ("hidden_size", 1.5),
        ("hidden_size", "64"),
        ("vocab_size", True),
        ("intermediate_size", 10**30),
    ],
)
def test_an_absurd_shape(source: Path, key: str, value: object) -> None:
    edit_config(source, **{key: value})
    message = refused(source)
    assert f"no model has this shape\n  found:    {key} = {value!r}" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rms_norm_eps", float("nan")),
        ("rope_theta", float("inf")),
        ("rope_parameters", {"rope_type": "default", "rope_theta": float("-inf")}),
    ],
)
def test_a_number_that_is_not_finite(source: Path, key: str, value: object) -> None:
    """Every activation would be NaN."""
    edit_config(source, **{key: value})
    assert "config.json: no model has this number\n  found:    r" in refused(source)


# --- Weights that do not fit the config


@pytest.mark.parametrize(
    ("key", "change", "stored"),
    [("vocab_size", 1, "lm_head.weight"), ("intermediate_size", -8, "_proj.weight")],
)
def test_weights_of_other_shapes_than_the_config_s(
    source: Path, key: str, change: int, stored: str
) -> None:
    size = json.loads((source / "config.json").read_text())[key]
    edit_config(source, **{key: size + change})
    message = refused(source)
    assert f"{stored}: a tensor has another shape than the model's config gives it" in message
    assert f"{size + change}" in message and "config.json that belongs to the weights" in message


def test_a_transposed_weight(source: Path) -> None:
    path = source / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    rows, columns = tensors[name].shape
    tensors[name] = tensors[name].T.contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    message = refused(source)
    assert f"{path}: {name}: a tensor has another shape" in message
    assert f"found:    {columns} x {rows}\n  expected: {rows} x {columns}" in message


@pytest.mark.parametrize("name", ["generation_config.json", "special_tokens_map.json"])
def test_a_broken_file_beside_the_weights(source: Path, name: str) -> None:
    """It would be copied into every checkpoint, and fail whoever loads one."""
    (source / name).write_text("{")
    assert f"{source / name}: a file of the model is not valid JSON" in refused(source)


def test_shapes_are_checked_under_all_their_names() -> None:
    check_shapes({"model_type": "bloom", "n_layer": 3, "hidden_size": None}, "here")
    for config in ({"n_layer": 10**9}, {"text_config": {"num_hidden_layers": 10**9}}):
        with pytest.raises(UserError, match="no model has this shape"):
            check_shapes(config, "here")
