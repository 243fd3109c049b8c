"""Which figures a study has."""

from pathlib import Path
from typing import Any

import pytest

from freelunch.audit.figures import figures_of
from freelunch.study.study import Study
from records_for_tests import make_study
from repository import ROOT

WINDOWS: dict[str, Any] = {"recon_all": {"method": "reconstruction", "window": "all"}}
BUDGETS: dict[str, Any] = {"full": {"method": "full"}}


def names(study: Study) -> list[str]:
    return [figure.name for figure in figures_of(study)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("config.yaml", ["budget_ratios", "budgets", "criteria", "drift", "effects", "windows"]),
        (
            "studies/full.yaml",
            ["budget_ratios", "budgets", "criteria", "drift", "effects", "windows"],
        ),
        ("studies/retraining.yaml", ["budget_ratios", "budgets", "effects"]),
        ("studies/criteria.yaml", ["criteria", "effects"]),
        (
            "studies/budgets.yaml",
            [
                *("budget_ratios", "budgets", "criteria", "criteria_budgets"),
                *("drift", "effects", "windows"),
            ],
        ),
        (
            "studies/paper.yaml",
            ["budget_ratios", "budgets", "criteria", "drift", "effects", "sizes", "windows"],
        ),
    ],
)
def test_studies_of_this_repository(source: str, expected: list[str]) -> None:
    assert names(Study.load(Path(source), ROOT)) == expected


def test_one_criterion_is_compared_with_nothing() -> None:
    """The figure of criteria gives way to a comparison, and is there where there is none."""
    adaptations = ["none", "recon_block", "recon_all", "full"]
    for count, expected in (
        (1, ["criteria"]),
        (2, ["criteria", "effects"]),
        (3, ["effects", "windows"]),
        (4, ["budget_ratios", "budgets", "effects", "windows"]),
    ):
        study = make_study(
            WINDOWS | BUDGETS, criteria=["wanda"], adaptations=adaptations[:count], seeds=[0]
        )
        assert names(study) == expected
    more = make_study(WINDOWS, criteria=["wanda", "magnitude"], adaptations=adaptations[:3])
    assert names(more) == ["criteria", "effects", "windows"]
    patterns = make_study(WINDOWS, criteria=["wanda"], patterns=["u50", "u60"])
    assert names(patterns) == ["criteria", "effects"]
    sizes = make_study(models=["tiny", "tiny-2"], criteria=["wanda"])
    assert names(sizes) == ["effects", "sizes"]
