"""What `freelunch verify` says of made-up things; `workflow/test_damage.py` damages real ones."""

from pathlib import Path

import pytest

from freelunch.cli import verify
from freelunch.core.artifact import MANIFEST
from freelunch.core.errors import UserError
from freelunch.records.whole import Output
from records_for_tests import make_study


def damaged(anew: bool) -> None:
    raise UserError("this is damaged")


def test_what_never_ran_is_not_repaired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A repair would run the study, without the checks before a run."""
    monkeypatch.chdir(tmp_path)
    for command in (verify.verify, lambda study: verify.repair(study, ["false"])):
        with pytest.raises(UserError, match="this study has no results"):
            command(make_study())


def test_each_thing_is_whole_removed_or_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = make_study().paths.root
    for name in ("one", "two", "three"):
        (folder / name).mkdir(parents=True)
        (folder / name / MANIFEST).touch()
    outputs = [
        Output("masks", "prune_model", folder / name / MANIFEST, check, needed)
        for name, check, needed in (
            ("one", bool, True),
            ("two", damaged, True),
            ("three", bool, False),
            ("gone", bool, False),
            ("lost", bool, True),
        )
    ]
    monkeypatch.setattr(verify, "outputs_of", lambda study: outputs)
    text, whole = verify.verify(make_study())
    count, *problems = text.splitlines()
    assert not whole
    assert count.split(maxsplit=1)[1] == "2 whole, 2 damaged or missing"
    assert problems == [
        "  this is damaged (made by prune_model)",
        f"  {folder / 'lost' / MANIFEST}: missing (made by prune_model)",
    ]
