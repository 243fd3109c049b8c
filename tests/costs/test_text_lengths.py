"""`windows: null`: the length of an evaluation text is looked up, or its length is unknown."""

import json
from pathlib import Path
from typing import Any

import pytest

from artifacts import write_facts
from configs import smoke
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_text
from freelunch.costs.text_lengths import (
    ASSUMED_TOKENS,
    TOKEN_CHARACTERS,
    characters_of,
    text_windows,
)
from freelunch.study.paths import Paths
from freelunch.study.sources import PACKED
from freelunch.study.study import Study
from planned import MACHINE, cost_of
from repository import ROOT

LENGTH = 32
DENSE = "tiny/dense/none/seed0"
CUT = {"length": LENGTH, "windows": None, "cut": "documents", "stride": None}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """The smoke study on the whole of its text, in an empty folder."""
    model = {"models.tiny.path": str(ROOT / "tests" / "fixtures" / "tiny-llama")}
    whole = {"study.evaluation.perplexity.windows": None}
    length = {"study.evaluation.perplexity.length": LENGTH}
    found = smoke({**model, **whole, **length})
    monkeypatch.chdir(tmp_path)
    return found


def fetch(study: Study, characters: int, **settings: Any) -> None:
    text = study.perplexity.text
    settings = {**study.text_settings(text), **settings}
    write_facts(Paths.text(text), characters=characters, settings=settings)


def cut(study: Study, windows: int, **settings: Any) -> None:
    folder = study.paths.text_windows("tiny")
    write_facts(folder, settings={**CUT, **settings})
    header = json.dumps({"input_ids": {"shape": [windows, LENGTH]}}).encode()
    content = len(header).to_bytes(8, "little") + header
    (folder / "tokens.safetensors").write_bytes(content)


def test_a_number_in_the_study_is_that_number() -> None:
    study = smoke({"study.evaluation.perplexity.windows": 7})
    assert text_windows(study, "tiny") == (7, None)


def test_an_unknown_length(study: Study) -> None:
    windows, note = text_windows(study, "tiny")
    assert windows == ASSUMED_TOKENS // LENGTH
    assert note is not None and "unknown until it is fetched" in note and "a million" in note


def test_a_text_that_was_fetched(study: Study) -> None:
    fetch(study, characters=int(TOKEN_CHARACTERS * 6400))
    windows, note = text_windows(study, "tiny")
    assert windows in (199, 200)
    assert note is not None and "0.01 million tokens" in note and "26,239 characters" in note
    # Another text of that name says nothing.
    fetch(study, characters=26_239, path="another.txt")
    assert characters_of(study, study.perplexity.text) is None
    assert text_windows(study, "tiny").windows == ASSUMED_TOKENS // LENGTH


@pytest.mark.parametrize(
    ("entry", "known"),
    [
        ({}, True),
        ({"format": "jsonl"}, True),
        ({"format": "parquet"}, False),
        ({"path": "notes.txt.gz"}, False),
        ({"path": "notes.txt.bz2"}, False),
        ({"format": "mediawiki"}, False),
        ({"path": "."}, False),
    ],
)
def test_a_text_of_ones_own_before_it_is_fetched(
    study: Study, entry: dict[str, str], known: bool
) -> None:
    Path("notes.txt").write_text("x" * int(TOKEN_CHARACTERS * 6400))
    for ending in PACKED:
        Path(f"notes.txt{ending}").write_bytes(b"packed")
    text = {"source": "path", "path": "notes.txt", "format": "plain", **entry}
    config = study.as_json()
    config["texts"][study.perplexity.text] = text
    windows, note = text_windows(Study.check(config, "own.yaml"), "tiny")
    assert note is not None and ("by its 26,239 bytes" in note) == known
    assert windows in ((199, 200) if known else (ASSUMED_TOKENS // LENGTH,))


def test_windows_that_were_cut(study: Study) -> None:
    fetch(study, characters=int(TOKEN_CHARACTERS * 6400))
    cut(study, windows=123)
    windows, note = text_windows(study, "tiny")
    assert windows == 123 and note is not None and note.endswith(": 123 windows")
    # Those that were cut otherwise are not these.
    cut(study, windows=123, length=2 * LENGTH)
    assert text_windows(study, "tiny").windows in (199, 200)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"facts": []}', '{"facts": {"characters": "x"}}']
)
def test_damaged_manifests_say_nothing(study: Study, content: str) -> None:
    for folder in (Paths.text(study.perplexity.text), study.paths.text_windows("tiny")):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(content)
    assert text_windows(study, "tiny").windows == ASSUMED_TOKENS // LENGTH


def test_windows_without_their_tokens_are_not_counted(study: Study) -> None:
    cut(study, windows=123)
    (study.paths.text_windows("tiny") / "tokens.safetensors").write_bytes(b"short")
    assert text_windows(study, "tiny").windows == ASSUMED_TOKENS // LENGTH


def test_the_plan_follows_it_and_says_so(study: Study) -> None:
    unknown = Plan.of(study)
    before = cost_of(unknown, "evaluate_cell", DENSE)
    assert "Evaluation on all of" in plan_text(unknown, MACHINE)
    cut(study, windows=ASSUMED_TOKENS // LENGTH // 10)
    plan = Plan.of(study)
    assert before.flops == pytest.approx(10 * cost_of(plan, "evaluate_cell", DENSE).flops)
    assert "3,125 windows" in plan_text(plan, MACHINE)
