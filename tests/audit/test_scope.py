"""What verdicts are about, beside the paper's own scale; and which units of a text are evidence."""

from pathlib import Path
from typing import Any

import pytest

from freelunch.analysis.doubts import HELD_OUT_PERPLEXITY, PERPLEXITY
from freelunch.audit.evidence import Evidence
from freelunch.audit.scope import load_regimes, scope_of, worth_text
from freelunch.study.cell import DENSE, NONE, Cell
from freelunch.study.config import Part
from freelunch.study.study import Study
from measures_for_tests import NOWHERE
from records_for_tests import make_records, make_study

PAPER = Study.load(Path("studies/paper.yaml"))
REGIME = load_regimes()["C1"]
# The paper's models, by their names in its study.
OWN = [
    name
    for name, model in PAPER.config.models.items()
    if model.as_json()["repository"] in REGIME.repositories
]


def cell(model: str, adaptation: str = "recon_block") -> Cell:
    return Cell(model, "wanda", "u50", adaptation, 0)


def test_the_papers_models_are_those_of_its_study() -> None:
    assert len(OWN) == len({*REGIME.repositories})


def test_each_model_of_the_papers_study_has_the_papers_scale() -> None:
    """Sequences for OPT have 2048 tokens, in the paper and here."""
    assert all(REGIME.has(PAPER, cell(model)) for model in OWN)
    scope = scope_of(PAPER, [cell("llama-2-7b"), cell("llama-2-7b", "recon_block_1024")], [3], None)
    assert "524,288 to 4,194,304 calibration tokens" in scope and "3 seeds" in scope


def short_study(*models: str) -> Study:
    """Return the paper's study with sequences that are as long as the paper's for OPT only."""
    config = PAPER.as_json()
    config["study"]["calibration"]["length"] = 2048
    return Study.check(config, "changed.yaml").of_part(Part(models=list(models)))


def test_less_text_and_other_models_say_nothing_of_the_paper() -> None:
    study = short_study("opt-2.7b", "llama-2-7b")
    assert REGIME.has(study, cell("opt-2.7b")) and not REGIME.has(study, cell("llama-2-7b"))
    # What is not reconstructed has no such sample.
    assert all(REGIME.has(study, cell("llama-2-7b", name)) for name in (NONE, "full"))
    said = worth_text(study, {}, load_regimes())
    assert said.startswith("What is said of opt-2.7b can support")
    for other in (short_study("llama-2-7b"), make_study()):
        assert "settles no claim of the paper" in worth_text(other, {}, load_regimes())
    assert not any(REGIME.has(make_study(), each) for each in make_study().cells)


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
