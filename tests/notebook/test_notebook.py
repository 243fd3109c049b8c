"""The functions for notebooks return what the workflow's own steps compute, and refuse the rest."""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import tiny_models as tiny
from freelunch.adaptation.job import at_rate_of
from freelunch.adaptation.rate_search import find_rate
from freelunch.core.artifact import Artifact
from freelunch.data.samples import TokenJob, sample_text
from freelunch.data.text_windows import cut_windows
from freelunch.evaluation.measurements import MeasurementSpec, evaluate_cell
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.token_ids import read_tokens
from freelunch.notebook import evaluate, prune, reconstruct, retrain, sparsity
from freelunch.study.steps import JOINED, PERPLEXITY
from refusals import refused
from tiny_models import LENGTH, SEED, Prepared
from token_jobs import job_of, text_of

QUIET: dict[str, Any] = {"seed": SEED, "progress": False}
BEGUN: dict[str, Any] = {"length": 8, "bos": "always"}
RATE: dict[str, Any] = {"learning_rate": 0.01}
IDS = tiny.random_tokens(6)
TEXT = list(tiny.TRAINING_TEXT)


@pytest.fixture(scope="module", params=["llama", "opt", "gemma2"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tiny.prepare(tmp_path_factory.mktemp(request.param), request.param)


def loaded(prepared: Prepared) -> Any:
    return AutoModelForCausalLM.from_pretrained(prepared.model.folder)


def assert_equal(found: nn.Module, expected: nn.Module) -> None:
    other = expected.state_dict()
    assert found.state_dict().keys() == other.keys()
    for name, value in found.state_dict().items():
        assert torch.equal(value, other[name]), name
    with torch.no_grad():
        assert torch.equal(found(IDS).logits, expected(IDS).logits)


@pytest.mark.parametrize(
    ("score", "pattern", "settings"),
    [
        ("wanda", "u50", {}),
        ("sparsegpt", "2of4", {"damping": 0.02}),
        ("ria", "u50", {"statistics": "sparse", "swaps": 2}),
        ("flap", "s50", {"scope": "block"}),
    ],
)
def test_a_model_is_pruned_and_adapted_as_by_the_workflow(
    prepared: Prepared, tmp_path: Path, score: str, pattern: str, settings: dict[str, Any]
) -> None:
    if score == "flap" and prepared.model.config.model_type == "gemma2":
        settings = {**settings, "bias_compensation": False}
    masks = tiny.prune(
        prepared.model, prepared.dense, tmp_path / "masks", score, pattern, **settings
    )
    prepared = Prepared(prepared.model, prepared.dense, masks)
    expected = tiny.assembled(prepared, None, tmp_path / "pruned")
    model = loaded(prepared)
    before = copy.deepcopy(model)
    pruned = prune(model, IDS, criterion=score, pattern=pattern, seed=0, progress=False, **settings)
    assert_equal(pruned, expected)
    assert sparsity(pruned) == sparsity(expected) > 0.3
    window = {**tiny.RECONSTRUCTION.as_json(), "window": 2}
    found = reconstruct(pruned, model, IDS, **window, **QUIET)
    made = tiny.reconstruct(prepared, tmp_path / "windows", window=2)
    assert_equal(found, tiny.assembled(prepared, made, tmp_path / "reconstructed"))
    found = retrain(pruned, IDS, **RATE, **QUIET)
    made = tiny.retrain(prepared, tmp_path / "text")
    assert_equal(found, tiny.assembled(prepared, made, tmp_path / "retrained"))
    assert_equal(model, before)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "masklora", "rank": 4},
        {"method": "lora_prune", "rank": 4, "loss": "distillation"},
        {"method": "full", "train_head": True},
    ],
)
def test_each_way_of_retraining_gives_the_workflow_s_weights(
    prepared: Prepared, tmp_path: Path, settings: dict[str, Any]
) -> None:
    pruned = tiny.assembled(prepared, None, tmp_path / "pruned")
    found = retrain(pruned, IDS, dense=loaded(prepared), **RATE, **settings, **QUIET)
    made = tiny.retrain(prepared, tmp_path / "text", **settings)
    assert_equal(found, tiny.assembled(prepared, made, tmp_path / "retrained"))
    assert sparsity(found) == sparsity(pruned)


def test_the_learning_rate_is_found_as_in_a_study(tmp_path: Path) -> None:
    prepared = tiny.prepare(tmp_path, sequences=16)
    pruned = tiny.assembled(prepared, None, tmp_path / "pruned")
    settings = tiny.reconstruction(learning_rate="auto", epochs=1)
    with tiny.dense_states(prepared.model, prepared.dense) as states:
        job = prepared.job(states, settings, SEED, tmp_path / "rate", "fingerprint")
        rate = at_rate_of(find_rate(job, "found", 1), settings).rate
    ids, changed = tiny.random_tokens(16), {**settings.as_json(), "learning_rate": rate}
    expected = reconstruct(pruned, loaded(prepared), ids, **changed, **QUIET)
    del changed["learning_rate"]
    assert_equal(reconstruct(pruned, loaded(prepared), ids, **changed, **QUIET), expected)


