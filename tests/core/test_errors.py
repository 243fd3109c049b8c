"""Phrases that messages share."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from freelunch.core.code_digest import SCRIPTS
from freelunch.core.errors import STUDY_VARIABLE, first_of, run_again


def test_what_to_run_again_is_of_the_study_that_the_process_is_about(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(STUDY_VARIABLE, "my studies/mine.yaml")
    said = run_again("cut_windows", "evaluate_cell")
    assert "`make study STUDY='my studies/mine.yaml' FORCE='cut_windows evaluate_cell'`" in said
    assert "`--forcerun cut_windows evaluate_cell --`" in said
    monkeypatch.delenv(STUDY_VARIABLE)
    assert "`make study STUDY=config.yaml FORCE=prune_model`" in run_again("prune_model")


def test_every_advice_to_run_a_rule_again_is_this_phrase() -> None:
    """The audit's commands are for single cells, of a study that it knows; `run` obeys one."""
    library = SCRIPTS / "freelunch"
    said = {path for path in library.rglob("*.py") if "--forcerun" in path.read_text()}
    assert {str(path.relative_to(library)) for path in said} == {
        "cli/main.py",
        "core/errors.py",
        "audit/claim_verdicts.py",
    }


@pytest.mark.parametrize(
    ("items", "said"),
    [
        ([], ""),
        (["a", "b"], "a, b"),
        ([Path("a"), Path("b"), Path("c")], "a, b, and 1 more"),
        ((name for name in "abcd"), "a, b, and 2 more"),
    ],
    ids=["none", "all", "one more", "two more"],
)
def test_what_does_not_fit_is_counted(items: Iterable[object], said: str) -> None:
    assert ", ".join(first_of(items, 2)) == said
