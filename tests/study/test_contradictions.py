"""Configs whose values are each valid and do not go together."""

from pathlib import Path
from typing import Any

import pytest

from configs import ASKED, DRIFT, TASK, changed, checked, config, refusal, with_adaptations
from freelunch.audit.claims import load_claims
from freelunch.core.errors import UserError
from freelunch.study.claim_ids import CLAIMS, claim_ids
from freelunch.study.study import Study
from repository import ROOT


def test_all_contradictions_at_once() -> None:
    message = refusal(
        changed(
            {
                "study.calibration.text": "c44",
                "study.evaluation.perplexity.text": "wikki",
                "study.grids.0.models": ["oen"],
                "study.grids.0.criteria": ["wnada", "magnitude"],
                "study.grids.0.patterns": ["u50", "u00", "4of4", "u100"],
                "study.grids.0.adaptations": ["recon_blok"],
            }
        )
    )
    assert message.startswith("config.yaml: 8 problems in the config")
    for line in (
        "study.calibration.text: 'c44' is not in `texts`; expected c4 (nearest)",
        "study.evaluation.perplexity.text: 'wikki' is not in `texts`; expected wiki (nearest)",
        "study.grids.0.models: 'oen' is not in `models`; expected one (nearest)",
        "study.grids.0.criteria: 'wnada' is not in `criteria`; expected wanda (nearest)",
        "study.grids.0.adaptations: 'recon_blok' is not in `adaptations`; "
        "expected recon_block (nearest) out of: none, recon_block, recon_two",
        "study.grids.0.patterns: u00 prunes nothing",
        "study.grids.0.patterns: '4of4': expected NofM with 0 < N < M",
        "study.grids.0.patterns: not a pattern: 'u100'",
    ):
        assert line in message


# One of each check, and a violation of a class that does not hide it.
SINGLE: dict[str, tuple[dict[str, Any], str]] = {
    "calibration": ({"study.calibration.text": "c44"}, "study.calibration.text: 'c44'"),
    "perplexity": ({"study.evaluation.perplexity.text": "w"}, "study.evaluation.perplexity.text"),
    "stride": ({"study.evaluation.perplexity.stride": 9}, "study.evaluation.perplexity.stride"),
    "tasks": ({"study.grids.0.tasks": True}, "study.grids.0.tasks: there is no"),
    "models": ({"study.grids.0.models": ["oen"]}, "study.grids.0.models: 'oen'"),
    "patterns": ({"study.grids.0.patterns": ["u00"]}, "study.grids.0.patterns: u00"),
    "fits": ({"study.grids.0.patterns": ["s20"]}, "study.grids.0: 'wanda' prunes single weights"),
    "dtype": ({"models.one.dtype": "float16"}, "models.one.dtype: gradients vanish"),
    "criterion": (
        {"criteria.flap": {"score": "flap", "statistics": "sparse"}},
        "criteria.flap: scope `model`",
    ),
    "adaptation": ({"adaptations.recon_two.targets": "local"}, "adaptations.recon_two.targets"),
    "sample": ({"adaptations.recon_two.samples": 1}, "adaptations.recon_two.batch"),
    "reserved": ({"adaptations.none": {"method": "norms"}}, "adaptations.none: this name"),
    "mixture": (
        {"texts.m": {"source": "mixture", "parts": {"c4": 0.5, "x": 0.5}}},
        "texts.m.parts: 'x' is not in `texts`",
    ),
    "path": ({"models.mine": {"source": "path", "path": "no"}}, "models.mine.path: there is"),
}
VIOLATIONS: dict[str, Any] = {
    "study.name": "No Name",
    "study.grids.1": {"models": "one"},
    "models.two.sha256": "0",
    "texts.unused": 3,
    "criteria.x": {"score": "wnada"},
    "adaptations.x": {"method": "full", "budget": {"tokens": 3, "of": "recon_block"}},
    "adaptations.recon_block.epochs": 0,
    "study.selection": {"sample": 1},
}


