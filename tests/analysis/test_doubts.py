"""What makes a number no finding, on made-up cells and on the kept ones, and what follows."""

import copy
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from audits_for_tests import KEPT
from freelunch.analysis.doubts import (
    ACCURACY,
    BELOW,
    EDGE,
    GUESSED,
    HALVED,
    HELD_OUT_PERPLEXITY,
    LEARNT,
    LOWER,
    NO_FALL,
    NO_RATE,
    PERPLEXITY,
    find_doubts,
    unsettled_by,
)
from freelunch.analysis.doubts import (
    KEPT as KEPT_PRUNED,
)
from freelunch.audit.answers import answer_text, gather_answers
from freelunch.audit.evidence import Evidence
from freelunch.audit.verdicts import FAILS, UNDECIDED, kind
from freelunch.cli.summary import findings
from freelunch.evaluation.tasks import answers_bytes
from freelunch.records.read import answers_beside, load_records
from freelunch.reporting.cells import SUMMARY_COLUMNS
from freelunch.reporting.formatting import summary_text
from freelunch.reporting.results import csv_text
from freelunch.reporting.sections import summary_sections
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from measures_for_tests import make_claim, verdicts_on
from records_for_tests import CONFIG, make_records
from repository import ROOT

WANDA = "tiny/wanda-u50"
ADAPTED = {"full": {"method": "full"}, "distilled": {"method": "full", "loss": "distillation"}}
# All cells of the kept studies whose numbers are no finding, or whose rate may not be the best.
# Reconstruction with 8,192 tokens after SparseGPT left 6 of 30 windows pruned, and `masklora_524k`
# is 0.06 nats below its dense model, which may be chance: both are findings.
CHANCE, HELD_OUT, AT_END = (GUESSED, ACCURACY), (LEARNT, HELD_OUT_PERPLEXITY), (EDGE, None)
DOUBTED = {
    "quirks": {
        "searched_held_out/seed1": AT_END,
        **{f"searched_evaluation/seed{seed}": AT_END for seed in range(3)},
    },
    "laptop": dict.fromkeys(("none/seed0", "recon_block/seed0"), CHANCE),
    "full": dict.fromkeys(("none/seed0", "recon_block/seed0", "masklora_3/seed0"), CHANCE),
    "budgets": dict.fromkeys(
        ("full_524k/seed0", "full_1600k/seed0", "masklora_1600k/seed0"), HELD_OUT
    ),
}


@pytest.mark.parametrize("name", KEPT)
def test_of_the_kept_cells_these_are_no_finding(name: str) -> None:
    folder = ROOT / "docs" / name / "records"
    doubts = find_doubts(load_records(Study.load(Path(KEPT[name]), ROOT), folder), folder)
    found = {each.cell: (each.kind, each.metric) for each in doubts}
    known = DOUBTED.get(name, {}).items()
    criterion = "sparsegpt" if name == "laptop" else "wanda"  # the one with `tasks: true`
    assert found == {f"smollm2-135m/{criterion}-u50/{cell}": doubt for cell, doubt in known}


def records_of(
    perplexities: dict[str, float], dense: float = 20.0, **texts: str
) -> tuple[Study, dict[Cell, Any]]:
    """Return Wanda's cells with these perplexities by adaptation. `texts` replace those of
    calibration and evaluation.
    """
    config = copy.deepcopy(CONFIG)
    config["adaptations"] |= ADAPTED
    config["texts"] |= {
        f"{part}-split": {"source": "hub", "repository": "a/text", "member": f"{part}.txt"}
        for part in ("train", "test")
    }
    for each in ("train", "test"):
        config["texts"][f"{each}-split"] |= {"revision": "0" * 40, "format": "lines"}
    block = config["study"]
    block["calibration"]["text"] = texts.get("calibration", "calibration-text")
    block["evaluation"]["perplexity"]["text"] = texts.get("evaluation", "evaluation-text")
    names = ["none", *(name for name in ("recon_block", *ADAPTED) if name in perplexities)]
    block["grids"][0] |= {"criteria": ["wanda"], "adaptations": names}
    study = Study.check(config, "made-up.yaml")
    of_cells = {f"{WANDA}/{name}/seed0": value for name, value in perplexities.items()}
    return study, make_records(study, {"tiny/dense/none/seed0": dense, **of_cells})


def kinds_of(records: dict[Cell, Any], adaptation: str = "full") -> list[str]:
    found = find_doubts(records, Path())
    return [each.kind for each in found if f"/{adaptation}/" in each.cell]


