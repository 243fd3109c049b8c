"""Every kind of cell that the paper's study has, with tiny models, to the page of its audit.

`tests/study/test_paper_studies.py` compares the two studies.
"""

import json
from pathlib import Path

from freelunch.study.study import Study
from repository import ROOT
from study_folder import SHOWN, Folder

CHOSEN = "study=studies/paper_tiny.yaml"


def test_each_kind_of_cell_reaches_its_record(tmp_path: Path) -> None:
    run = Folder.new(tmp_path / "clone").warm()
    run.run("--config", CHOSEN)
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
    # A part travels with `--config`; only its tables, figures and audit differ.
    planned = run.planned("--config", CHOSEN, "models=gemma2")
    assert planned and planned.keys() <= SHOWN
