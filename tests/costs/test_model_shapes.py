"""The precision that a plan takes a model to have, from its files or before they are here."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from artifacts import write_facts
from configs import smoke
from freelunch.costs.plan import Plan
from freelunch.study.study import Study
from planned import cost_of
from refusals import refused
from repository import ROOT

MODEL = ROOT / "tests" / "fixtures" / "tiny-llama"
HUB = {"source": "hub", "repository": "a/b", "revision": "0" * 40}
WHEEL = {"source": "wheel", "package": "p", "version": "1", "sha256": "0" * 64, "member": "m"}
SIZES = {
    "num_hidden_layers": 4,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "vocab_size": 512,
}


@pytest.fixture(autouse=True)
def _in_a_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Paths of a config are relative to it, and nothing was fetched here."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(folder)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MODEL, tmp_path / "model"))


def state(model: Path, **stated: Any) -> None:
    """Let a model's config.json state its dtype by these keys alone."""
    path = model / "config.json"
    config = json.loads(path.read_text())
    del config["dtype"]
    path.write_text(json.dumps(config | stated))


def study_of(model: Path, changes: dict[str, Any] | None = None) -> Study:
    return smoke({"models.tiny.path": str(model), **(changes or {})})


def bytes_each(study: Study) -> int:
    """Return the size of a weight that a plan assumes, bytes."""
    return Plan.of(study).shapes["tiny"].bytes_each


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_it_is_the_checkpoints_own(model: Path, dtype: str, size: int, key: str) -> None:
    state(model, **{key: dtype})
    assert bytes_each(study_of(model)) == size


def test_that_of_the_entry_takes_its_place(model: Path) -> None:
    state(model, dtype="bfloat16")
    assert bytes_each(study_of(model, {"models.tiny.dtype": "float32"})) == 4


def test_memory_and_disk_follow_it(model: Path) -> None:
    whole = Plan.of(study_of(model))
    state(model, dtype="bfloat16")
    half = Plan.of(study_of(model))
    for plan, size in ((whole, 4), (half, 2)):
        shapes = plan.shapes["tiny"]
        weights = shapes.blocks * shapes.block_weights + shapes.outer_weights
        assert cost_of(plan, "fetch_model").disk_bytes == size * weights


@pytest.mark.parametrize(("source", "size"), [(WHEEL, 4), (HUB, 2)])
def test_before_the_model_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: dict[str, Any], size: int
) -> None:
    """A GGUF file becomes float32; today's checkpoints are bfloat16."""
    study = smoke({"models.tiny": {**source, "architecture": SIZES}})
    monkeypatch.chdir(tmp_path)
    assert bytes_each(study) == size


def test_what_was_fetched_says_it_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    study = smoke({"models.tiny": {**HUB, "architecture": SIZES}})
    monkeypatch.chdir(tmp_path)
    state(model, dtype="float32")
    fetched = Path("resources/models/tiny")
    fetched.mkdir(parents=True)
    shutil.copyfile(model / "config.json", fetched / "config.json")
    write_facts(fetched, settings=study.model("tiny").deciding())
    assert bytes_each(study) == 4
    monkeypatch.chdir(ROOT)
    other = smoke({"models.tiny": {**HUB, "repository": "team/other", "architecture": SIZES}})
    monkeypatch.chdir(tmp_path)
    assert bytes_each(other) == 2


@pytest.mark.parametrize(
    "stated", [{}, {"dtype": "float64"}, {"dtype": 16}, {"dtype": ["float32"]}]
)
@pytest.mark.parametrize("sizes", [{}, {"models.tiny.architecture": SIZES}])
def test_a_config_without_a_dtype_that_can_be_used_is_left_to_the_fetch(
    model: Path, stated: dict[str, Any], sizes: dict[str, Any]
) -> None:
    """It refuses such a model; the plan takes it for one of today's."""
    state(model, **stated)
    assert bytes_each(study_of(model, sizes)) == 2


def test_a_gguf_file_of_ones_own_becomes_float32(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.touch()
    entry = {"source": "path", "path": str(path), "architecture": SIZES}
    assert bytes_each(smoke({"models.tiny": entry})) == 4
    (tmp_path / "other.gguf").touch()
    with refused(where="models.tiny.path", found="other.gguf", expected="one"):
        Plan.of(smoke({"models.tiny": {**entry, "path": str(tmp_path)}}))
