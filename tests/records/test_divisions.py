"""How many jobs shared the windows of a study's finished reconstructions.

Other GPUs, another executor or a rate learnt meanwhile must not run finished jobs again.
"""

import json
from pathlib import Path

import pytest

from artifacts import write_at
from freelunch.core.digest import sealed
from freelunch.records.divisions import finished_groups
from freelunch.study.cell import Cell
from freelunch.study.config import Part
from freelunch.study.study import Study
from repository import ROOT


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(ROOT)
    found = Study.load(Path("config.yaml"))
    monkeypatch.chdir(tmp_path)
    return found


def cell_of(study: Study) -> Cell:
    return next(cell for cell in study.cells if cell.adaptation == "recon_block")


def test_the_latest_complete_division_counts(study: Study) -> None:
    def finish(group: str, at: int) -> Path:
        return write_at(study.paths.windows(cell_of(study), group) / "manifest.json", at)

    assert finished_groups(study) is None
    finish("2-of-2", 10)
    finish("1-of-4", 90)
    assert finished_groups(study) is None, "none of these divisions is complete"
    finish("1-of-2", 20)
    assert finished_groups(study) == 2
    whole = finish("1-of-1", 30)
    assert finished_groups(study) == 1
    whole.unlink()
    assert finished_groups(study) == 2


def test_a_record_says_it_where_the_windows_are_not_here(study: Study) -> None:
    """As after `dvc pull`."""
    record = sealed({"cost": {"reconstruct_window": {"jobs": 5}}})
    write_at(study.paths.record(cell_of(study)), 10, json.dumps(record))
    assert finished_groups(study) == 5
    write_at(study.paths.record(cell_of(study)), 10, "damaged")
    assert finished_groups(study) is None


def test_a_record_says_it_when_the_candidates_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`freelunch tidy` removes them."""
    monkeypatch.chdir(ROOT)
    study = Study.load(Path("studies/paper_tiny.yaml"))
    monkeypatch.chdir(tmp_path)
    cell = next(cell for cell in study.cells if cell.adaptation == "recon_block_rates")
    assert study.candidates(cell)
    record = sealed({"cost": {"reconstruct_window": {"jobs": 3}}})
    write_at(study.paths.record(cell), 10, json.dumps(record))
    assert finished_groups(study) == 3
    others = Part(models=[next(model for model in study.models if model != cell.model)])
    assert finished_groups(study.of_part(others)) == 3, "a part without this cell"