@pytest.mark.parametrize("check", SINGLE)
def test_contradictions_are_reported_beside_violations(check: str) -> None:
    """So that one run names every problem it can."""
    base = config()
    # VIOLATIONS give it two models in a wrong form.
    base["study"]["grids"].append(3)
    changes, expected = SINGLE[check]
    message = refusal(changed({**VIOLATIONS, **changes}, base))
    assert f"  {expected}" in message
    for key in VIOLATIONS:
        assert f"  {key}" in message


def test_a_check_of_one_entry_does_not_wait_for_another() -> None:
    """Nor one of a grid for a grid before it, whose place it does not take."""
    grid = config()["study"]["grids"][0]
    message = refusal(
        changed(
            {
                "adaptations": {
                    "a": {"method": "full", "batch": 0},
                    "b": {"method": "full", "micro_batch": 3},
                },
                "study.grids": [3, {**grid, "models": 3, "adaptations": ["none"]}, grid],
            }
        )
    )
    assert "5 problems in the config" in message
    for line in (
        "adaptations.a.batch: found 0",
        "adaptations.b.micro_batch: found 3; expected at most the batch, 2",
        "study.grids.0: found 3",
        "study.grids.1.models: found 3",
        "study.grids.2.adaptations: 'recon_block' is not in `adaptations`",
    ):
        assert f"  {line}" in message


