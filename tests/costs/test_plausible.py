"""Numbers that cannot be meant: the plan says which, and why."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from configs import refusal, smoke, with_adaptations
from freelunch.core.errors import UserError
from freelunch.costs.plan import Plan
from repository import ROOT


def said(changes: dict[str, Any]) -> str:
    with pytest.raises(UserError, match="cannot be meant") as caught:
        Plan.of(smoke(changes))
    return str(caught.value)


def test_the_smoke_study_is_plausible() -> None:
    Plan.of(smoke())


@pytest.mark.parametrize("key", ["study.calibration", "study.evaluation.perplexity"])
def test_a_length_beyond_the_models_positions(key: str) -> None:
    message = said({f"{key}.length": 257})
    assert f"{key}.length: found 257; expected at most 256, since the model tiny" in message
    assert "max_position_embeddings" in message and ".max_length` shortens" in message
    Plan.of(smoke({f"{key}.length": 256}))


def test_a_models_own_length_decides_how_much_text_it_needs() -> None:
    shorter = {
        "models.tiny.max_length": 8,
        "study.evaluation.perplexity.windows": 10_000,
        "study.calibration.samples": 10_000,
    }
    message = said({**shorter, "models.tiny.max_length": 32})
    assert "10000, 320,000 tokens in all" in message
    Plan.of(smoke(shorter))


def test_more_windows_than_a_text_has_bytes() -> None:
    message = said({"study.evaluation.perplexity.windows": 10_000})
    assert "perplexity.windows: found 10000, 320,000 tokens in all; the text speeches" in message


def test_an_empty_text(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    message = said({"texts.speeches.path": str(tmp_path / "empty.jsonl")})
    assert message.splitlines()[1:] == ["  texts.speeches: the file is empty"]


@pytest.mark.parametrize("key", ["study.calibration.samples", "study.selection"])
def test_more_samples_than_a_text_can_hold(key: str) -> None:
    samples = 800_000
    message = said({key: {"samples": samples} if key == "study.selection" else samples})
    assert "800,000 sequences draw 25,600,000 tokens from the text speeches" in message
    assert "expected at most as many" in message


def test_more_epochs_than_time_can_hold(tmp_path: Path) -> None:
    large = shutil.copytree(ROOT / "tests/fixtures/tiny-llama", tmp_path / "large")
    config = json.loads((large / "config.json").read_text())
    config |= {"hidden_size": 999_936, "intermediate_size": 4_000_000, "num_hidden_layers": 1000}
    (large / "config.json").write_text(json.dumps(config))
    changes = {"models.tiny.path": str(large), "study.calibration.samples": 3_800}
    Plan.of(smoke(changes))
    message = said({**changes, "adaptations.recon_block.epochs": 10_000})
    assert "adaptations.recon_block: its samples and epochs take" in message
    assert "a year at 300 PFLOP/s" in message


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"learning_rate": 10.5}, "learning_rate: found 10.5; expected at most 10"),
        ({"learning_rate": [0.1, 1e9]}, "learning_rate: found 1e+09; expected at most 10"),
        ({"epochs": 10**6}, "epochs: found 1000000; expected at most 10000"),
    ],
)
def test_a_rate_or_a_number_of_epochs_beyond_any(entry: dict[str, Any], expected: str) -> None:
    message = refusal(with_adaptations(odd={"method": "full", **entry}))
    assert f"adaptations.odd.{expected}" in message
