"""Runs that are killed and go on bit for bit, and runs that meet."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from interrupts import stamps
from study_folder import WINDOWS, digests

SLOW = f"{WINDOWS}/manifest.json"


def wait_for(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, "this took more than three minutes"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def slow(finished, tmp_path_factory):
    """A study with a reconstruction that takes long enough to be interrupted, and its result."""
    folder = finished.copy(tmp_path_factory.mktemp("slow") / "study").warm()
    folder.edit("config.yaml", "method: reconstruction", "method: reconstruction\n    epochs: 240")
    folder.run(SLOW)
    return folder


def start_reconstruction(slow, tmp_path):
    """Start the reconstruction of one cell anew in a copy; return copy, its folder, process."""
    study = slow.copy(tmp_path / "study").cold()
    windows = study.path / WINDOWS
    for old in windows.iterdir():
        old.unlink()
    return study, windows, study.start(SLOW)


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGTERM])
def test_killed_reconstruction_resumes_bit_for_bit(slow, tmp_path, kill):
    study, windows, process = start_reconstruction(slow, tmp_path)
    wait_for(process, lambda: len(list(windows.glob("block-*.safetensors"))) >= 2)
    os.killpg(process.pid, kill)
    said, _ = process.communicate()
    assert not (windows / "manifest.json").exists(), "the run was over before it was killed"
    if kill == signal.SIGTERM:
        assert "was interrupted. Nothing is lost." in said and "FAILED" not in said, said
        assert "job failed" not in said and "Fix any error" not in said, said
    survived = {path.name: path.stat().st_mtime_ns for path in windows.glob("block-*")}
    assert 2 <= len(survived) < 4

    study.warm().run(SLOW)
    for name, changed in survived.items():
        assert (windows / name).stat().st_mtime_ns == changed, f"{name} was computed twice"
    left = {path.name for path in windows.iterdir()}
    assert left == {path.name for path in (slow.path / WINDOWS).iterdir()}
    assert digests(windows) == digests(slow.path / WINDOWS)
    assert study.planned(SLOW) == {}


def test_killed_retraining_goes_on_from_its_saved_state(finished, tmp_path):
    study = finished.copy(tmp_path / "study")
    # Every step, not every five minutes.
    library = "workflow/scripts/freelunch/"
    study.edit(library + "study/steps.py", "SAVE_S = 300.0", "SAVE_S = 1e-6")
    config = yaml.safe_load((study.path / "config.yaml").read_text())
    config["adaptations"]["full"] = {"method": "full", "epochs": 100}
    grid = config["study"]["grids"][0]
    config["study"]["grids"].append({**grid, "criteria": ["wanda"], "adaptations": ["full"]})
    (study.path / "config.yaml").write_text(yaml.safe_dump(config))
    model = Path("results/smoke/windows/tiny/wanda-u50/full/seed0/model")
    whole = study.copy(tmp_path / "whole").warm()
    whole.run(f"{model}/manifest.json")

    process = study.start(f"{model}/manifest.json")
    wait_for(process, (study.path / model.with_name(".model.state")).exists)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert not (study.path / model / "manifest.json").exists(), "it was over before it was killed"
    study.warm().run(f"{model}/manifest.json")
    logs = (study.path / "results" / "smoke" / "logs").rglob("*")
    assert any("resuming from step" in log.read_text() for log in logs if log.is_file())
    assert digests(study.path / model) == digests(whole.path / model)
    assert not (study.path / model.with_name(".model.state")).exists()


@pytest.mark.parametrize("ended", [False, True])
def test_job_that_outlives_its_snakemake_is_taken_over(slow, tmp_path, ended):
    """The process alone is killed, as by the system when memory is short; its job works on."""
    study, windows, process = start_reconstruction(slow, tmp_path)
    wait_for(process, lambda: len(list(windows.glob("block-*.safetensors"))) >= 1)
    process.kill()
    process.wait()
    process.stdout.close()
    while ended and not (windows / "run.json").exists():
        time.sleep(0.1)
    before = stamps(windows)
    said = study.warm().run(SLOW)
    assert ended or "end them instead: kill" in said, said
    assert digests(windows) == digests(slow.path / WINDOWS)
    assert stamps(windows).items() >= before.items(), "blocks were adapted once more"
    assert study.planned(SLOW) == {}


def test_two_runs_at_once_do_not_meet(slow, tmp_path):
    study = slow.copy(tmp_path / "study").cold()
    first = study.start("--force", SLOW)
    locks = study.path / ".snakemake/locks"
    try:
        wait_for(first, lambda: locks.is_dir() and list(locks.iterdir()))
        output = study.run("--force", SLOW, status=1)
        assert "Another run in this folder makes some of the same files" in output
        assert list(locks.iterdir()), "the second run took the first one's lock away"
    finally:
        said = first.communicate()[0]
    assert first.returncode == 0, said
