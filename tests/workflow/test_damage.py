"""Damaged files: each is found and named, and the command that the message names mends it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from damage import DAMAGES, KINDS, RESULTS, metrics, study_digests
from freelunch.audit.output_files import AUDIT_SUMS, PAGE, TABLE_SUMS, figure_sums
from freelunch.cli.verify import check_whole, problems_of, verify
from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.core.sums import write_sums
from freelunch.study.choice import open_study

pytestmark = pytest.mark.long

COMMAND = r"`(make repair STUDY=[^`]*)`"


@pytest.fixture(scope="module")
def shared(finished, tmp_path_factory):
    """A finished study in which one file at a time is damaged, and restored."""
    return finished.copy(tmp_path_factory.mktemp("damage") / "study")


def test_a_finished_study_is_whole(shared, monkeypatch):
    monkeypatch.chdir(shared.path)
    study = open_study(Path("config.yaml"))
    check_whole(study)
    lines, whole = verify(study)
    assert whole
    assert "checkpoints              5 whole" in lines.splitlines()
    assert "damaged" not in lines and "missing" not in lines


@pytest.mark.parametrize("way", DAMAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_any_kind_is_found(shared, monkeypatch, kind, way):
    monkeypatch.chdir(shared.path)
    study, path = open_study(Path("config.yaml")), KINDS[kind]
    content, stamp = path.read_bytes(), path.stat()
    DAMAGES[way](path)
    try:
        with pytest.raises(UserError, match="the results are not whole") as caught:
            check_whole(study)
        lines, whole = verify(study)
    finally:
        if path.exists():
            # In place: other files may share it.
            with path.open("r+b") as file:
                file.write(content)
        else:
            path.write_bytes(content)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert not whole and re.search(r"[1-9] damaged or missing", lines)
    assert path.parent.name in lines or path.name in lines
    assert re.search(COMMAND, str(caught.value))
    assert re.search(r"\(made by [a-z_]+\)", str(caught.value))
    assert problems_of(study, anew=True) == []


def test_a_change_that_leaves_size_and_time_is_found_by_reading_all(shared, monkeypatch):
    monkeypatch.chdir(shared.path)
    study, path = open_study(Path("config.yaml")), KINDS["masks"]
    content, stamp = path.read_bytes(), path.stat()
    DAMAGES["bit"](path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    try:
        assert [problem.made.what for problem in problems_of(study, anew=True)] == ["masks"]
    finally:
        path.write_bytes(content)
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert problems_of(study, anew=True) == []


def swap(one: Path, other: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


WANDA, MAGNITUDE = "tiny/wanda-u50", "tiny/magnitude-u50"
# What is put in each other's place: two files or folders, the problem, and the file whose removal
# makes it again.
SWAPS: dict[str, tuple[str, str, str, str]] = {
    "masks": (
        f"pruned/{WANDA}",
        f"pruned/{MAGNITUDE}",
        "this was made with other settings than the study's: criterion.scope",
        f"pruned/{WANDA}/seed0/manifest.json",
    ),
    "adapted blocks": (
        f"windows/{WANDA}/recon_block",
        f"windows/{MAGNITUDE}/recon_block",
        "this was not made from what is on disk (masks)",
        f"windows/{WANDA}/recon_block/seed0/1-of-1/manifest.json",
    ),
    "checkpoints": (
        f"checkpoints/{WANDA}/none",
        f"checkpoints/{MAGNITUDE}/none",
        "this was not made from what is on disk (masks)",
        f"checkpoints/{WANDA}/none/seed0/manifest.json",
    ),
    "checkpoints of one mask": (
        f"checkpoints/{WANDA}/none",
        f"checkpoints/{WANDA}/recon_block",
        "this was not made from the adapted blocks on disk",
        f"checkpoints/{WANDA}/recon_block/seed0/manifest.json",
    ),
    "measurements": (
        f"metrics/{WANDA}/none",
        f"metrics/{MAGNITUDE}/none",
        "this was not made from what is on disk (checkpoint)",
        f"metrics/{WANDA}/none/seed0/manifest.json",
    ),
    "run facts": (
        f"pruned/{WANDA}/seed0/run.json",
        f"pruned/{MAGNITUDE}/seed0/run.json",
        "these run facts are not those of the step that filled this folder",
        f"pruned/{WANDA}/seed0/manifest.json",
    ),
}


@pytest.mark.parametrize("what", SWAPS)
def test_what_is_whole_but_in_the_wrong_place_is_found(shared, monkeypatch, what):
    """Each folder agrees with its own manifest, but not with the study or with other folders."""
    monkeypatch.chdir(shared.path)
    study = open_study(Path("config.yaml"))
    one, other, said, target = SWAPS[what]
    swap(RESULTS / one, RESULTS / other)
    try:
        problems = {str(problem.made.target): problem for problem in problems_of(study, anew=True)}
    finally:
        swap(RESULTS / one, RESULTS / other)
    assert said in problems[str(RESULTS / target)].said
    assert problems_of(study, anew=True) == []


def test_a_file_that_no_step_made_is_found_in_a_checkpoint(shared, monkeypatch):
    """transformers takes a folder with this file for an adapter of another model."""
    monkeypatch.chdir(shared.path)
    study = open_study(Path("config.yaml"))
    path = RESULTS / f"checkpoints/{WANDA}/none/seed0/adapter_config.json"
    path.write_text("{}")
    try:
        (problem,) = problems_of(study, anew=False)
    finally:
        path.unlink()
    assert problem.said == f"{path}: this file does not belong to the checkpoint"


def names_in(sums: str) -> list[str]:
    return [line.split("  ", 1)[1] for line in sums.splitlines()]


@pytest.mark.parametrize("name", [TABLE_SUMS, figure_sums("criteria"), AUDIT_SUMS])
def test_digests_of_other_files_than_the_studys_are_found(shared, monkeypatch, name):
    """A list of digests that lost lines, or is another's, says nothing of the files."""
    monkeypatch.chdir(shared.path)
    study, path = open_study(Path("config.yaml")), RESULTS / name
    content = path.read_text()
    lines = content.splitlines(keepends=True)
    others = [each for each in (TABLE_SUMS, figure_sums("effects"), AUDIT_SUMS) if each != name]
    try:
        for other in ("".join(lines[1:]), "".join(lines[:-1]), (RESULTS / others[0]).read_text()):
            path.write_text(other)
            with pytest.raises(UserError, match="these are not the digests of the files"):
                check_whole(study)
            first = problems_of(study, anew=False)[0]
            assert first.made.target == path and first.said.startswith(f"{path}: ")
    finally:
        path.write_text(content)


