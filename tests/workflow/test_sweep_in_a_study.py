"""Jobs of a run that choose masks of one model share a pass over its blocks."""

import json
import time

import pytest

from study_folder import digests

CRITERIA = ("magnitude", "wanda")
PATTERNS = ("u60", "2of4")
NEW = [f"{criterion}-{pattern}" for criterion in CRITERIA for pattern in PATTERNS]


def manifest(pruning: str) -> str:
    return f"results/smoke/pruned/tiny/{pruning}/seed0/manifest.json"


def log_of(study, pruning: str) -> str:
    return (study.path / f"results/smoke/logs/prune_model/tiny_{pruning}_seed0.log").read_text()


def run_facts(study, pruning: str) -> dict:
    path = study.path / manifest(pruning)
    return json.loads(path.with_name("run.json").read_text())


@pytest.fixture
def wide(study):
    """The finished smoke study with more patterns, of which nothing is made yet."""
    study.edit("config.yaml", "patterns: [u50]", f"patterns: [u50, {', '.join(PATTERNS)}]")
    return study


def test_one_job_chooses_the_masks_of_all_that_wait(wide, tmp_path):
    apart = wide.copy(tmp_path / "apart")
    old = {name: (wide.path / manifest(f"{name}-u50")).stat().st_mtime_ns for name in CRITERIA}
    # Each process by itself: a job for which another one chose has no use for torch.
    began = time.monotonic()
    wide.cold().run("--cores", "1", *map(manifest, NEW))
    elapsed = time.monotonic() - began
    choosing = [name for name in NEW if f"blocks, for {len(NEW)} jobs" in log_of(wide, name)]
    assert len(choosing) == 1
    for name in NEW:
        assert ("blocks" in log_of(wide, name)) == (name in choosing)
        facts = run_facts(wide, name)
        assert facts["cost"]["attempts"] == 1 and facts["cost"]["cpu_s"] > 0
    # Each second counts for one mask.
    assert sum(run_facts(wide, name)["cost"]["wall_s"] for name in NEW) < elapsed
    assert wide.planned(*map(manifest, NEW)) == {}
    for name, changed in old.items():
        assert (wide.path / manifest(f"{name}-u50")).stat().st_mtime_ns == changed
    # A run that is asked for one of them makes that one alone, and it is the same.
    for name in NEW:
        apart.run(manifest(name))
        assert "jobs" not in log_of(apart, name)
        assert [name for name in NEW if (apart.path / manifest(name)).exists()][-1] == name
        assert (apart.path / manifest(name)).read_text() == (wide.path / manifest(name)).read_text()
    pruned = "results/smoke/pruned"
    assert digests(wide.path / pruned) == digests(apart.path / pruned)


def test_with_several_cores_jobs_divide_the_masks(wide):
    wide.run("--cores", "2", *map(manifest, NEW))
    assert not any(f"for {len(NEW)} jobs" in log_of(wide, name) for name in NEW)
    assert any("for 2 jobs" in log_of(wide, name) for name in NEW)
    assert not list((wide.path / "results/smoke/pruned/tiny").glob(".*"))


def test_masks_that_cannot_be_chosen_stop_no_others(wide):
    file = "workflow/scripts/freelunch/pruning/criteria/wanda.py"
    wide.edit(file, "return weight.float()", "return weight[1:].float()")
    output = wide.cold().run("--cores", "1", *map(manifest, NEW), status=1)
    for pattern in PATTERNS:
        assert f"FAILED    prune_model tiny/wanda-{pattern}/seed0" in output
        assert (wide.path / manifest(f"magnitude-{pattern}")).exists()
        assert not (wide.path / manifest(f"wanda-{pattern}")).exists()
    assert "scores have another shape" in output
    assert "FAILED    prune_model tiny/magnitude" not in output
