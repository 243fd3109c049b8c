"""What `freelunch verify` says of made-up things; `workflow/test_damage.py` damages real ones."""

from pathlib import Path

import pytest

from freelunch.cli import verify
from freelunch.core.artifact import MANIFEST
from freelunch.core.errors import UserError
from freelunch.records.made import Made
from records_for_tests import make_study


def checked(anew: bool) -> None:
    """Find a thing whole."""


def damaged(anew: bool) -> None:
    raise UserError("this is damaged")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / make_study().paths.root
    folder.mkdir(parents=True)
    return folder


def told(monkeypatch: pytest.MonkeyPatch, *made: Made) -> tuple[list[str], bool]:
    monkeypatch.setattr(verify, "made_by_study", lambda study: made)
    text, whole = verify.verify(make_study())
    return text.splitlines(), whole


def cache(place: Path) -> Made:
    return Made("caches", "capture_dense", None, False, checked, place)


def test_what_never_ran_is_not_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair would run the study, without the checks before a run."""
    monkeypatch.chdir(tmp_path)
    for command in (verify.verify, lambda study: verify.repair(study, ["false"])):
        with pytest.raises(UserError, match="this study has no results"):
            command(make_study())


def test_each_thing_is_whole_removed_or_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one", "two", "three"):
        (folder / name).mkdir()
        (folder / name / MANIFEST).touch()
    steps = [
        Made("masks", "prune_model", folder / name / MANIFEST, needed, check, folder / name)
        for name, needed, check in (
            *(("one", True, checked), ("two", True, damaged), ("three", False, checked)),
            *(("gone", False, checked), ("lost", True, checked)),
        )
    ]
    (count, *problems), whole = told(monkeypatch, *steps)
    assert not whole
    assert count.split(maxsplit=1)[1] == (
        "2 whole, 1 removed, which steps make again when they need it, 2 damaged or missing"
    )
    assert problems == [
        "  this is damaged (made by prune_model)",
        f"  {folder / 'lost'}: missing (made by prune_model)",
    ]


def test_what_something_else_stands_in_for_counts_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is damaged, and not also removed."""
    (folder / "hidden").write_text("a file in the place of a folder")
    (count, problem), whole = told(monkeypatch, cache(folder / "hidden" / "seed0"))
    assert not whole and count.split(maxsplit=1)[1] == "0 whole, 1 damaged or missing"
    assert "this stands in the place of a folder" in problem
