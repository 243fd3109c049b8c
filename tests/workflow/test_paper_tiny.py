"""Every kind of cell that the paper's study has, with tiny models, to the page of its audit.

`tests/study/test_paper_studies.py` compares the two studies.
"""

import json
from pathlib import Path

import pytest

from freelunch.study.study import Study
from repository import ROOT
from study_folder import SHOWN, Folder

CHOSEN = "study=studies/paper_tiny.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """The study, run to its end."""
    folder = Folder.new(tmp_path_factory.mktemp("paper") / "clone").warm()
    folder.run("--config", CHOSEN)
    return folder


def test_each_kind_of_cell_reaches_its_record(run: Folder) -> None:
    root = run.path / "results" / "paper_tiny"
    records = [json.loads(path.read_text()) for path in (root / "records").glob("*.json")]
    cells = Study.load(Path("studies/paper_tiny.yaml"), ROOT).cells
    assert {record["cell"] for record in records} == set(map(str, cells))
    assert all(record["metrics"]["perplexity"]["perplexity"] for record in records)
    assert (root / "audit" / "index.html").is_file()
    lengths = {
        record["cell"].partition("/")[0]: record["metrics"]["perplexity"]["length"]
        for record in records
    }
    assert lengths == {"opt": 16, "llama": 32, "qwen2": 32, "gemma2": 32}


def test_a_part_of_a_finished_study_computes_nothing(run: Folder) -> None:
    """It travels with `--config`, and only tables, figures and the audit are about fewer cells."""
    planned = run.planned("--config", CHOSEN, "models=gemma2")
    assert planned and planned.keys() <= SHOWN
