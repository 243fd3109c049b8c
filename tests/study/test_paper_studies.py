"""The paper's study, and the tiny one that runs each kind of its cells, hold together."""

import re
from pathlib import Path
from typing import Any

import pytest

from freelunch.analysis import intervals
from freelunch.audit.claims import load_claims
from freelunch.audit.evidence import Evidence
from freelunch.audit.verdicts import HOLDS
from freelunch.core.errors import UserError
from freelunch.costs.known_inputs import config_of, dtype_of
from freelunch.costs.plan import Plan
from freelunch.records.integrity import step_outputs
from freelunch.study.adaptations import Reconstruction, Training
from freelunch.study.cell import Cell
from freelunch.study.config import Part, claims_of
from freelunch.study.patterns import Pattern
from freelunch.study.study import Study
from measures_for_tests import verdicts_on
from records_for_tests import make_records

PAPER = Study.load(Path("studies/paper.yaml"))
TINY = Study.load(Path("studies/paper_tiny.yaml"))
# With a GPU of 80 GB, which decides what the paper's study streams.
PLANS = {study.block.name: Plan.of(study, 80 * 10**9) for study in (PAPER, TINY)}
# Settings whose values are numbers, or that are compared as kinds below.
NUMBERS = ("alpha", "batch", "budget", "epochs", "learning_rate", "memory_gb", "rank", "samples")
COMPARED = ("residency", "select_on")
# A kind: what it is about, and the settings that decide which code runs.
Kind = tuple[Any, ...]


def pattern_kind(name: str) -> str:
    pattern = Pattern.parse(name)
    return "units" if pattern.structured else "groups" if pattern.group else "weights"


def amount(study: Study, adaptation: str) -> str:
    """Return how much text an adaptation sees beside the calibration sample."""
    seen = {study.samples(name) for name in study.candidate_names(adaptation) or [adaptation]}
    least, most = min(seen), max(seen)
    if most > study.calibration.samples:
        return "more"
    return "less" if least < study.calibration.samples else "the sample"


def window_kind(window: object) -> object:
    return "several" if isinstance(window, int) and window > 1 else window


def adaptation_kind(study: Study, name: str) -> Kind:
    """Return the settings of an adaptation that decide which code runs."""
    entry = study.config.adaptations[name].as_json()
    kept = {key: value for key, value in entry.items() if key not in (*NUMBERS, *COMPARED)}
    if "window" in kept:
        kept["window"] = window_kind(kept["window"])
    return tuple(sorted(kept.items()))


def searches(study: Study, name: str) -> list[Kind]:
    """Return what an adaptation searches, by which text it chooses, and what it is."""
    settings = study.config.adaptations[name]
    if not isinstance(settings, Training) or not settings.is_searched:
        return []
    keys = [key for key in ("learning_rate", "epochs") if isinstance(getattr(settings, key), list)]
    return [("search", key, settings.select_on, settings.is_retraining) for key in keys]


def kinds_of(study: Study, cell: Cell) -> list[Kind]:
    """Return the kinds of a cell, each of which another code path belongs to."""
    family = config_of(study, cell.model)["model_type"]
    dtype = "dtype", dtype_of(study, cell.model)
    tasks = ("tasks", cell.is_dense, study.asks_tasks(cell))
    if cell.is_dense:
        return [("family", family), dtype, tasks]
    criterion = tuple(sorted(study.criterion(cell.criterion).as_json().items()))
    pattern, name = pattern_kind(cell.pattern), cell.adaptation
    adapted = name != "none"
    kinds: list[Kind] = [("pruning", criterion, pattern, adapted), tasks]
    kinds.append(("family", family, pattern, cell.criterion if pattern == "units" else ""))
    if adapted:
        settings = study.config.adaptations[name]
        kinds.append(("adaptation", adaptation_kind(study, name)))
        kinds.append(("amount", settings.is_retraining, amount(study, name)))
        window = window_kind(settings.window) if isinstance(settings, Reconstruction) else ""
        streamed = settings.is_retraining and PLANS[study.block.name].streamed(cell.model, name)[0]
        kinds.append(("family", family, settings.method, window, streamed))
        kinds += searches(study, name)
    return kinds


def kinds(study: Study) -> set[Kind]:
    return {kind for cell in study.cells for kind in kinds_of(study, cell)}


def test_every_kind_of_cell_of_the_papers_study_runs_in_the_tiny_one() -> None:
    assert not kinds(PAPER) - kinds(TINY)


# The models on which each claim is audited below, and a dense perplexity that it is about.
AUDITED = {
    "C1": ["qwen2.5-0.5b"],
    "C1a": ["qwen2.5-0.5b"],
    "C1b": ["qwen2.5-0.5b"],
    "C1c": ["qwen2.5-0.5b"],
    "C2m": ["opt-125m"],
    "C3c": ["qwen2.5-0.5b"],
    "C5": ["opt-125m", "qwen2.5-0.5b"],
    "C2": ["opt-125m"],
    "C2b": ["opt-125m"],
    "C2v1": ["opt-125m"],
    "C3": ["qwen2.5-0.5b", "qwen2.5-72b"],
    "C3b": ["qwen2.5-72b"],
    "C4": ["qwen2.5-72b"],
}
# What a measure says of cells that are not there.
LACKING = re.compile("not run: |there are no cells|does not compare|largest model|no cells to test")


