"""What a record takes from its steps: counts that have to agree, costs, and environments."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from audits_for_tests import ENVIRONMENT
from freelunch.audit.provenance import gather_provenance
from freelunch.records import collect
from freelunch.records.read import validate
from records_for_tests import make_records, make_study
from refusals import refused


def lineage(zeros: int, pruned: int) -> Any:
    """Return what a cell's steps left of a model with one matrix, 2 x 4, pruned by u50."""
    matrix = {"rows": 2, "columns": 4, "zeros": zeros}
    identity = {"matrices": {"a": matrix}, "parameters": 8, "stored_bytes": 32}
    facts = {"settings": {"pattern": "u50", "criterion": {"scope": "row"}}}
    return SimpleNamespace(
        measured={"identity": {**identity, "checkpoint_digest": "0"}},
        masks=SimpleNamespace(facts=facts, files={"block": {"pruned": {"a": pruned}}}),
        windows=[],
        checkpoint=SimpleNamespace(folder=Path("checkpoint")),
    )


@pytest.mark.parametrize(
    ("zeros", "pruned", "expected"), [(3, 4, "4 zeros"), (5, 4, "4 zeros"), (3, 3, "4 zeros")]
)
def test_a_matrix_with_a_wrong_number_of_zeros_is_refused(
    zeros: int, pruned: int, expected: str
) -> None:
    """By its mask, and by its pattern."""
    assert collect._identity(lineage(4, 4))["sparsity"] == 0.5
    with refused(where="checkpoint: a", found=f"{zeros} zeros", expected=expected):
        collect._identity(lineage(zeros, pruned))


@pytest.mark.parametrize(("names", "zeros"), [("01", (5, 3)), ("01", (6, 1)), ("ab", (5, 3))])
def test_blocks_that_differ_have_the_patterns_zeros_together(
    names: str, zeros: tuple[int, int]
) -> None:
    """Those of each matrix's name, which differs from block to block by a number alone."""
    two = lineage(0, 0)
    two.masks.facts["settings"]["criterion"]["allocation"] = {"by": "owl"}
    two.masks.files["block"]["pruned"] = dict(zip(names, zeros, strict=True))
    two.measured["identity"]["matrices"] = {
        name: {"rows": 2, "columns": 4, "zeros": count}
        for name, count in zip(names, zeros, strict=True)
    }
    are_right = names == "01" and sum(zeros) == 8
    with nullcontext() if are_right else refused(expected="zeros", found="zeros"):
        assert collect._identity(two)["sparsity"] == 0.5


def run(commit: str = "", **cost: float) -> dict[str, Any]:
    return {
        "rule": "a rule",
        "environment": {"commit": commit},
        "cost": cost,
        "counts": {"tokens": 8},
        "finished": commit,
    }


def test_jobs_of_a_step_add_up_but_their_peaks_and_the_tokens_that_they_share_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collect, "operations", lambda rule, shapes, counts: {"flops": 1})
    monkeypatch.setattr(collect, "Shapes", MagicMock())
    jobs = [run(wall_s=1.0, peak_bytes=5), run(wall_s=2.0, peak_bytes=3)]
    windows = collect._cost(MagicMock(), "reconstruct_window", jobs)
    assert windows == {"jobs": 2, "wall_s": 3.0, "peak_bytes": 5, "tokens": 8, "flops": 2}
    assert collect._cost(MagicMock(), "search", jobs) == {**windows, "tokens": 16}


def test_a_record_names_each_environment_of_a_step_once() -> None:
    runs = {"prune_model": [run("a"), run("a")], "search": [run(each) for each in "abacb"]}
    found = collect._provenance(
        MagicMock(masks=None, held_out=None, windows=[], texts={}, tasks={}), runs
    )
    assert found["environments"] == {step: {"commit": "a"} for step in runs}
    assert found["other_environments"] == {"search": [{"commit": "b"}, {"commit": "c"}]}
    assert found["finished"] == {"prune_model": "a", "search": "c"}


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