@pytest.mark.parametrize(
    ("changes", "violation"),
    [
        # What is not valid is not judged, nor is its default in its place.
        ({"study.selection": {"samples": 1}, **DRIFT}, "study.selection.samples"),
        ({"study.evaluation.drift": {"samples": "17"}}, "study.evaluation.drift.samples"),
        ({"study.calibration.samples": 0}, "study.calibration.samples"),
        ({"study.evaluation.perplexity.length": -1}, "study.evaluation.perplexity.length"),
        ({"texts": None}, "texts"),
        ({"models": []}, "models"),
        ({"adaptations.recon_two.budget": {"times": 2}}, "adaptations.recon_two.budget"),
        ({"adaptations.recon_two.budget": {"token": 2}}, "adaptations.recon_two.budget.token"),
        (
            {
                "adaptations.recon_two.budget": {"times": 2, "of": "x"},
                "adaptations.x": {"method": "ful"},
            },
            "adaptations.x.method",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_violation_is_no_contradiction_too(changes: dict[str, Any], violation: str) -> None:
    message = refusal(changed(changes))
    assert "1 problem in the config" in message
    assert f"\n  {violation}: " in message


@pytest.mark.parametrize(("registry", "name"), [("criteria", "dense"), ("adaptations", "none")])
def test_reserved_names(registry: str, name: str) -> None:
    entry = next(iter(config()[registry].values()))
    message = refusal(changed({f"{registry}.{name}": entry}))
    assert f"{registry}.{name}: this name is reserved" in message


def test_a_path_where_nothing_is() -> None:
    entry = {"source": "path", "path": "no/such/model"}
    text = {**entry, "path": "no/such/text", "format": "lines"}
    message = refusal(changed({"models.mine": entry, "texts.mine": text}))
    for registry, name, kind in (("models", "model", "folder"), ("texts", "text", "file")):
        looked = f"nothing at no/such/{name}, looked for at {Path.cwd()}/no/such/{name}"
        assert f"{registry}.mine.path: there is {looked}; expected a {kind}" in message
    assert "relative to the folder in which the study is run" in message
    refusal(changed({"models.mine": {**entry, "path": "x" * 9999}}))


def test_ready_token_ids_are_for_one_tokenizer_and_one_sample(tmp_path: Path) -> None:
    path = tmp_path / "ids.safetensors"
    path.touch()
    grid = config()["study"]["grids"][0]
    several = changed(
        {
            "texts.ids": {"source": "tokens", "path": str(path)},
            "study.grids": [{**grid, "seeds": [0]}, {**grid, "models": ["two"], "seeds": [2]}],
        }
    )
    Study.check(several, "config.yaml")
    message = refusal(changed({"study.calibration.text": "ids"}, several))
    assert "2 problems in the config" in message
    assert "'ids' is a `tokens` source, whose ids are those of one tokenizer" in message
    assert "found the models one, two; expected one" in message
    assert "found the seeds 0, 2; expected one" in message


def test_a_claim_that_is_none_would_drop_its_grid_in_silence() -> None:
    message = refusal(changed({"study.grids.0.claims": ["C1", "C11", "C2b"]}))
    problem = (
        "study.grids.0.claims: 'C11' is not in workflow/data/claims.yaml; expected C1 (nearest)"
    )
    assert "1 problem in the config" in message and f"  {problem}" in message


def test_claims_are_those_of_the_audit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert claim_ids() == [claim.id for claim in load_claims()]
    monkeypatch.setattr("freelunch.study.claim_ids.REPOSITORY", tmp_path)
    (tmp_path / CLAIMS).parent.mkdir(parents=True)
    for text in ("claims: [{title: So}]", "claims: 3", "[]", ""):
        (tmp_path / CLAIMS).write_text(text)
        with pytest.raises(UserError, match="does not list claims, each with an `id`"):
            claim_ids.__wrapped__()


@pytest.mark.parametrize("name", ["a{b}.txt", "open{.txt", "shut}.txt"])
def test_braces_in_a_path_which_snakemake_reads_as_wildcards(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    entry = {"source": "path", "path": str(tmp_path / name)}
    task = {**entry, "format": "jsonl", "documents": 1}
    message = refusal(
        changed({"texts.mine": {**entry, "format": "lines"}, "tasks": {"mine": task}})
    )
    said = f"found {tmp_path / name}; expected a name without {{ and }}"
    assert f"  texts.mine.path: {said}" in message and f"  tasks.mine.path: {said}" in message
    # The files in a model's folder are inputs of the workflow, too.
    message = refusal(changed({"models.one": {**entry, "path": str(tmp_path)}}))
    assert f"  models.one.path: {said}" in message


def test_token_ids_are_for_calibration_only(tmp_path: Path) -> None:
    path = tmp_path / "ids.safetensors"
    path.touch()
    base = changed({"texts.ids": {"source": "tokens", "path": str(path)}})
    Study.check(changed({"study.calibration.text": "ids"}, base), "config.yaml")
    message = refusal(changed({"study.evaluation.perplexity.text": "ids"}, base))
    assert "'ids' is a `tokens` source; expected a text" in message


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"study.evaluation.drift": {}}, "study.evaluation.drift: a `tokens` source has no"),
        ({"adaptations.recon_block.samples": 5}, "adaptations.recon_block: 5 sequences are more"),
        (
            {"adaptations.recon_block.epochs": [1, 2]},
            "adaptations.recon_block.select_on: candidates are compared on documents",
        ),
    ],
)
def test_token_ids_hold_nothing_out(changes: dict[str, Any], problem: str) -> None:
    text = {"source": "tokens", "path": str(ROOT / "README.md")}
    assert f"  {problem}" in refusal(changed({"texts.c4": text, **changes}))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({**ASKED, "study.evaluation.tasks": {"names": ["rt"]}}, "rte (nearest)"),
        ({"study.grids.0.tasks": True}, "there is no `evaluation.tasks`"),
        ({**ASKED, "study.grids.0.tasks": False}, "no grid asks for it"),
        ({**ASKED, "tasks.rte": {**TASK, "documents": 0}}, "tasks.rte.documents"),
        ({**ASKED, "tasks.rte": {**TASK, "format": "csv"}}, "tasks.rte.format"),
        (
            {
                **ASKED,
                "tasks.rte": {"source": "path", "path": "x", "format": "jsonl", "documents": 1},
            },
            "tasks.rte.path: there is nothing at x",
        ),
        (
            {"study.evaluation.perplexity.stride": 4},
            "study.evaluation.perplexity.stride: found 4; windows overlap only with `cut: joined`",
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict[str, Any], problem: str) -> None:
    message = refusal(changed(changes, changed({"tasks": {"rte": TASK}})))
    assert "1 problem in the config" in message
    assert problem in message


