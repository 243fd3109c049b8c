"""What `freelunch tidy` keeps and counts, and what follows for the disk that a study needs.

`tests/workflow/test_wide_study.py` runs it on a study.
"""

from collections import namedtuple
from pathlib import Path

import pytest

from artifacts import write_at
from freelunch.cli import tidy as module
from freelunch.cli.tidy import freed_bytes, tidy
from freelunch.costs.capacity import lacking_disk
from freelunch.costs.plan import Plan
from freelunch.study.cell import Cell
from freelunch.study.study import Study
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
        lambda study, folder: ({c: {} for c in study.cells if study.paths.record(c).is_file()}, {}),
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
    cell, folders = finish(study)
    measured = study.paths.metrics(study.candidates(cell)[0]) / "manifest.json"
    for path in (folders[0] / "manifest.json", measured):
        for change in (path.unlink, lambda path=path: write_at(path, RECORDED + 1)):
            change()
            assert tidy(study).startswith("Nothing to remove")
            assert all(folder.is_dir() for folder in folders)
        write_at(path, RECORDED)
    count = len(study.candidates(cell))
    assert f"of {count} candidate(s) of 1 finished cell(s): " in tidy(study)
    assert not any(folder.exists() for folder in folders)


def test_what_an_interrupted_run_left_is_removed_first(study: Study) -> None:
    """Also if the candidate was made again meanwhile."""
    _, folders = finish(study)
    left = folders[1].with_name(f".{folders[1].name}.removing")
    write_at(left / "block-000.safetensors", RECORDED)
    tidy(study)
    assert not left.exists() and not folders[1].exists()
    assert not folders[1].parent.exists()
    assert not list(study.paths.root.glob(".tidy*"))


def test_a_study_that_has_not_run_stays_without_results(study: Study) -> None:
    assert tidy(study).startswith("Nothing to remove")
    assert not study.paths.root.exists()


def test_tidied_cells_need_no_disk_for_their_candidates(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage(1, 1, -(10**9)))
    # The config names its models by paths.
    monkeypatch.chdir(ROOT)
    plan, hint = Plan.of(study), "if `make tidy STUDY=studies/paper_tiny.yaml` removes"
    monkeypatch.chdir(tmp_path)
    assert hint in str(lacking_disk(plan))
    for cell in study.cells:
        write_at(study.paths.record(cell), RECORDED)
    assert "more on disk" in str(lacking_disk(plan)) and hint not in str(lacking_disk(plan))
    # Candidates that are there are part of what the study has.
    finish(study)
    assert hint in str(lacking_disk(plan))


def test_a_file_that_is_linked_elsewhere_gives_nothing_back(tmp_path: Path) -> None:
    """As those of the chosen candidate, which the cell shares."""
    one, two, kept = (tmp_path / name for name in ("one", "two", "kept"))
    for folder in (one, two, kept):
        folder.mkdir()
    (one / "alone").write_bytes(bytes(1))
    (one / "both").write_bytes(bytes(10))
    (two / "both").hardlink_to(one / "both")
    (one / "chosen").write_bytes(bytes(100))
    (kept / "chosen").hardlink_to(one / "chosen")
    assert freed_bytes([one]) == 1
    assert freed_bytes([one, two]) == 11
    assert freed_bytes([one, two, kept]) == 111
