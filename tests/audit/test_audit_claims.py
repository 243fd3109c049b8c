"""The claims of the paper and their file, and how their parts are asked of a study."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from freelunch.analysis import intervals
from freelunch.audit.claims import load_claims
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.verdicts import HOLDS, IN_PART, OTHERS, UNDECIDED, kind
from freelunch.core.files import write_atomically
from freelunch.study.config import Part
from freelunch.study.study import Study
from measures_for_tests import BASE, make_claim, make_evidence, verdicts_on
from records_for_tests import make_records
from refusals import refused


def test_the_claims_of_the_paper_are_there() -> None:
    claims = load_claims()
    assert {claim.id for claim in claims} >= {"C1", "C2", "C2b", "C3", "C4"}
    parts = [part for claim in claims for part in (*claim.parts, *claim.in_tables)]
    assert {part.measure for part in parts} == set(MEASURES)


def rank(verdict: str) -> int:
    return {HOLDS: 2, IN_PART: 1}.get(kind(verdict), 0)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        # Without the first of each the others would make a claim hold, were it not asked for.
        {"full_3": 30, "full": 55, "full_10": 45, "masklora_3": 50, "masklora_10": 45},
        {"full": 39, "masklora": 80, "masklora_3": 75, "masklora_10": 70},
        {"recon_two": 59},
        {"recon_five": 59},
        {"recon_halves": 59},
        {"recon_all": 30},
    ],
)
def test_a_missing_cell_never_lets_a_claim_hold(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, float]
) -> None:
    """All claims of the paper on a study that has whatever they ask for, and then on each that
    lacks an adaptation or a criterion of it.
    """
    levels = {"none": 60.0, "recon_block": 40, "recon_halves": 41, "recon_five": 40.5}
    levels |= {"recon_all": 48, "recon_two": 41, "recon_matrix": 50, "recon_exact": 52}
    levels |= {"full": 45, "full_3": 38, "full_10": 36}
    levels |= {"masklora": 50, "masklora_3": 45, "masklora_10": 41, **changes}
    worse = {"magnitude": 2.0, "wanda": 1.0, "ria": 1.2, "sparsegpt": 1.3}
    claims = load_claims()
    # No interval ends so near a threshold that more draws would decide.
    monkeypatch.setattr(intervals, "DRAWS", 1000)

    def verdicts(criteria: list[str], adaptations: list[str]) -> dict[str, str]:
        values: dict[str, float | None] = {
            f"{criterion} {name}": levels[name] * worse[criterion]
            for criterion in criteria
            for name in adaptations
        }
        evidence = make_evidence(values, adaptations=adaptations)
        found = verdicts_on(evidence, claims, regimes={})
        return {claim["id"]: claim["verdict"] for claim in found}

    whole = verdicts(list(worse), list(levels))
    assert changes or {rank(verdict) for verdict in whole.values()} == {0, 1, 2}
    lost = list(changes)[:1] or [*worse, *levels]
    for one in lost:
        criteria, adaptations = ([it for it in of if it != one] for of in (worse, levels))
        for claim, verdict in verdicts(criteria, adaptations).items():
            assert rank(verdict) <= rank(whole[claim]), (claim, one)


# --- The file of claims


def written(tmp_path: Path, **changes: Any) -> Path:
    claim = make_claim(**{"measure": "gain", "metric": "perplexity", **changes})
    path = tmp_path / "claims.yaml"
    write_atomically(path, yaml.safe_dump({"claims": [claim]}))
    return path


APART = {"measure": "perplexity_difference"}
MEMORY = {"measure": "halves_memory"}
DIFFERENCE = {"measure": "window_difference"}
BUDGET = {"measure": "budget_ratio"}
WINDOWS = {"beside": 1, "windows": ["atention_mlp", 1]}
TWO = {"above": 1, "below": 2}


@pytest.mark.parametrize(
    ("changes", "where", "found", "expected"),
    [
        ({"measure": "recovry"}, "parts.0.measure", "recovry", "recovery"),
        ({"metric": "perplexty"}, "parts.0.metric", "perplexty", "perplexity"),
        (APART | {"metric": "accuracy"}, "parts.0.metric", "accuracy", "perplexity"),
        (MEMORY, "parts.0.metric", "perplexity", "null"),
        (DIFFERENCE | {"settings": WINDOWS}, "settings.windows.0", "atention_mlp", "matrix"),
        (DIFFERENCE | {"settings": {**WINDOWS, "windows": 1}}, "settings.windows", "1", "array"),
        (BUDGET | {"settings": {"unit": "token"}}, "settings.unit", "'token'", "tokens"),
        (BUDGET | {"settings": {"methods": ["ful"]}}, "settings.methods.0", "ful", "full"),
        ({"settings": {"unit": "tokens"}}, "parts.0.settings", "unit", "no key"),
        (BUDGET, "parts.0.settings", "methods", "required"),
        ({"holds": {"above": 1, "in_part": 0}}, "parts.0.holds", "in_part", "above"),
        ({"holds": {}}, "parts.0.holds", "{}", "1"),
        ({"holds": TWO}, "parts.0.holds", "below", "1"),
        ({"wy": "x"}, "claims.0.parts.0", "wy", "why"),
        ({"cells": ["a"]}, "claims.0.parts.0", "cells", "settings"),
    ],
)
def test_malformed_claims_are_named(
    tmp_path: Path, changes: dict[str, Any], where: str, found: str, expected: str
) -> None:
    with refused(where=where, found=found, expected=expected, todo="correct") as error:
        load_claims(written(tmp_path, **changes))
    assert str(tmp_path / "claims.yaml") in str(error.value.where)


def test_criteria_that_nobody_knows_are_refused(tmp_path: Path) -> None:
    settings = {"groups": [["wanda"], ["sparsgpt"]]}
    path = written(tmp_path, measure="gap_left", settings=settings)
    with refused(where=path, found="sparsgpt", expected="sparsegpt (nearest)"):
        verdicts_on(make_evidence(BASE), load_claims(path))


@pytest.mark.parametrize(
    ("small", "large", "bearing"),
    [
        # By magnitude pruning's perplexity with the reconstruction at the small and the large
        # budget; Wanda's is 40, and without the reconstruction they are at 120 and 60.
        (42, 79.9, UNDECIDED),
        (100, 42, "supported"),
        (42, 42, "supported"),
        (42, 100, "not supported"),
    ],
)
def test_only_budgets_of_the_papers_scale_bear_on_its_claim(
    small: float, large: float, bearing: str
) -> None:
    """And only its own models: another of that size, with the same numbers, says nothing."""
    config = Study.load(Path("studies/paper.yaml")).as_json()
    config["study"]["calibration"]["samples"] = 64
    del config["study"]["evaluation"]["tasks"]
    config["models"]["mine"] = {**config["models"]["llama-2-7b"], "repository": "some/model"}
    config["study"]["grids"] = [
        {
            "models": ["llama-2-7b", "mine"],
            "criteria": ["magnitude", "wanda"],
            "patterns": ["u50"],
            "adaptations": ["none", "recon_block", "recon_block_1024"],
            "seeds": [0, 1, 2],
        }
    ]
    levels = {("magnitude", "none"): 120, ("wanda", "none"): 60}
    levels |= {("magnitude", "recon_block"): small, ("magnitude", "recon_block_1024"): large}
    settings = {"groups": [["magnitude"], ["wanda"]]}
    claim = make_claim("gap_left", metric="perplexity", holds={"below": 1}, settings=settings)
    for models, expected in ((["llama-2-7b", "mine"], bearing), (["mine"], OTHERS)):
        study = Study.check(config, "changed.yaml").of_part(Part(models=models))
        values: dict[str, float | None] = {
            str(cell): 20 if cell.is_dense else levels.get((cell.criterion, cell.adaptation), 40)
            for cell in study.cells
        }
        evidence = Evidence(study, make_records(study, values), Path())
        (found,) = verdicts_on(evidence, [claim | {"id": "C3"}])
        assert found["bearing"] == expected
        assert found["models"] == dict.fromkeys(models, found["verdict"])