def test_float16_is_refused_where_its_gradients_would_vanish() -> None:
    half = {"models.one.dtype": "float16"}
    assert "models.one.dtype: gradients vanish in float16" in refusal(changed(half))
    exact = {"adaptations.recon_block": {"method": "least_squares"}}
    for trains_nothing in (exact, {"study.grids.0.adaptations": ["none"]}):
        checked(half | trains_nothing)
    checked({"models.two.dtype": "float16"})


def test_a_stride_longer_than_its_windows_is_refused() -> None:
    joined = {"study.evaluation.perplexity.cut": "joined"}
    for stride in (None, 1, 8):
        checked(joined | {"study.evaluation.perplexity.stride": stride})
    message = refusal(changed(joined | {"study.evaluation.perplexity.stride": 9}))
    assert "found 9; expected at most the length, 8" in message


def test_a_dense_model_is_not_adapted() -> None:
    message = refusal(changed({"study.grids.0.criteria": ["dense"]}))
    assert "study.grids.0.criteria: the dense model is always evaluated" in message
    assert "nothing of it was pruned" in message


def test_columns_that_a_pattern_does_not_divide() -> None:
    criteria = {"sparsegpt": {"score": "sparsegpt", "column_block": 6}}
    grid = {"study.grids.0.criteria": ["sparsegpt"], "criteria": criteria}
    checked({**grid, "study.grids.0.patterns": ["u50", "1of3"]})
    message = refusal(changed({**grid, "study.grids.0.patterns": ["2of4"]}))
    assert "criteria.sparsegpt.column_block: found 6; expected a multiple of 4" in message
    assert "for 2of4, such as 4" in message


@pytest.mark.parametrize(
    ("settings", "key", "expected"),
    [
        ({"rank": 3}, "rank", "expected no such key"),
        ({"trains": "full", "alpha": 3}, "alpha", "no such key"),
        ({"trains": "scalelora", "alpha": 3}, "alpha", "no such key"),
        ({"trains": "norms", "train_norms": False}, "train_norms", "expected true"),
        ({"trains": "biases", "train_biases": False}, "train_biases", "expected true"),
        ({"trains": "norms", "window": "matrix"}, "trains", "holds no norm"),
        ({"window": "matrix"}, "train_norms", "holds no norm; expected false"),
        ({"window": "auto"}, "memory_gb", "expected one, in GB"),
        ({"memory_gb": 3}, "memory_gb", "expected no such key"),
        ({"targets": "local"}, "targets", "expected dense, or inputs: sparse"),
        ({"method": "least_squares", "targets": "local"}, "targets", "expected dense, or inputs"),
        ({"targets": "behind_sparse"}, "targets", "expected dense or local, or that window"),
        (
            {"lost_residual": True},
            "lost_residual",
            "expected no such key, or targets: behind_sparse",
        ),
        (
            {"method": "least_squares", "lost_residual": True},
            "lost_residual",
            "expected no such key, or targets: behind_sparse",
        ),
        (
            {"window": "attention_mlp", "model_dropout": True},
            "model_dropout",
            "expected no such key, or a window of blocks, such as 1 or all",
        ),
        (
            {"window": "auto", "memory_gb": 4, "model_dropout": True},
            "model_dropout",
            "windows of whole blocks only",
        ),
        ({"method": "full", "micro_batch": 3}, "micro_batch", "at most the batch, 2"),
        ({"method": "masklra"}, "method", "masklora (nearest)"),
    ],
    ids=str,
)
def test_settings_of_an_adaptation_that_do_not_go_together(
    settings: dict[str, Any], key: str, expected: str
) -> None:
    message = refusal(with_adaptations(x={"method": "reconstruction", **settings}))
    assert "1 problem in the config" in message
    assert f"  adaptations.x.{key}: " in message
    assert expected in message
