"""What verdicts are about, beside the paper's own scale; and which units of a text are evidence."""

from pathlib import Path
from typing import Any

import pytest

from freelunch.audit.evidence import HELD_OUT_PERPLEXITY, PERPLEXITY, Evidence
from freelunch.audit.scope import Scope, load_regimes, worth_text
from freelunch.audit.verdicts import BEARINGS, HOLDS, TOO_SMALL
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.config import Part
from freelunch.study.study import Study
from measures_for_tests import NOWHERE, make_claim, verdicts_on
from records_for_tests import make_records, make_study

PAPER = Study.load(Path("studies/paper.yaml"))
REGIME = load_regimes()["C1"]


def scope_of(study: Study, models: list[str], *adaptations: str) -> Scope:
    names = adaptations or ("recon_block",)
    cells = [Cell(model, "wanda", "u50", name, 0) for model in models for name in names]
    return Scope.of(study, cells, [3], REGIME)


@pytest.mark.parametrize("model", ["opt-1.3b", "llama-2-7b"])
def test_each_model_of_the_papers_study_has_the_papers_scale(model: str) -> None:
    """Sequences for OPT have 2048 tokens, in the paper and here."""
    scope = scope_of(PAPER, [model])
    assert scope.shares == [1] and not scope.is_in_part_too_small
    assert "100 % of the paper's smallest calibration sample" in scope.text
    # The largest reconstruction of a model counts.
    scope = scope_of(PAPER, [model], "recon_block", "recon_block_1024", "recon_2")
    assert scope.shares == [1, 8, 1] and scope.reconstructed == [8]


def short_study(*models: str) -> Study:
    """Return the paper's study with sequences that are as long as the paper's for OPT only."""
    config = PAPER.as_json()
    config["study"]["calibration"]["length"] = 2048
    return Study.check(config, "changed.yaml").of_part(Part(models=list(models)))


def test_of_several_models_each_has_to_have_it() -> None:
    study = short_study("opt-2.7b", "llama-2-7b")
    both = scope_of(study, ["opt-2.7b", "llama-2-7b"])
    assert sorted(both.reconstructed) == [0.5, 1]
    assert both.is_in_part_too_small and not both.too_small
    assert scope_of(study, ["llama-2-7b"]).too_small
    sample = "the paper's smallest calibration sample for these models"
    for of, said in (
        (study, f"Only some models saw {sample} (262,144 to 524,288 tokens)"),
        (PAPER.of_part(Part(models=["opt-125m"])), f"At least {sample} (262,144 tokens)"),
    ):
        assert worth_text(of, {}, load_regimes()).startswith(said)


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
    settings = {"study": "studies/qwen72b.yaml", "adaptation": "recon_block"}
    planned = make_claim("planned_memory", holds={"below": 80}, settings=settings)
    absent = make_claim("recovery", metric="perplexity", settings={"criteria": ["wanda"]})
    evidence = Evidence(short_study("llama-2-13b"), {}, Path())
    both = verdicts_on(evidence, [planned, absent], {"C": REGIME})
    assert [verdict["bearing"] for verdict in both] == [BEARINGS[HOLDS], TOO_SMALL]


# --- Which units follow each other, and which dense losses stand beside them


@pytest.mark.parametrize("cut", ["joined", "documents"])
def test_only_windows_of_joined_documents_are_neighbours(cut: str) -> None:
    config = make_study(criteria=["wanda"], adaptations=["none"], seeds=[0, 1]).as_json()
    config["study"]["evaluation"]["perplexity"]["cut"] = cut
    study = Study.check(config, "made-up.yaml")
    records: dict[Cell, Any] = make_records(study, {})
    dense, *cells = records
    for cell in cells:
        of_dense = {"window_losses": [1.0 + cell.seed] * 4}
        drift = {"window_losses": [3.0 + cell.seed] * 4, "dense": of_dense}
        records[cell]["metrics"]["drift"] = drift
    evidence, compared = Evidence(study, records, NOWHERE), {NONE: cells, DENSE: [dense] * 2}
    windows, held_out = (evidence.sample(compared, it) for it in (PERPLEXITY, HELD_OUT_PERPLEXITY))
    assert windows is not None and held_out is not None
    assert (windows.neighbours, windows.nested) == (cut == "joined", False)
    assert (held_out.neighbours, held_out.nested) == (False, True)
    # Each seed has held-out text of its own, on which the dense model was measured, too.
    assert held_out.strata[0].tolist() == [[[3.0] * 4, [4.0] * 4], [[1.0] * 4, [2.0] * 4]]
