"""What verdicts are about, beside the paper's own scale."""

from pathlib import Path

import pytest

from freelunch.reporting.audit.scope import Scope, load_regimes, worth_text
from freelunch.study.cell import Cell
from freelunch.study.config import Part
from freelunch.study.study import Study

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


def test_of_several_models_each_has_to_have_it() -> None:
    config = PAPER.as_json()
    config["study"]["calibration"]["length"] = 2048
    study = Study.check(config, "changed.yaml")
    both = scope_of(study, "opt-2.7b", "llama-2-7b")
    assert both.reconstructed == (0.5, 1)
    assert both.is_in_part_too_small and not both.too_small
    assert scope_of(study, "llama-2-7b").too_small


def test_worth_of_a_study_of_short_models() -> None:
    study = PAPER.of_part(Part(models=["opt-125m"]))
    assert worth_text(study, {}, load_regimes()).startswith(
        "At least the paper's smallest calibration sample for these models (262,144 tokens)"
    )
