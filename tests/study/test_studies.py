"""The studies of the repository, and what reading a study may import."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from configs import STUDIES
from freelunch.study.study import Study
from freelunch.study.yaml_file import read_yaml
from repository import ROOT


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_written_out_in_full_is_the_same_study(path: Path) -> None:
    found = Study.load(path)
    assert found.cells[0].is_dense
    written = json.loads(json.dumps(found.as_json(), allow_nan=False))
    again = Study.check(written, "written.yaml")
    # Snakemake compares what is printed.
    assert repr(again.as_json()) == repr(found.as_json())
    assert again.cells == found.cells
    assert [again.spec(cell) for cell in again.cells] == [found.spec(cell) for cell in found.cells]


def test_studies_have_names_of_their_own() -> None:
    names = [Study.load(path).name for path in STUDIES]
    assert names[0] == "laptop"
    assert len(set(names)) == len(names), "two studies would share a folder of results"


def test_the_default_study_states_every_setting() -> None:
    """Its reader sees all there is to set: filling in defaults changes nothing."""
    given, filled = read_yaml(ROOT / "config.yaml"), Study.load(ROOT / "config.yaml").as_json()
    assert filled["study"] == given["study"]


def test_planning_imports_no_tensor_library() -> None:
    """All modules of the planning rooms are imported, in a process of their own."""
    forbidden = {"torch", "transformers", "safetensors", "tokenizers", "matplotlib", "numpy"}
    code = f"""
import importlib, pkgutil, sys
for room in ("core", "study", "costs", "records"):
    package = importlib.import_module(f"freelunch.{{room}}")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"freelunch.{{room}}.{{module.name}}")
assert "freelunch.costs.plan" in sys.modules
print(*sorted({forbidden!r} & set(sys.modules)))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "workflow" / "scripts")}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == ""