@pytest.mark.parametrize(("bos", "token"), [("auto", None), ("always", 0)])
def test_a_text_is_drawn_and_cut_as_by_the_workflow(
    prepared: Prepared, tmp_path: Path, bos: str, token: int | None
) -> None:
    documents = [" ".join([sentence] * 3) for sentence in tiny.TRAINING_TEXT]
    text, checkpoint = text_of(tmp_path / "text", documents), prepared.model.artifact

    def job(name: str) -> TokenJob:
        return replace(job_of(checkpoint, text, tmp_path / name), bos=token)

    model, tokenizer = loaded(prepared), copy.deepcopy(tiny.tokenizer())
    if bos == "always":
        tokenizer.bos_token = tokenizer.eos_token
    drawn = {"samples": 6, "length": LENGTH, "seed": SEED}
    ids = read_tokens(sample_text(job("sample"), drawn))
    found = prune(model, documents, tokenizer, **drawn, bos=bos, progress=False)
    assert_equal(found, prune(model, ids, **QUIET))
    for number, asked in enumerate(({"windows": 4}, {"windows": 4, "cut": JOINED, "stride": 5})):
        settings = {"length": LENGTH, **asked}
        windows = cut_windows(job(f"windows{number}"), settings)
        expected = measured(prepared.model.folder, windows, settings, tmp_path / f"{number}")
        got = evaluate(model, documents, tokenizer, **settings, bos=bos, progress=False)
        # The text's own digest depends on where it came from.
        assert got | {"text": None} == {key: expected[key] for key in got} | {"text": None}
    whole = evaluate(model, read_tokens(windows), progress=False)
    assert whole["predicted_tokens"] == 4 * (LENGTH - 1) and math.isfinite(whole["perplexity"])


def measured(
    folder: Path, windows: Artifact, settings: dict[str, Any], scratch: Path
) -> dict[str, Any]:
    spec = MeasurementSpec(PERPLEXITY, settings, [windows.folder], "code")
    for name in ("measured", "hidden"):
        (scratch / name).mkdir(parents=True)
    evaluate_cell(StreamedModel(folder), [spec], scratch / "measured", scratch / "hidden")
    found: dict[str, Any] = json.loads((scratch / "measured" / "perplexity.json").read_text())
    return found


def on_two_devices(model: Any) -> Any:
    model.model.layers[1].to("meta")
    return model


def test_what_cannot_be_computed_is_refused_with_one_error(tmp_path: Path) -> None:
    dense: Any = tiny.tiny_model("llama")
    pruned = prune(dense, IDS, **QUIET)
    gpt2 = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=300))
    wrong: list[tuple[dict[str, str], Callable[[], object]]] = [
        ({"found": "cpu, meta"}, lambda: prune(on_two_devices(copy.deepcopy(dense)), IDS)),
        ({"found": "meta"}, lambda: prune(copy.deepcopy(dense).to("meta"), IDS)),
        ({"found": "torch.float64"}, lambda: prune(copy.deepcopy(dense).double(), IDS)),
        ({"found": "50.0 % zeros"}, lambda: prune(pruned, IDS, pattern="u70")),
        ({"where": "GPT2"}, lambda: prune(gpt2, IDS)),
        ({"found": "9 blocks"}, lambda: reconstruct(pruned, dense, IDS, window=9, **RATE)),
        ({"found": "0.00 % zeros"}, lambda: reconstruct(dense, dense, IDS, **RATE)),
        ({"found": "0.00 % zeros"}, lambda: retrain(dense, IDS, **RATE)),
        ({"where": "notebook"}, lambda: retrain(pruned, IDS)),
        ({"where": "notebook"}, lambda: prune(dense, IDS, criterion="wander")),
        ({"where": "notebook"}, lambda: prune(dense, IDS, pattern="50")),
        ({"where": "notebook"}, lambda: prune(dense, IDS, criterion="flap", pattern="u50")),
        ({"where": "notebook"}, lambda: prune(dense, IDS, swap=3)),
        ({"where": "notebook"}, lambda: reconstruct(pruned, dense, IDS, window="matrix")),
        ({"where": "notebook"}, lambda: reconstruct(pruned, dense, IDS, method="none")),
        ({"where": "window"}, lambda: reconstruct(pruned, dense, IDS, window="auto")),
        ({"where": "learning_rate"}, lambda: retrain(pruned, IDS, learning_rate=[1e-3, 1e-4])),
        ({"where": "dense"}, lambda: retrain(pruned, IDS, loss="distillation")),
        ({"found": "no tokenizer"}, lambda: prune(dense, ["a document"])),
        ({"found": "one string"}, lambda: prune(dense, TEXT[0], tiny.tokenizer())),
        (
            {"expected": "bos_token"},
            lambda: evaluate(dense, TEXT, tiny.tokenizer(), **BEGUN),
        ),
        ({"where": "text"}, lambda: evaluate(dense, IDS, windows=3)),
        ({"where": "text"}, lambda: prune(dense, IDS[0])),
        ({"where": "length"}, lambda: evaluate(dense, TEXT, tiny.tokenizer(), length=10**6)),
        ({"where": "text"}, lambda: prune(dense, IDS + 300)),
    ]
    for fields, call in wrong:
        with refused(**fields):
            call()