SPLITS = {"calibration": "train-split", "evaluation": "test-split"}
SAME = {"calibration": "evaluation-text"}


@pytest.mark.parametrize(
    ("name", "perplexity", "texts", "expected"),
    [
        ("full", 19.0, {}, [BELOW]),
        ("recon_block", 19.0, {}, [BELOW]),
        # Within the noise of these windows.
        ("full", 19.9, {}, []),
        ("full", 21.0, {}, []),
        # Retraining learns the kind of text that it is measured on, but not by half.
        ("full", 17.0, SAME, [LEARNT]),
        ("full", 17.0, SPLITS, [LEARNT]),
        ("full", 9.0, SPLITS, [BELOW]),
        # These learn from the dense model alone.
        ("recon_block", 17.0, SAME, [BELOW]),
        ("distilled", 17.0, SAME, [BELOW]),
    ],
)
def test_below_the_dense_model_is_learnt_only_by_retraining_on_text_of_its_kind(
    name: str, perplexity: float, texts: dict[str, str], expected: list[str]
) -> None:
    _, records = records_of({"none": 60.0, name: perplexity}, **texts)
    assert kinds_of(records, name) == expected


def test_half_the_dense_perplexity_is_doubted_however_few_the_windows() -> None:
    """Of one unit there is no interval."""
    _, records = records_of({"none": 60.0, "full": 9.0})
    for record in records.values():
        record["metrics"]["perplexity"]["window_losses"][1:] = []
    assert kinds_of(records) == [BELOW]


@pytest.mark.parametrize(
    ("stuck", "windows", "expected"),
    # Of SmolLM2 with SparseGPT's masks, and of Gemma at three and ten times a rate that fits.
    [(6, 30, []), (6, 18, []), (8, 18, [KEPT_PRUNED]), (17, 18, [KEPT_PRUNED])],
)
def test_a_rate_that_leaves_many_windows_pruned_does_not_fit(
    stuck: int, windows: int, expected: list[str]
) -> None:
    _, records = records_of({"none": 60.0, "recon_block": 40.0})
    leave_pruned(records, stuck, windows)
    assert kinds_of(records, "recon_block") == expected


def leave_pruned(records: dict[Cell, Any], stuck: int, windows: int) -> None:
    facts = records[Cell.parse(f"{WANDA}/recon_block/seed0")]["adaptation"]
    after = [2.0] * stuck + [1.0] * (windows - stuck)
    facts["losses"] = {str(at): {"before": 2.0, "after": loss} for at, loss in enumerate(after)}


@pytest.mark.parametrize(("after", "expected"), [(1.9, []), (2.0, [NO_FALL]), (2.1, [NO_FALL])])
def test_a_retraining_has_to_lower_its_own_loss(after: float, expected: list[str]) -> None:
    _, records = records_of({"none": 60.0, "full": 40.0})
    losses = {"model": {"before": 2.0, "after": after}}
    records[Cell.parse(f"{WANDA}/full/seed0")]["adaptation"]["losses"] = losses
    assert kinds_of(records) == expected


@pytest.mark.parametrize(
    ("share", "expected"), [(0.9, [EDGE]), (1.0, [NO_RATE]), (None, [NO_RATE])]
)
def test_a_rate_has_to_help_a_probe(share: float | None, expected: list[str]) -> None:
    _, records = records_of({"none": 60.0, "full": 40.0})
    candidates = {"full.lr0.1.epochs1": {"learning_rate": 0.1, "relative_loss": share}}
    candidates |= {"full.lr0.3.epochs1": {"learning_rate": 0.3, "relative_loss": 1.2}}
    choice = {"selected_on": "probes", "chosen": "full.lr0.1.epochs1", "candidates": candidates}
    records[Cell.parse(f"{WANDA}/full/seed0")]["adaptation"]["choice"] = choice
    assert kinds_of(records) == expected


def begin(
    records: dict[Cell, Any], used: bool, without: float | None, behind: float | None
) -> None:
    """Say in each record how sequences begin, and the dense perplexities both ways."""
    losses = [value and math.log(value) for value in (without, behind)]
    bos = {"token": "<bos>", "used": used, "loss_without": losses[0], "loss_with": losses[1]}
    for record in records.values():
        record["provenance"]["bos"] = {**bos, "standard_error": 0.05}


