"""Model folders that are broken or hostile: each is one clear error, before any long work."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from freelunch.core.artifact import Artifact
from freelunch.data.models import fetch_model
from freelunch.study.model_limits import check_shapes
from freelunch.study.sources import read_model
from refusals import refused
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
    with refused(where=f"models.tiny.path: {name}", found=secret):
        fetch(source)


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
    with refused(found=tmp_path / "secret"):
        fetch_model("tiny", entry, tmp_path / "checkpoint", "fingerprint")


def test_a_file_that_is_none_is_not_taken(source: Path) -> None:
    """Reading a pipe would wait for ever."""
    os.mkfifo(source / "vocab.txt")
    assert "vocab.txt" not in fetch(source).files


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
        # A header of absurd size.
        ("model.safetensors", b"\xff" * 7 + b"\x7f{}", "model.safetensors", "10 bytes"),
    ],
)
def test_a_broken_file(
    source: Path, name: str, content: bytes, where: str, found: str | None
) -> None:
    (source / name).write_bytes(content)
    with refused(where=where, found=found):
        fetch(source)
    assert not (source.with_name("checkpoint") / "manifest.json").exists()


@pytest.mark.parametrize("bytes_left", [100, -1])
def test_a_truncated_safetensors_file(source: Path, bytes_left: int) -> None:
    path = source / "model.safetensors"
    path.write_bytes(path.read_bytes()[:bytes_left])
    with refused(where=path, todo="complete the download"):
        fetch(source)


def test_a_tokenizer_of_another_model(source: Path) -> None:
    path = source / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["beyond"] = 100_000
    path.write_text(json.dumps(content))
    with refused(where="models.tiny: tokenizer", found="100,000"):
        fetch(source)


# --- Configs


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
        # Every activation would be NaN.
        ("rms_norm_eps", float("nan")),
        ("rope_theta", float("inf")),
    ],
)
def test_an_absurd_number(source: Path, key: str, value: object) -> None:
    edit_config(source, **{key: value})
    with refused(where="config.json", found=f"{key} = {value!r}"):
        fetch(source)


def test_numbers_are_checked_wherever_they_are() -> None:
    check_shapes({"model_type": "bloom", "n_layer": 3, "hidden_size": None}, "here")
    rope = {"rope_parameters": {"rope_type": "default", "rope_theta": float("-inf")}}
    for config in ({"n_layer": 10**9}, {"text_config": {"num_hidden_layers": 10**9}}, rope):
        with refused(where="here"):
            check_shapes(config, "here")


@pytest.mark.parametrize("method", ["fp8", "gptq"])
def test_quantised_weights_mean_nothing_without_their_scales(source: Path, method: str) -> None:
    edit_config(source, quantization_config={"quant_method": method})
    with refused(where="models.tiny", found=method):
        fetch(source)


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
    with refused(where=stored, found=size, expected=size + change):
        fetch(source)


def test_a_transposed_weight(source: Path) -> None:
    path = source / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.down_proj.weight"
    rows, columns = tensors[name].shape
    tensors[name] = tensors[name].T.contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    with refused(
        where=f"{path}: {name}", found=f"{columns} x {rows}", expected=f"{rows} x {columns}"
    ):
        fetch(source)
