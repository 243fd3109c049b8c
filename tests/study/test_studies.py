"""The studies of the repository, and what reading a study may import."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from configs import STUDIES
from freelunch.study.config import CHOSEN_BY, KINDS, REGISTRIES
from freelunch.study.study import Study
from freelunch.study.yaml_file import read_yaml
from repository import ROOT

REGISTRY = ROOT / "config" / "registry.yaml"


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


@pytest.mark.parametrize("registry", ["texts", "criteria", "adaptations"])
def test_shared_entries_say_only_what_is_no_default(registry: str) -> None:
    """Learning rates are said in any case: they were searched."""
    for name, entry in read_yaml(REGISTRY)[registry].items():
        fields = KINDS[registry][entry[CHOSEN_BY[registry]]].model_fields
        repeated = {key for key, value in entry.items() if fields[key].default == value}
        assert repeated <= {"learning_rate"}, name


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_a_study_repeats_no_entry_of_its_base(path: Path) -> None:
    """Nor an entry of another name, except in place of one, and among adaptations."""
    content = read_yaml(path)
    base = entries_of(read_yaml(REGISTRY)) if "base" in content else {}
    for (registry, name), entry in entries_of(content).items():
        assert entry != base.get((registry, name)), (registry, name)
        if registry != "adaptations" and (registry, name) not in base:
            assert entry not in base.values(), (registry, name)


def entries_of(content: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the entries of all registries of a file, with their defaults."""
    return {
        (registry, name): KINDS[registry][entry[CHOSEN_BY[registry]]](**entry).as_json()
        for registry in REGISTRIES
        for name, entry in content.get(registry, {}).items()
    }


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
