"""What a plan takes models and texts to be, from their files or before they are here: the precision
of models, and the length of texts, for `windows: null`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from artifacts import write_facts
from configs import smoke
from freelunch.costs.checks import checked_plan
from freelunch.costs.known_inputs import (
    ASSUMED_TOKENS,
    TOKEN_CHARACTERS,
    characters_of,
    text_windows,
)
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_text
from freelunch.costs.shapes import Shapes
from freelunch.study.paths import Paths
from freelunch.study.study import Study
from planned import MACHINE, cost_of
from refusals import refused
from repository import ROOT
from tiny_gguf import write_gguf
from tiny_models import tiny_model

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
LENGTH = 32
UNKNOWN = ASSUMED_TOKENS // LENGTH


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing was fetched in the working directory, in which the fixtures are."""
    folder = tmp_path / "repository"
    folder.mkdir()
    (folder / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(folder)


# --- Models


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


@pytest.mark.parametrize(
    ("stated", "changes", "size"),
    [
        ({"dtype": "float32"}, {}, 4),
        ({"torch_dtype": "float32"}, {}, 4),
        ({"dtype": "bfloat16"}, {}, 2),
        ({"dtype": "bfloat16"}, {"models.tiny.dtype": "float32"}, 4),
        # Fetching refuses such a model; the plan takes it for one of today's.
        ({}, {}, 2),
        ({"dtype": "float64"}, {}, 2),
        ({"dtype": ["float32"]}, {"models.tiny.architecture": SIZES}, 2),
    ],
)
def test_the_precision_of_a_model_is_its_entrys_or_its_own(
    model: Path, stated: dict[str, Any], changes: dict[str, Any], size: int
) -> None:
    state(model, **stated)
    plan = Plan.of(study_of(model, changes))
    shapes = plan.shapes["tiny"]
    assert shapes.bytes_each == size
    weights = shapes.blocks * shapes.block_weights + shapes.outer_weights
    assert cost_of(plan, "fetch_model").disk_bytes == size * weights


@pytest.mark.parametrize(("source", "size"), [(WHEEL, 4), (HUB, 2)])
def test_before_the_model_is_here(source: dict[str, Any], size: int) -> None:
    """A GGUF file becomes float32; today's checkpoints are bfloat16."""
    assert bytes_each(smoke({"models.tiny": {**source, "architecture": SIZES}})) == size


def test_what_was_fetched_says_it_better(model: Path) -> None:
    study, other = (
        smoke({"models.tiny": {**HUB, "repository": name, "architecture": SIZES}})
        for name in ("a/b", "team/other")
    )
    state(model, dtype="float32")
    fetched = Path("resources/models/tiny")
    fetched.mkdir(parents=True)
    shutil.copyfile(model / "config.json", fetched / "config.json")
    write_facts(fetched, settings=study.model("tiny").deciding())
    assert (bytes_each(study), bytes_each(other)) == (4, 2)


def test_the_header_of_a_gguf_file_says_its_shapes_before_any_fetch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As transformers converts it; no token of its vocabulary is read, of which there may be
    262,144.
    """
    model = tiny_model("qwen2", use_sliding_window=False, tie_word_embeddings=True)
    path = tmp_path / "m.gguf"
    write_gguf(path, model)
    monkeypatch.setattr("gguf.GGUFReader.__init__", None)
    study = smoke({"models.tiny": {"source": "path", "path": str(path)}})
    found, expected = Plan.of(study).shapes["tiny"], Shapes.of(model.config.to_dict(), "float32")
    # A header states no rate of dropout.
    assert vars(found) | {"dropout": 0.0} == vars(expected)
    path.write_bytes(path.read_bytes()[:500])
    assert Plan.of(study).shapes == {}


def test_experts_in_a_gguf_file_are_refused_before_anything_is_planned(tmp_path: Path) -> None:
    model = tiny_model("qwen2", use_sliding_window=False, tie_word_embeddings=True)
    write_gguf(tmp_path / "tiny.gguf", model, architecture="llama", experts=8)
    study = smoke({"models.tiny": {"source": "path", "path": str(tmp_path / "tiny.gguf")}})
    with refused(where="models.tiny", found="num_experts = 8"):
        checked_plan(study)


def test_a_gguf_file_of_ones_own_becomes_float32(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    path.touch()
    entry = {"source": "path", "path": str(path), "architecture": SIZES}
    assert bytes_each(smoke({"models.tiny": entry})) == 4
    (tmp_path / "other.gguf").touch()
    with refused(where="models.tiny.path", found="other.gguf", expected="one"):
        Plan.of(smoke({"models.tiny": {**entry, "path": str(tmp_path)}}))


# --- Texts


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The smoke study on the whole of its text, which is not here."""
    perplexity = "study.evaluation.perplexity"
    whole = {f"{perplexity}.windows": None, f"{perplexity}.length": LENGTH}
    study = study_of(MODEL, whole)
    monkeypatch.chdir(tmp_path)
    return study


def fetch(study: Study, characters: int, **settings: Any) -> None:
    text = study.perplexity.text
    settings = {**study.text_settings(text), **settings}
    write_facts(Paths.text(text), characters=characters, settings=settings)


def test_a_number_in_the_study_is_that_number() -> None:
    study = smoke({"study.evaluation.perplexity.windows": 7})
    assert text_windows(study, "tiny") == (7, None)


def test_a_text_before_and_after_it_was_fetched(study: Study) -> None:
    windows, note = text_windows(study, "tiny")
    assert windows == UNKNOWN and note is not None and "unknown until it is fetched" in note
    fetch(study, characters=int(TOKEN_CHARACTERS * 6400))
    windows, note = text_windows(study, "tiny")
    assert windows in (199, 200)
    assert note is not None and "0.01 million tokens" in note and "26,239 characters" in note
    # Another text of that name says nothing.
    fetch(study, characters=26_239, path="another.txt")
    assert characters_of(study, study.perplexity.text) is None
    assert text_windows(study, "tiny").windows == UNKNOWN


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        ({}, True),
        ({"format": "jsonl"}, True),
        ({"format": "parquet"}, False),
        ({"path": "notes.txt.gz"}, False),
        ({"path": "."}, False),
    ],
)
def test_a_text_of_ones_own_before_it_is_fetched(
    study: Study, entry: dict[str, str], known: bool
) -> None:
    Path("notes.txt").write_text("x" * int(TOKEN_CHARACTERS * 6400))
    Path("notes.txt.gz").write_bytes(b"packed")
    text = {"source": "path", "path": "notes.txt", "format": "plain", **entry}
    config = study.as_json()
    config["texts"][study.perplexity.text] = text
    windows, note = text_windows(Study.check(config, "own.yaml"), "tiny")
    assert note is not None and ("by its 26,239 bytes" in note) == known
    assert windows in ((199, 200) if known else (UNKNOWN,))


@pytest.mark.parametrize("content", ["", "[]", '{"facts": []}', '{"facts": {"characters": "x"}}'])
def test_damaged_manifests_say_nothing(study: Study, content: str) -> None:
    folder = Paths.text(study.perplexity.text)
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(content)
    assert text_windows(study, "tiny").windows == UNKNOWN


def test_the_plan_follows_the_length_of_a_text_and_says_so(study: Study) -> None:
    dense = "tiny/dense/none/seed0"
    unknown = Plan.of(study)
    before = cost_of(unknown, "evaluate_cell", dense)
    assert "Evaluation on all of" in plan_text(unknown, MACHINE)
    fetch(study, characters=int(TOKEN_CHARACTERS * ASSUMED_TOKENS / 10))
    plan = Plan.of(study)
    assert before.flops == pytest.approx(10 * cost_of(plan, "evaluate_cell", dense).flops, rel=1e-3)
    assert "about 0.10 million tokens" in plan_text(plan, MACHINE)
