"""Where the jobs of a step ran, if they ran in several environments."""

from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from audits_for_tests import ENVIRONMENT
from freelunch.audit.provenance import gather_provenance
from freelunch.records import collect
from freelunch.records.read import validate
from records_for_tests import make_records, make_study


def run(commit: str) -> dict[str, Any]:
    return {"environment": {"commit": commit, "uncommitted_changes": False}}


def test_each_other_environment_of_a_step_is_named_once() -> None:
    assert collect._others([run("a"), run("a")]) == []
    found = collect._others([run("a"), run("b"), run("a"), run("c"), run("b")])
    assert [each["commit"] for each in found] == ["b", "c"]


def test_a_record_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = {"prune_model": [run("a")], "reconstruct_window": [run("a"), run("b")]}
    monkeypatch.setattr(collect, "_runs", lambda made: runs)
    found = collect._provenance(
        MagicMock(masks=None, held_out=None, windows=[], texts={}, tasks={})
    )
    assert {step: each["commit"] for step, each in found["environments"].items()} == {
        "prune_model": "a",
        "reconstruct_window": "a",
    }
    assert found["other_environments"] == {"reconstruct_window": [run("b")["environment"]]}


def test_the_audit_names_the_commits_of_all_jobs() -> None:
    study = make_study()
    records = make_records(study, {})
    record = next(iter(records.values()))
    other = {**ENVIRONMENT, "commit": "1" * 40, "uncommitted_changes": True}
    record["provenance"]["environments"] = {"prune_model": ENVIRONMENT}
    record["provenance"]["other_environments"] = {"prune_model": [other]}
    validate(record, str(Path("a record")))
    commits = gather_provenance(study, records).commits
    assert [each["commit"] for each in commits] == [ENVIRONMENT["commit"], "1" * 40]
