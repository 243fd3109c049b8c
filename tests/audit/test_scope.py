"""What verdicts are about, beside the paper's own scale."""

from pathlib import Path

import pytest

from claims_for_tests import make_claim, verdicts_on
from freelunch.audit.evidence import Evidence
from freelunch.audit.scope import Scope, load_regimes, worth_text
from freelunch.audit.verdicts import BEARINGS, HOLDS, TOO_SMALL
from freelunch.study.cell import Cell
from freelunch.study.config import Part
from freelunch.study.study import Study
from records_for_tests import make_records

PAPER = Study.load(Path("studies/paper.yaml"))
REGIME = load_regimes()["C1"]


def scope_of(study: Study, *models: str, adaptation: str = "recon_block") -> Scope:
    cells = [Cell(model, "wanda", "u50", adaptation, 0) for model in models]
    return Scope.of(study, cells, [3], REGIME)


@pytest.mark.parametrize("model", ["opt-1.3b", "llama-2-7b"])
def test_each_model_of_the_papers_study_has_the_papers_scale(model: str) -> None:
    """Sequences for OPT have 2048 tokens, in the paper and here."""
    scope = scope_of(PAPER, model)
    assert scope.shares == (1, 1) and not scope.is_in_part_too_small
    assert "100 % of the paper's smallest calibration sample" in scope.text
    assert scope_of(PAPER, model, adaptation="recon_block_1024").shares == (8, 8)


def test_the_largest_reconstruction_of_a_model_counts() -> None:
    names = ("recon_block", "recon_block_1024", "recon_2")
    cells = [Cell("llama-2-7b", "wanda", "u50", name, 0) for name in names]
    scope = Scope.of(PAPER, cells, [3], REGIME)
    assert scope.shares == (1, 8) and scope.reconstructed == (8, 8)


def short_study(*models: str) -> Study:
    """Return the paper's study with sequences that are as long as the paper's for OPT only."""
    config = PAPER.as_json()
    config["study"]["calibration"]["length"] = 2048
    return Study.check(config, "changed.yaml").of_part(Part(models=list(models)))


def test_of_several_models_each_has_to_have_it() -> None:
    study = short_study("opt-2.7b", "llama-2-7b")
    both = scope_of(study, "opt-2.7b", "llama-2-7b")
    assert both.reconstructed == (0.5, 1)
    assert both.is_in_part_too_small and not both.too_small
    assert scope_of(study, "llama-2-7b").too_small
    assert worth_text(study, {}, load_regimes()).startswith(
        "Only some models saw the paper's smallest calibration sample for these models (262,144 to "
        "524,288 tokens)"
    )


def test_a_comparison_with_a_model_below_the_papers_scale_says_nothing_of_its_claim() -> None:
    study = short_study("opt-1.3b", "llama-2-13b")
    records = make_records(study, {})
    for cell, record in records.items():
        record["identity"]["parameters"] = 10**9 if "opt" in cell.model else 13 * 10**9
    groups = [["magnitude"], ["wanda", "ria", "sparsegpt"]]
    settings = {"groups": groups, "across_families": True}
    claim = make_claim("gap_left_by_size", metric="perplexity", settings=settings)
    (verdict,) = verdicts_on(Evidence(study, records, Path()), [claim], {"C": REGIME})
    assert all(finding["cells"] for finding in verdict["parts"][0]["findings"])
    assert verdict["parts"][0]["bearing"] == verdict["bearing"] == TOO_SMALL


def test_a_plan_has_no_budget_that_could_be_too_small() -> None:
    study = short_study("llama-2-13b")
    settings = {"study": "studies/qwen72b.yaml", "adaptation": "recon_block"}
    planned = make_claim("planned_memory", holds={"below": 80}, settings=settings)
    absent = make_claim("recovery", metric="perplexity", settings={"criteria": ["wanda"]})
    evidence = Evidence(study, {}, Path())
    both = verdicts_on(evidence, [planned, absent], {"C": REGIME})
    assert [verdict["bearing"] for verdict in both] == [BEARINGS[HOLDS], TOO_SMALL]


def test_worth_of_a_study_of_short_models() -> None:
    study = PAPER.of_part(Part(models=["opt-125m"]))
    assert worth_text(study, {}, load_regimes()).startswith(
        "At least the paper's smallest calibration sample for these models (262,144 tokens)"
    )
