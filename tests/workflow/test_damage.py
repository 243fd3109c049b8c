"""Damaged files: each is found and named, and the command that the message names mends it."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from damage import AT_RANDOM, DAMAGES, KINDS, RESULTS, keep_time, metrics, study_digests, swap
from freelunch.audit.output_files import AUDIT_SUMS, EVIDENCE, PAGE, TABLE_SUMS, figure_sums
from freelunch.cli.verify import check_intact, problems_of, verify
from freelunch.core.digest import write_sums
from freelunch.core.errors import UserError
from freelunch.study.open_study import open_study

pytestmark = pytest.mark.long

COMMAND = r"`(make repair STUDY=[^`]*)`"
# docs/design/trust.md has the numbers of a long run: TRIALS=40 pytest ... --junitxml=told.xml
TRIALS = range(int(os.environ.get("TRIALS", "1")))
# A run makes again what one of these makes, and what follows from that.
RULES = ("capture_dense", "prune_model", "reconstruct_window", "evaluate_cell", "collect_records")


@pytest.fixture(scope="module")
def shared(finished, tmp_path_factory):
    """A finished study in which one file at a time is damaged, and restored."""
    return finished.copy(tmp_path_factory.mktemp("damage") / "study")


@pytest.fixture
def opened(shared, monkeypatch):
    """That study, opened in its folder; a test has to leave it whole."""
    monkeypatch.chdir(shared.path)
    study = open_study(Path("config.yaml"))
    yield study
    assert problems_of(study, anew=True) == {}


@contextmanager
def restored(*paths):
    """Restore files afterwards, with their times."""
    kept = {path: (path.read_bytes(), path.stat()) for path in paths}
    try:
        yield
    finally:
        for path, (content, stamp) in kept.items():
            if path.exists():
                # In place: other files may share it.
                with path.open("r+b") as file:
                    file.write(content)
                    file.truncate()
            else:
                path.write_bytes(content)
            os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_any_kind_is_found(opened, kind):
    path = KINDS[kind]
    for damage in DAMAGES.values():
        with restored(path):
            damage(path)
            with pytest.raises(UserError, match="the results are not whole") as caught:
                check_intact(opened)
        assert re.search(COMMAND, caught.value.todo)
        assert re.search(r"\(made by [a-z_]+\)", caught.value.found)
    with restored(path):
        DAMAGES["truncation"](path)
        lines, whole = verify(opened)
    assert not whole and re.search(r"[1-9] damaged or missing", lines)
    assert path.parent.name in lines or path.name in lines


def test_a_change_that_leaves_size_and_time_is_found_by_reading_all(opened):
    check_intact(opened)
    lines, whole = verify(opened)
    assert whole and "checkpoints              5 whole" in lines.splitlines()
    assert "damaged" not in lines and "missing" not in lines
    path = KINDS["masks"]
    with restored(path):
        keep_time(path)
        assert [output.what for output in problems_of(opened, anew=True)] == ["pruned"]


WANDA, MAGNITUDE = "tiny/wanda-u50", "tiny/magnitude-u50"
NOT_MADE_FROM = "this was not made from what is on disk"
# What is put in each other's place: two files or folders, the problem, and the folder whose
# manifest goes for it to be made again.
SWAPS: dict[str, tuple[str, str, str, str]] = {
    "masks": (
        f"pruned/{WANDA}",
        f"pruned/{MAGNITUDE}",
        "this was made with other settings than the study's: criterion.scope",
        f"pruned/{WANDA}/seed0",
    ),
    "adapted blocks": (
        f"windows/{WANDA}/recon_block",
        f"windows/{MAGNITUDE}/recon_block",
        f"{NOT_MADE_FROM} (masks)",
        f"windows/{WANDA}/recon_block/seed0/1-of-1",
    ),
    "checkpoints of one mask": (
        f"checkpoints/{WANDA}/none",
        f"checkpoints/{WANDA}/recon_block",
        f"{NOT_MADE_FROM} (adapted)",
        f"checkpoints/{WANDA}/recon_block/seed0",
    ),
    "measurements": (
        f"metrics/{WANDA}/none",
        f"metrics/{MAGNITUDE}/none",
        f"{NOT_MADE_FROM} (checkpoint)",
        f"metrics/{WANDA}/none/seed0",
    ),
    "run facts": (
        f"pruned/{WANDA}/seed0/run.json",
        f"pruned/{MAGNITUDE}/seed0/run.json",
        "these run facts are not those of the step that filled this folder",
        f"pruned/{WANDA}/seed0",
    ),
}


@pytest.mark.parametrize("what", SWAPS)
def test_what_is_whole_but_in_the_wrong_place_is_found(opened, what):
    """Each folder agrees with its own manifest, but not with the study or with other folders."""
    one, other, said, remade = SWAPS[what]
    swap(RESULTS / one, RESULTS / other)
    try:
        found = problems_of(opened, anew=True)
    finally:
        swap(RESULTS / one, RESULTS / other)
    by_target = {output.target: found[output] for output in found}
    assert said in by_target[RESULTS / remade / "manifest.json"]


def test_a_file_that_no_step_made(opened):
    """transformers takes a folder with this file for an adapter of another model."""
    path = RESULTS / f"checkpoints/{WANDA}/none/seed0/adapter_config.json"
    path.write_text("{}")
    (problem,) = problems_of(opened, anew=False).values()
    path.unlink()
    assert problem.startswith(f"{path}: this file does not belong to the checkpoint")


@pytest.mark.parametrize("name", [PAGE, EVIDENCE, "figures/criteria.csv"])
def test_digests_that_were_written_again_hide_no_edit(opened, name):
    edited = RESULTS / name
    sums = [RESULTS / AUDIT_SUMS, RESULTS / TABLE_SUMS, RESULTS / figure_sums("criteria")]
    with restored(edited, *sums):
        edited.write_text(edited.read_text().replace("5", "6"))
        for path in reversed(sums):
            names = [line.split("  ", 1)[1] for line in path.read_text().splitlines()]
            write_sums(path, RESULTS, [RESULTS / name for name in names])
        check_intact(opened)
        (problem,) = {*problems_of(opened, anew=True).values()}
    assert problem.startswith(f"{edited}: this file differs from what the records give")


def test_what_may_be_removed_is_not_missed_as_the_exit_status_says(study):
    for part in ("hidden", "pruned", "windows", "metrics"):
        shutil.rmtree(study.path / RESULTS / part)
    done = study.freelunch("verify", "config.yaml")
    assert done.returncode == 0
    assert "checkpoints              5 whole" in done.stdout and "pruned" not in done.stdout
    shutil.rmtree(study.path / RESULTS / "checkpoints/tiny/dense")
    done = study.freelunch("verify", "config.yaml")
    assert done.returncode == 1 and re.search(COMMAND, done.stderr)
    assert "checkpoints/tiny/dense/none/seed0/manifest.json: missing" in done.stdout


def mend(study, said):
    """Run the command that a message names; return what it says."""
    make, *arguments = shlex.split(re.search(COMMAND, said)[1])
    assert make == "make"
    return study.make(*arguments, "CORES=2").stderr


def test_the_named_command_mends_every_kind_of_file(finished, study, monkeypatch):
    """All kinds are damaged at once, the ways in turn: together, they take one repair."""
    monkeypatch.chdir(study.path)
    before, measured = study_digests(study.path), metrics(study.path)
    ways = list(DAMAGES)
    # The shared file comes last, since its damage is that of every file that shares it.
    for number, kind in enumerate(KINDS):
        DAMAGES[ways[number % len(ways)]](KINDS[kind])
    with pytest.raises(UserError, match="the results are not whole") as caught:
        check_intact(open_study(Path("config.yaml")))
    assert "The study is whole." in mend(study, str(caught.value))
    assert problems_of(open_study(Path("config.yaml")), anew=True) == {}
    after = study_digests(study.path)
    assert {name: after.get(name) for name in before} == before
    assert metrics(study.path) == measured
    assert study.planned() == {}


def test_a_step_refuses_damaged_input_and_the_named_command_mends_it(study):
    """The block has the same size and is shared by a checkpoint: linking does not trust it."""
    path = study.path / KINDS["adapted block"]
    before = path.read_bytes()
    DAMAGES["bit"](path)
    target = "results/smoke/checkpoints/tiny/wanda-u50/recon_block/seed0/manifest.json"
    output = study.run("--force", target, status=1)
    assert f"{KINDS['adapted block']}: a file differs from what the manifest says" in output
    assert "Traceback" not in output
    mend(study, output)
    assert path.read_bytes() == before
    assert study.planned() == {}


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


@pytest.mark.parametrize("trial", TRIALS)
@pytest.mark.parametrize("kind", [*AT_RANDOM, "kills"])
def test_computing_after_random_harm(study, monkeypatch, record_property, kind, trial):
    """A run that ends well has the right numbers; any other names the command that mends all."""
    monkeypatch.chdir(study.path)
    before, measured = study_digests(study.path), metrics(study.path)
    # From here on, the digest of a file with the same size, time and inode counts as known.
    check_intact(open_study(Path("config.yaml")))
    chance = random.Random(trial)
    rule = chance.choice(RULES)
    if kind == "kills":
        harm = chance.choice(["jobs end, too", "jobs live on"])
        kill_twice(study if "live" in harm else study.cold(), rule, chance)
    else:
        harm = AT_RANDOM[kind](chance)
    force = () if kind == "kills" else ("--force", rule)
    done = study.freelunch("run", "config.yaml", "--cores", "2", *force)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    if done.returncode == 0:
        assert metrics(study.path) == measured
        found = problems_of(open_study(Path("config.yaml")), anew=True)
        told, said = "verify" if found else "none", "`make repair STUDY=config.yaml`"
    else:
        told = "end" if "the results are not whole" in said else "step"
    for name, value in (("harm", harm), ("rule", rule), ("told by", told)):
        record_property(name, value)
    mend(study, said)
    study.run()
    assert problems_of(open_study(Path("config.yaml")), anew=True) == {}
    assert (study_digests(study.path), metrics(study.path)) == (before, measured)


def kill_twice(study, rule, chance):
    """Kill a run, and what resumes it within a second. What `warm()` runs as jobs lives on."""
    for options, seconds in ((("--forcerun", rule), chance.uniform(0, 20)), ((), chance.random())):
        process = study.start(*options)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        process.stdout.close()
        study.warm()
