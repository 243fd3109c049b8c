"""Learning rates that probes find."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from freelunch.adaptation import rate_search
from freelunch.adaptation.rate_search import find_rate
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.core.artifact import Artifact
from freelunch.model.mask_store import load_pruned_block
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import chosen_of
from freelunch.study.windows import ALL, HALVES, MATRIX, MODEL, Window
from refusals import refused
from tiny_models import (
    SEED,
    Prepared,
    dense_states,
    prepare,
    reconstruction,
    retraining_entry,
    shards,
)

WINDOWS: dict[str, dict[str, Any]] = {
    "block": {},
    "matrix": {"window": MATRIX, "train_norms": False},
    "halves": {"window": HALVES},
    "all": {"window": ALL, "trains": "masklora", "rank": 2},
    "sparse": {"inputs": "sparse", "targets": "local"},
    "epochs": {"epochs": 3},
}


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return prepare(tmp_path_factory.mktemp("llama"), sequences=16)


def find(
    prepared: Prepared, folder: Path, settings: Any, window: Window = 1, streamed: bool = False
) -> Artifact:
    with dense_states(prepared.model, prepared.dense) as states:
        job = prepared.job(states, settings, SEED, folder, "fingerprint")
        return find_rate(job, "tuned", window, streamed)


def of_windows(**changes: Any) -> Any:
    return reconstruction(learning_rate="auto", **{"epochs": 1, **changes})


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_find_their_rate(llama: Prepared, tmp_path: Path, name: str) -> None:
    settings = of_windows(**WINDOWS[name])
    made = find(llama, tmp_path / "one", settings, settings.window)
    choice = made.facts["choice"]
    chosen = chosen_of(choice, {})
    assert choice["selected_on"] == "probes" and len(choice["candidates"]) >= 3
    losses = {
        each["learning_rate"]: each["relative_loss"] for each in choice["candidates"].values()
    }
    # The first if no rate helps.
    best = min(losses.values()) if min(losses.values()) < 1 else next(iter(losses.values()))
    assert losses[chosen["learning_rate"]] == best
    # Two steps on the whole model, which is random, help nowhere.
    assert min(losses.values()) < 1 or name == "all"
    assert chosen["epochs"] == settings.epochs
    assert made.facts["settings"] == {"adaptation": settings.as_json(), "seed": SEED}
    again = find(llama, tmp_path / "two", settings, settings.window)
    assert again.facts == made.facts and again.digest == made.digest


@pytest.mark.parametrize("loss", ["next_token", "distillation"])
@pytest.mark.parametrize("method", ["full", "masklora", "norms"])
def test_a_retraining_finds_its_rate(
    llama: Prepared, tmp_path: Path, method: str, loss: str
) -> None:
    settings = read_adaptation(retraining_entry(method, learning_rate="auto", loss=loss))
    made = find(llama, tmp_path / "one", settings, MODEL)
    streamed = find(llama, tmp_path / "two", settings, MODEL, streamed=True)
    assert streamed.facts["choice"] == made.facts["choice"]
    assert sorted(path.name for path in tmp_path.glob(".*probe*")) == []


def test_an_interrupted_search_tries_no_rate_again(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, whole = of_windows(), find(llama, tmp_path / "whole", of_windows())
    tried: list[float] = []
    results = rate_search._Probes.results

    def stops(probes: Any, rate: float) -> Any:
        tried.append(rate)
        if len(tried) == 3:
            raise KeyboardInterrupt
        return results(probes, rate)

    monkeypatch.setattr(rate_search._Probes, "results", stops)
    with pytest.raises(KeyboardInterrupt):
        find(llama, tmp_path / "made", settings)
    made = find(llama, tmp_path / "made", settings)
    assert made.digest == whole.digest
    assert len(tried) == len(whole.files) + 1 and tried[2] == tried[3]


def test_losses_are_those_of_held_out_sequences(llama: Prepared, tmp_path: Path) -> None:
    made = find(llama, tmp_path / "made", of_windows())
    probe = made.facts["probe"]
    results = json.loads((made.folder / min(made.files)).read_text())
    inputs, targets = llama.hidden(0), llama.hidden(1)
    pruned, _ = load_pruned_block(llama.model, llama.masks, 0)
    with dense_states(llama.model, llama.dense) as states, torch.no_grad():
        outputs = states.blocks.calls(len(inputs))[0](pruned, inputs)
    held_out = slice(probe["held_out"])
    expected = (outputs - targets)[held_out].square().mean()
    assert results["0-0"]["loss_before"] == pytest.approx(float(expected), rel=1e-5)
    assert probe["held_out"] == 2


def test_the_rate_that_was_found_is_the_adaptations(llama: Prepared, tmp_path: Path) -> None:
    search = find(llama, tmp_path / "rate", of_windows())
    rate = chosen_of(search.facts["choice"], {})["learning_rate"]
    settings = of_windows().model_copy(update={"learning_rate": rate})
    made = []
    with dense_states(llama.model, llama.dense) as states:
        for name, found in (("found", search), ("given", None)):
            job = llama.job(states, settings, SEED, tmp_path / name, "fingerprint")
            job = replace(job, search=found, asked=of_windows() if found else None)
            made.append(reconstruct_windows(job, 1, [range(1)]))
    assert shards(made[0]) == shards(made[1])
    of_search, plain = (each.facts for each in made)
    assert of_search["choice"] == search.facts["choice"] and "choice" not in plain
    assert of_search["settings"]["adaptation"] == of_windows().as_json()


def test_what_finds_no_rate(llama: Prepared, tmp_path: Path) -> None:
    with refused(found="16 sequences", todo="set a learning rate"):
        find(llama, tmp_path / "few", of_windows(batch=16), ALL)


def test_rates_that_diverge_are_not_chosen(
    llama: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their windows keep the pruned weights, which may be the best."""
    monkeypatch.setattr(rate_search, "first_rate", lambda *_: 1e30)
    monkeypatch.setattr(rate_search, "next_rate", _falling)
    made = find(llama, tmp_path / "made", of_windows())
    assert chosen_of(made.facts["choice"], {})["learning_rate"] == 1e-3
    monkeypatch.setattr(
        rate_search, "next_rate", lambda first, losses, _: {0: first}.get(len(losses))
    )
    with refused(found="1e+30", todo="lower"):
        find(llama, tmp_path / "none", of_windows())


def _falling(first: float, losses: dict[float, float], _: int) -> float | None:
    assert all(math.isinf(loss) for rate, loss in losses.items() if rate > 1)
    return {0: first, 1: 1e-3}.get(len(losses))
