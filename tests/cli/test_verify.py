"""What `freelunch verify` says of made-up things, and what `freelunch tidy` keeps.

`tests/workflow/test_damage.py` and `test_windows_in_a_study.py` run them on studies.
"""

from pathlib import Path

import pytest

from artifacts import write_at
from freelunch.cli import verify as module
from freelunch.cli.verify import repair, tidy, verify
from freelunch.core.artifact import MANIFEST
from freelunch.core.errors import UserError
from freelunch.records.integrity import Output
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import make_study
from refusals import refused
from repository import ROOT

RECORDED = 1_000


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study with a search, in an empty folder."""
    monkeypatch.chdir(ROOT)
    found = Study.load(Path("studies/paper_tiny.yaml"))
    monkeypatch.chdir(tmp_path)
    # What a record holds is not what these tests are about.
    monkeypatch.setattr(
        module,
        "finished_records",
        lambda study: ({c: {} for c in study.cells if study.paths.record(c).is_file()}, {}),
    )
    return found


def finish(study: Study) -> tuple[Cell, list[Path]]:
    """Write the record of a searched cell, and what its candidates leave; return their folders."""
    cell = next(cell for cell in study.cells if cell.adaptation == "full_rates")
    folders = []
    for candidate in study.candidates(cell):
        folders += [study.paths.windows(candidate, "model"), study.paths.checkpoint(candidate)]
        write_at(study.paths.metrics(candidate) / "manifest.json", RECORDED - 1)
    for folder in folders:
        write_at(folder / "manifest.json", RECORDED - 2)
    write_at(study.paths.record(cell), RECORDED)
    return cell, folders


def test_what_is_being_made_again_is_kept(study: Study) -> None:
    """As by `make study FORCE=retrain_model`: the record of before is there until the cell ends."""
    assert " of 0 candidate(s)" in tidy(study) and not study.paths.root.exists()
    cell, folders = finish(study)
    measured = study.paths.metrics(study.candidates(cell)[0]) / "manifest.json"
    for path in (folders[0] / "manifest.json", measured):
        for change in (path.unlink, lambda path=path: write_at(path, RECORDED + 1)):
            change()
            assert " of 0 candidate(s)" in tidy(study)
            assert all(folder.is_dir() for folder in folders)
        write_at(path, RECORDED)
    # What an interrupted run left is removed, too, also if the candidate was made again meanwhile.
    left = folders[1].with_name(f".{folders[1].name}.removing")
    write_at(left / "block-000.safetensors", RECORDED)
    assert f" of {len(study.candidates(cell))} candidate(s)" in tidy(study)
    assert not any(folder.exists() for folder in (*folders, left))


# --- Verify and repair


def test_what_never_ran_is_not_repaired() -> None:
    """A repair would run the study, without the checks before a run."""
    for command in (verify, lambda study: repair(study, ["false"])):
        with refused(where=make_study().paths.root, todo="make study"):
            command(make_study())


def damaged(anew: bool) -> None:
    raise UserError("this is damaged")


def test_each_thing_is_whole_removed_or_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
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
    monkeypatch.setattr(module, "outputs_of", lambda study: outputs)
    text, whole = verify(make_study())
    count, *problems = text.splitlines()
    assert not whole
    assert count.split(maxsplit=1)[1] == "2 whole, 2 damaged or missing"
    assert problems == [
        "  this is damaged (made by prune_model)",
        f"  {folder / 'lost' / MANIFEST}: missing (made by prune_model)",
    ]