@pytest.mark.parametrize("claim", AUDITED)
def test_the_cells_of_a_claim_are_those_that_the_audit_needs(claim: str, tmp_path: Path) -> None:
    """The other cells of the study are not there. What was not measured on made-up records, such
    as accuracy, has another reason. ALPS, which the paper does not have, only adds to its claims.
    """
    study = PAPER.of_part(Part(models=AUDITED[claim], claims=[claim]))
    records = make_records(study, {str(cell): 5.0 for cell in study.cells if cell.is_dense})
    for cell, record in records.items():
        record["identity"]["parameters"] = 72 * 10**9 if "72b" in cell.model else 5 * 10**8
    claims = [each for each in load_claims() if each.id == claim]
    (verdict,) = verdicts_on(Evidence(study, records, tmp_path), claims)
    reasons = [finding["reason"] for part in verdict["parts"] for finding in part["findings"]]
    lacking = {reason for reason in reasons if LACKING.search(reason)}
    assert reasons and lacking <= {"there are no cells of alps"}


@pytest.mark.parametrize("claim", ["C2", "C2b", "C2v1"])
def test_windows_that_no_gpu_holds_do_not_count_against_a_claim(
    claim: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each grid of windows has a model here. All windows but the smallest reach one perplexity."""
    monkeypatch.setattr(intervals, "DRAWS", 100)
    study = PAPER.of_part(Part(models=["opt-125m", "qwen2.5-3b", "qwen2.5-72b"], claims=["C2"]))
    levels = {"none": 20.0, "recon_matrix": 15.0, "recon_matrix_exact": 15.0}
    values = {
        str(cell): 5.0 if cell.is_dense else levels.get(cell.adaptation, 10.0)
        for cell in study.cells
    }
    records = make_records(study, values)
    for cell, record in records.items():
        if cell.adaptation == "recon_auto":
            record["adaptation"]["window"] = PLANS["paper"].window(cell.model, "recon_auto")[0]
    claims = [each for each in load_claims() if each.id == claim]
    (verdict,) = verdicts_on(Evidence(study, records, tmp_path), claims, regimes={})
    of_perplexity = [it for it in verdict["parts"] if it["metric"] == "perplexity"]
    assert of_perplexity and {part["verdict"] for part in of_perplexity} == {HOLDS}


def test_each_claim_of_the_audit_has_cells() -> None:
    assert {each.id for each in load_claims()} == set(claims_of(PAPER.block.grids))


# --- Parts of a study


@pytest.mark.parametrize("claim", ["C1", "C1a", "C1b", "C2", "C2b", "C2v1", "C3", "C3b"])
@pytest.mark.parametrize("name", ["budgets", "full"])
def test_a_part_answers_its_claim_as_the_whole_study_does(
    name: str, claim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intervals, "DRAWS", 100)
    claims = [each for each in load_claims() if each.id == claim]
    whole = Study.load(Path(f"studies/{name}.yaml"))
    part = whole.of_part(Part(claims=[claim]))
    assert 10 < len(part.cells) < len(whole.cells)
    parts = [
        verdicts_on(
            Evidence(
                study,
                make_records(study, {str(it): 5.0 for it in study.cells if it.is_dense}),
                Path(),
            ),
            claims,
        )[0]["parts"]
        for study in (whole, part)
    ]
    found = [[finding for each in of for finding in each["findings"]] for of in parts]
    assert found[0] == found[1] and any(finding["cells"] for finding in found[0])


def test_parts_add_up() -> None:
    """A part makes what all parts need, and decides no number: nothing runs again for another."""
    part = PAPER.of_part(Part(models=["opt-125m"], claims=["C2b"]))
    assert part.paths == PAPER.paths
    # SparseGPT, which is not in this part, needs Gram matrices.
    assert "sparsegpt" not in {cell.criterion for cell in part.cells}
    assert part.needs_gram("opt-125m", 0)
    for cell in part.cells:
        assert part.spec(cell) == PAPER.spec(cell)
    assert part.asks_tasks(Cell.dense("opt-125m"))


def test_a_part_has_only_the_tasks_of_its_cells() -> None:
    """Otherwise `make verify` would miss what no job of the part fetches."""
    part = TINY.of_part(Part(models=["qwen2"]))
    assert TINY.tasks and not part.tasks
    made = [{each.what for each in step_outputs(study)} for study in (TINY, part)]
    assert made[0] - made[1] == {"tasks"}


# --- Sequences of models with fewer positions


def test_a_budget_in_tokens_needs_one_length() -> None:
    config = PAPER.as_json()
    config["adaptations"]["full"]["budget"] = {"tokens": 10**6}
    with pytest.raises(UserError, match="opt-125m gets sequences of 2048 tokens instead of 4096"):
        Study.check(config, "changed.yaml")
