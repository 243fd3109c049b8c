"""The workflow as a module of another one, in an empty folder."""

import json

import pytest

from freelunch.costs.jobs import RULES
from repository import ROOT

SNAKEFILE = f"""
module lunch:
    snakefile: "{ROOT}/workflow/Snakefile"
    config: {{"study": "mine.yaml"}}

use rule * from lunch as lunch_*
"""


@pytest.fixture
def other(tmp_path, folder):
    """A folder with a workflow that imports this one, and a study."""
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    study = (ROOT / "studies" / "smoke.yaml").read_text()
    fixtures = f"path: {ROOT}/tests/fixtures/"
    (tmp_path / "mine.yaml").write_text(study.replace("path: tests/fixtures/", fixtures))
    return folder(tmp_path).warm()


def test_a_study_is_planned(other):
    planned = other.planned()
    assert planned["lunch_evaluate_cell"] == 5
    assert planned["lunch_audit_study"] == 1


def test_a_study_with_a_base_is_planned(other):
    """The base is that of the repository."""
    (other.path / "mine.yaml").write_text((ROOT / "config.yaml").read_text())
    assert other.planned()["lunch_evaluate_cell"] == 15


def test_a_record_is_made(other):
    """Its costs are under the names of the rules here."""
    record = "results/smoke/records/tiny__dense__none__seed0.json"
    other.run("--", record)
    found = json.loads((other.path / record).read_text())
    assert {"evaluate_cell"} <= set(found["cost"]) <= set(RULES)
    assert found["cost"]["evaluate_cell"]["flops"] > 0