@pytest.mark.parametrize("name", [PAGE, "figures/criteria.csv"])
def test_digests_that_were_written_again_hide_no_edit(shared, monkeypatch, name):
    monkeypatch.chdir(shared.path)
    study, edited = open_study(Path("config.yaml")), RESULTS / name
    sums = [RESULTS / AUDIT_SUMS, RESULTS / TABLE_SUMS, RESULTS / figure_sums("criteria")]
    kept = {path: path.read_text() for path in (edited, *sums)}
    edited.write_text(kept[edited].replace("5", "6"))
    try:
        for path in reversed(sums):
            write_sums(path, RESULTS, [RESULTS / name for name in names_in(kept[path])])
        check_whole(study)
        (said,) = {problem.said for problem in problems_of(study, anew=True)}
    finally:
        for path, text in kept.items():
            path.write_text(text)
    assert said == f"{edited}: this file differs from what the records give"
    assert problems_of(study, anew=True) == []


def test_files_that_are_not_the_studys_are_named_and_not_shown(shared, monkeypatch):
    monkeypatch.chdir(shared.path)
    study, other = open_study(Path("config.yaml")), RESULTS / "tables" / "mine.csv"
    other.write_text("a,b\n")
    try:
        lines, whole = verify(study)
    finally:
        other.unlink()
    assert whole
    assert "not of this study        1, which nothing reads: tables/mine.csv" in lines.splitlines()


def test_an_edited_study_is_not_called_damaged(shared, monkeypatch):
    monkeypatch.chdir(shared.path)
    path = Path("config.yaml")
    content = path.read_text()
    path.write_text(content.replace("patterns: [u50]", "patterns: [u60]"))
    assert path.read_text() != content
    try:
        with pytest.raises(UserError, match="the study was edited") as caught:
            verify(open_study(path))
    finally:
        path.write_text(content)
    assert str(caught.value).endswith(": make study STUDY=config.yaml")


def test_what_may_be_removed_is_not_missed(study, monkeypatch):
    for part in ("hidden", "pruned", "windows", "metrics"):
        shutil.rmtree(study.path / RESULTS / part)
    monkeypatch.chdir(study.path)
    lines, whole = verify(open_study(Path("config.yaml")))
    assert whole
    assert "masks                    0 whole, 2 removed" in lines
    shutil.rmtree(study.path / RESULTS / "checkpoints/tiny/dense")
    lines, whole = verify(open_study(Path("config.yaml")))
    assert not whole and "checkpoints/tiny/dense/none/seed0: missing" in lines


def mend(study, said):
    """Run the command that a message names; return what it says."""
    make, *arguments = shlex.split(re.search(COMMAND, said)[1])
    assert make == "make"
    return study.make(*arguments, "CORES=2").stderr


def assert_mended(study, before, measured):
    """Run the command that the check of a damaged study names: all is then as it was before."""
    with pytest.raises(UserError, match="the results are not whole") as caught:
        check_whole(open_study(Path("config.yaml")))
    assert "The study is whole." in mend(study, str(caught.value))
    assert problems_of(open_study(Path("config.yaml")), anew=True) == []
    after = study_digests(study.path)
    assert {name: after.get(name) for name in before} == before
    assert metrics(study.path) == measured


def test_the_named_command_mends_every_kind_of_file(finished, study, monkeypatch):
    """All kinds are damaged at once, the ways in turn: together, they take one repair."""
    monkeypatch.chdir(study.path)
    before, measured = study_digests(study.path), metrics(study.path)
    ways = list(DAMAGES)
    # The shared file comes last, since its damage is that of every file that shares it.
    for number, kind in enumerate(KINDS):
        DAMAGES[ways[number % len(ways)]](KINDS[kind])
    assert_mended(study, before, measured)
    assert study.planned() == {}


