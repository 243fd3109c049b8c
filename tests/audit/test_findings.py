"""The results of the paper in sentences, whatever a study has of them."""

from pathlib import Path

import pytest

from freelunch.audit.audit import Audit, audit_records
from records_for_tests import PERPLEXITIES, make_records, make_study

RETRAININGS = {name: {"method": name} for name in ("full", "masklora")}
LARGER = {"method": "reconstruction", "budget": {"tokens": 32 * 256 * 4}}
WINDOWS = {
    "half": {"method": "reconstruction", "window": "attention_mlp"},
    "five": {"method": "reconstruction", "window": 5},
    "whole": {"method": "reconstruction", "window": "all"},
}


def audited(entries, perplexities, **grid) -> Audit:
    """Return the audit of a study of Wanda with these adaptations, given their perplexities."""
    seeds = grid.pop("seeds", [0, 1, 2])
    grid = {"criteria": ["wanda"], "seeds": seeds, **grid}
    study = make_study(entries, adaptations=["none", "recon_block", *entries], **grid)
    known = {
        str(cell): perplexities[cell.adaptation]
        for cell in study.cells
        if cell.is_pruned and cell.adaptation in perplexities
    }
    records = make_records(study, PERPLEXITIES | known)
    return audit_records(study, records, Path())


@pytest.mark.parametrize(
    ("perplexity", "head"),
    [
        (39.0, "Reconstruction works."),
        (90.0, "Reconstruction does harm."),
        (46.0, "Reconstruction changes little."),
    ],
)
def test_reconstruction_by_its_smallest_and_largest_budget(perplexity, head):
    audit = audited({"larger": LARGER}, {"none": 46.0, "recon_block": perplexity, "larger": 33.0})
    found = audit.results[0]
    assert found.head == head
    assert "8k tokens and 41 % with 32k" in found.text


def test_what_a_study_lacks_is_named_instead_of_a_sentence():
    audit = audited({}, {"none": 46.0, "recon_block": 39.0})
    (works, *others) = audit.results
    assert works.text and not works.lacks
    assert all(each.lacks and not each.text for each in others) and len(others) == 4
    lines = audit.findings.splitlines()
    assert lines[0].startswith("- **Reconstruction works.** ")
    assert (
        lines[-1].startswith("Not said, for lack of cells: ") and "criteria: [dense]" in lines[-1]
    )
    assert audit.table == []


def test_nothing_is_said_without_a_reconstruction():
    study = make_study(criteria=["wanda"], adaptations=["none"])
    audit = audit_records(study, make_records(study, PERPLEXITIES), Path())
    assert audit.results == [] == audit.table and audit.findings == ""


@pytest.mark.parametrize(
    ("retrained", "head"),
    [(36.0, "No tenfold saving."), (45.0, "A tenfold saving remains open.")],
)
def test_tokens_beside_the_best_retraining(retrained, head):
    entries = RETRAININGS | {
        "masklora_4": {"method": "masklora", "budget": {"times": 4, "of": "recon_block"}}
    }
    known = {"none": 46.0, "recon_block": 39.0, "full": 38.0, "masklora": retrained}
    audit = audited(entries, known | {"masklora_4": min(retrained, 44.0)})
    assert audit.results[1].head == head
    assert "To match reconstruction on 8k tokens" in audit.results[1].text


@pytest.mark.parametrize(
    ("dense", "retrained", "head"),
    [
        (20.0, 36.0, "Retraining leads beyond the text."),
        (17.0, 36.0, "Retraining's lead may be learning the text."),
        (17.0, 39.5, "Retraining has no lead."),
    ],
)
def test_a_lead_is_set_beside_the_dense_model_with_the_same_training(dense, retrained, head):
    """Reconstruction ends log(39 / 20.5) above the dense model."""
    entries = {"full": {"method": "full"}}
    study = make_study(entries, criteria=["wanda"], adaptations=["none", "recon_block", "full"])
    config = study.as_json()
    config["study"]["grids"].append(
        {**config["study"]["grids"][0], "criteria": ["dense"], "adaptations": ["full"]}
    )
    study = type(study).check(config, "made-up.yaml")
    known = {
        "tiny/wanda-u50/full/seed0": retrained,
        "tiny/dense/full/seed0": dense,
    }
    records = make_records(study, PERPLEXITIES | known)
    found = audit_records(study, records, Path()).results[2]
    assert found.head == head
    assert f"from 20.50 to {dense:.2f}"[:-2] in found.text and "all weights" in found.text


def test_windows_and_their_order():
    known = {"none": 46.0, "recon_block": 38.0, "half": 38.1, "five": 38.1, "whole": 42.0}
    found = audited(WINDOWS, known).results[3]
    assert found.head == "Half blocks and 5 blocks nearly match one block."
    assert "half blocks lose 1 %, 5 blocks 1 % and whole model 52 %." in found.text


def test_criteria_and_budgets_in_a_table():
    more = {name: {"score": name} for name in ("ria", "sparsegpt")}
    entries = {"larger": LARGER, "full": {"method": "full"}}
    entries["full_larger"] = {"method": "full", "budget": LARGER["budget"]}
    study = make_study(
        entries,
        more,
        criteria=["magnitude", "wanda", *more],
        adaptations=["none", "recon_block", *entries],
        seeds=[0],
    )
    levels = {"none": 46.0, "recon_block": 40.0, "larger": 36.0, "full": 39.0, "full_larger": 35.0}
    known = {str(cell): levels[cell.adaptation] for cell in study.cells if cell.is_pruned}
    known |= {
        f"tiny/magnitude-u50/{name}/seed0": level
        for name, level in (("none", 307.0), ("recon_block", 80.0), ("larger", 40.0))
    }
    audit = audit_records(study, make_records(study, PERPLEXITIES | known), Path())
    found = audit.results[4]
    assert found.head == "Magnitude pruning stays behind."
    assert "gap to Wanda, RIA and SparseGPT, reconstruction leaves" in found.text
    assert " %† with 8k tokens and 6 %† with 32k, or " in found.text
    heads, *rows = audit.table
    assert heads[1:] == ["8k", "32k"] and [row[0] for row in rows] == [
        "reconstruction",
        "all weights",
    ]
    assert all(cell.endswith("†") for row in rows for cell in row[1:])
    assert audit.findings.count("† Fewer than three seeds.") == 1