@pytest.mark.parametrize(
    ("used", "without", "behind", "expected"),
    [
        # Gemma 3 270M, and SmolLM2, which needs no such token.
        (False, 125.0, 27.8, [HALVED]),
        (True, 125.0, 27.8, []),
        (False, 36.8, 37.6, []),
        (True, 36.8, 37.6, []),
        (True, 27.8, 125.0, [HALVED]),
        (False, 36.8, 30.0, [LOWER]),
        (False, None, None, []),
    ],
)
def test_a_model_needs_its_beginning_of_sequence(
    used: bool, without: float | None, behind: float | None, expected: list[str]
) -> None:
    _, records = records_of({"none": 60.0, "full": 40.0})
    begin(records, used, without, behind)
    doubts = find_doubts(records, Path())
    assert [each.kind for each in doubts] == expected
    # Every cell of the model is meant. Where it is merely better, its numbers still compare.
    of_all = [unsettled_by(doubts, [cell], PERPLEXITY) for cell in records]
    assert of_all == [doubts if expected == [HALVED] else []] * len(records)


def test_a_comparison_says_nothing_if_all_that_was_pruned_guesses(tmp_path: Path) -> None:
    """There are twenty questions with two choices, and twenty with four."""
    right = {"dense": (18, 15), "none": (10, 5), "recon_block": (12, 6), "full": (19, 12)}
    _, records = records_of({"none": 60.0, "recon_block": 40.0, "full": 30.0})
    cells = {cell.criterion if cell.is_dense else cell.adaptation: cell for cell in records}
    for name, counts in right.items():
        answers = {
            task: [{"right": at < count, "log_likelihoods": [0.0] * choices} for at in range(20)]
            for task, count, choices in zip(("rte", "arc"), counts, (2, 4), strict=True)
        }
        records[cells[name]]["metrics"]["tasks"] = {"tasks": {"rte": {}, "arc": {}}}
        answers_beside(tmp_path / cells[name].record_name).write_bytes(answers_bytes(answers))
    doubts = find_doubts(records, tmp_path)
    assert {each.cell.split("/")[2]: each.kind for each in doubts} == {
        "none": GUESSED,
        "recon_block": GUESSED,
    }
    # sqrt(1/4/20 + 3/16/20) / 2 around the mean of a half and a quarter.
    assert "37.5 ± 7.4 %" in doubts[0].words and "37.5 %," in doubts[0].words
    dense, none, recon, full = (cells[name] for name in right)
    assert len(unsettled_by(doubts, [dense, none, recon], ACCURACY)) == 2
    assert unsettled_by(doubts, [none, recon], PERPLEXITY) == []
    assert unsettled_by(doubts, [dense, none, full], ACCURACY) == []


def test_of_a_poisoned_study_no_verdict_stands() -> None:
    """Gemma 3 270M ran without its beginning-of-sequence token and with SmolLM2's learning rates:
    the study `raised` the perplexity by reconstruction, and nothing objected.
    """
    perplexities = {"none": 95.1, "recon_block": 97.0, "full": 17.1}
    study, records = records_of(perplexities, dense=46.2)
    claim = make_claim("gain", metric="perplexity")
    (before,) = verdicts_on(Evidence(study, records, Path()), [claim])
    assert kind(before["verdict"]) == FAILS
    leave_pruned(records, 17, 18)
    begin(records, False, 46.2, 11.3)
    evidence = Evidence(study, records, Path())
    (found,) = verdicts_on(evidence, [claim])
    assert found["verdict"] == UNDECIDED
    assert "17 of 18 windows kept" in found["parts"][0]["reason"]
    answer = answer_text(study, gather_answers(evidence))
    assert "No finding (tiny/dense/none/seed0: the dense perplexity" in answer
    of_all, of_recon, of_full = (f"no finding: {each}" for each in (HALVED, KEPT_PRUNED, BELOW))
    assert {row["adaptation"]: row["marks"] for row in evidence.means[1:]} == {
        "none": of_all,
        "recon_block": f"{of_all}; {of_recon}",
        "full": f"{of_all}; {of_full}",
    }
    assert f"{of_all}; {of_recon}" in csv_text(SUMMARY_COLUMNS, evidence.cells)
    tables = summary_text(summary_sections(evidence))
    assert f"full ({of_all}; {of_full})" in tables
    doubts = [asdict(each) for each in evidence.doubts]
    said = findings({"answer": answer, "scope": "", "claims": [], "doubts": doubts})
    assert any(
        "perplexity 17.1 on `evaluation-text`, where the dense model has 46.2" in line
        for line in said
    )
