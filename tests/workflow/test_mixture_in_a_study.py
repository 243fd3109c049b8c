"""A study that calibrates, trains and measures drift on a mixture, to its records."""

import json
from pathlib import Path

import pytest
import yaml

from freelunch.study.study import Study
from study_folder import Folder

CHOSEN = "study=studies/mixed.yaml"
PARTS = {"first", "second"}
BLOCK = {"method": "reconstruction", "batch": 2}
CONFIG = {
    # A model with shorter sequences than the others of a study has them from a mixture, too.
    "models": {"tiny": {"source": "path", "path": "tests/fixtures/tiny-llama", "max_length": 16}},
    "texts": {
        "first": {"source": "path", "path": "first.jsonl", "format": "jsonl"},
        "second": {"source": "path", "path": "second.jsonl", "format": "jsonl"},
        # The beginning of the paragraphs.
        "excerpt": {"source": "path", "path": "tests/fixtures/excerpt.txt", "format": "plain"},
        "mixed": {
            "source": "mixture",
            "parts": {"first": 0.25, "second": 0.75},
            "evaluation_text": "leave_out",
            "held_out": 0.2,
        },
    },
    "criteria": {"wanda": {"score": "wanda"}},
    "adaptations": {"recon_block": BLOCK, "recon_more": {**BLOCK, "samples": 16}},
    "study": {
        "name": "mixed",
        "dense_limit": 5000,
        "calibration": {"text": "mixed", "samples": 8, "length": 32},
        "selection": {"samples": 2},
        "evaluation": {
            "perplexity": {"text": "excerpt", "length": 32, "windows": 8, "cut": "joined"},
            "drift": {"samples": 2},
        },
        "grids": [
            {
                "models": ["tiny"],
                "criteria": ["wanda"],
                "patterns": ["u50"],
                "adaptations": ["recon_block", "recon_more"],
            }
        ],
    },
}


def test_a_mixture_reaches_the_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Folder.new(tmp_path / "clone").warm()
    lines = (folder.path / "tests" / "fixtures" / "paragraphs.jsonl").read_text().splitlines(True)
    (folder.path / "first.jsonl").write_text("".join(lines[::2]))
    (folder.path / "second.jsonl").write_text("".join(lines[1::2]))
    (folder.path / "studies" / "mixed.yaml").write_text(yaml.safe_dump(CONFIG))
    folder.run("--config", CHOSEN)
    monkeypatch.chdir(folder.path)
    study = Study.load(Path("studies/mixed.yaml"))
    for cell in study.cells:
        record = json.loads(study.paths.record(cell).read_text())
        assert record["metrics"]["perplexity"]["perplexity"]
        if not cell.is_dense:
            assert record["metrics"]["drift"]
            calibration = record["spec"]["calibration"]
            assert calibration["length"] == 16 and set(calibration["text"]["parts"]) == PARTS
            assert record["adaptation"]["distinct_tokens"] == 16 * study.samples(cell.adaptation)
    # Samples have the parts and the length of the model.
    paths = study.paths
    samples = [each("tiny", 0) for each in (paths.calibration, paths.held_out)]
    for sample in (*samples, paths.extended("tiny", 0, 16)):
        facts = json.loads((sample / "manifest.json").read_text())["facts"]
        assert set(facts["parts"]) == PARTS and facts["settings"]["length"] == 16
    # Nothing is left to do until a share changes.
    assert folder.planned("--config", CHOSEN) == {}
    folder.edit("studies/mixed.yaml", "first: 0.25", "first: 0.5")
    folder.edit("studies/mixed.yaml", "second: 0.75", "second: 0.5")
    planned = folder.planned("--config", CHOSEN).keys()
    assert {"mix_text", "sample_calibration", "sample_held_out", "extend_calibration"} < planned
    # How sequences begin is decided on the calibration text, so windows are cut again.
    assert not {"fetch_text", "fetch_model"} & planned