def test_the_named_command_mends_what_is_in_the_wrong_place(study, monkeypatch):
    """Masks, adapted blocks, measurements and run facts are swapped, each with its manifest."""
    monkeypatch.chdir(study.path)
    before, measured = study_digests(study.path), metrics(study.path)
    for what in ("masks", "adapted blocks", "measurements"):
        one, other, *_ = SWAPS[what]
        swap(RESULTS / one, RESULTS / other)
    run = "windows/tiny/{}/recon_block/seed0/1-of-1/run.json"
    swap(RESULTS / run.format("wanda-u50"), RESULTS / run.format("magnitude-u50"))
    assert_mended(study, before, measured)
    assert study.planned() == {}


def test_the_named_command_mends_whatever_stands_in_the_place_of_a_file(
    study, monkeypatch, tmp_path
):
    """A folder, a file, a link, and a table that is damaged in a later look only."""
    monkeypatch.chdir(study.path)
    before, measured = study_digests(study.path), metrics(study.path)
    for path in (KINDS["record"], KINDS["manifest"]):
        path.unlink()
        path.mkdir()
    masks = RESULTS / "pruned/tiny/wanda-u50/seed0"
    shutil.rmtree(masks)
    masks.write_text("a file")
    KINDS["figure"].unlink()
    KINDS["figure"].symlink_to("/nonexistent")
    for path in (RESULTS / "dense/tiny", RESULTS / "audit"):
        shutil.rmtree(path)
        path.write_text("a file")
    drawn = KINDS["figure"].with_suffix(".svg")
    drawn.unlink()
    (drawn / "inside").mkdir(parents=True)
    (RESULTS / f"checkpoints/{WANDA}/none/seed0/link").symlink_to(tmp_path)
    # As if somebody had edited a table and its digests with it.
    table, sums = KINDS["table"], KINDS["digests"]
    old = file_digest(table)
    table.write_text(table.read_text().replace("wanda", "wander"))
    for path in (sums, RESULTS / "audit.sha256"):
        path.write_text(path.read_text().replace(old, file_digest(table)))
    assert_mended(study, before, measured)
    assert "wander" not in table.read_text()


def test_a_step_refuses_damaged_input_and_the_named_command_mends_it(study):
    """The block has the same size and is shared by a checkpoint: linking does not trust it."""
    path = study.path / KINDS["adapted block"]
    before = path.read_bytes()
    DAMAGES["bit"](path)
    target = "results/smoke/checkpoints/tiny/wanda-u50/recon_block/seed0/manifest.json"
    output = study.run("--force", target, status=1)
    assert (
        f"{KINDS['adapted block']}: a file's content differs from what the manifest says" in output
    )
    assert "Traceback" not in output
    mend(study, output)
    assert path.read_bytes() == before
    assert study.planned() == {}


def test_an_edited_table_is_neither_drawn_nor_audited(study):
    """Snakemake runs the figure and the audit again, since the files are newer."""
    for kind in ("table", "data of a figure"):
        path = study.path / KINDS[kind]
        path.write_text(path.read_text().replace("wanda", "wander"))
    output = study.run("--keep-going", status=1)
    assert "figures/criteria.csv: this file does not have the digest that" in output
    output = study.run("results/smoke/audit/index.html", "--rerun-triggers", "mtime", status=1)
    assert "this file does not have the digest that" in output


def test_damaged_metadata_of_snakemake_is_removed_and_changes_nothing(study):
    def folder(path: Path) -> None:
        path.unlink()
        (path / "inside").mkdir(parents=True)

    ways = [
        *DAMAGES.values(),
        lambda path: path.write_bytes(b"\xfb" + path.read_bytes()[1:]),
        lambda path: path.write_text(json.dumps({"input": 3, "params": 7})),
        folder,
    ]
    paths = sorted(path for path in (study.path / ".snakemake/metadata").iterdir())
    assert len(paths) >= len(ways)
    for number, path in enumerate(paths):
        ways[number % len(ways)](path)
    output = study.run("--dry-run", "--rerun-triggers", "mtime")
    assert "removed, since Snakemake could not read" in output and "Traceback" not in output
    assert "Nothing to be done" in output


def test_verify_says_by_its_status_whether_a_study_is_whole(study):
    environment = {**study.environment, "PYTHONPATH": str(study.path / "workflow/scripts")}
    command = [sys.executable, "-m", "freelunch", "verify", "config.yaml"]
    options = {"cwd": study.path, "env": environment, "capture_output": True, "text": True}
    assert subprocess.run(command, check=False, **options).returncode == 0
    DAMAGES["zero length"](study.path / KINDS["figure"])
    done = subprocess.run(command, check=False, **options)
    assert done.returncode == 1
    assert "figures                  1 whole, 1 damaged or missing" in done.stdout
    assert re.search(COMMAND, done.stderr)
