"""What jobs ask for, and on which device they compute, as a dry run shows it."""

import os
import re
import shutil

import pytest
import yaml

from made_up_gpus import make_up_gpus
from study_folder import Folder

COMPUTING = {"decide_bos", "capture_dense", "prune_model", "reconstruct_window", "evaluate_cell"}


class WithGpus(Folder):
    """A folder on a machine with three GPUs."""

    @property
    def environment(self):
        ours = super().environment
        return {**ours, "PATH": f"{self.path.parent / 'bin'}{os.pathsep}{ours['PATH']}"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("resources")
    make_up_gpus(root / "bin")
    return Folder.new(root / "study").warm()


@pytest.fixture(scope="module")
def asked(folder):
    """Return a function that returns the resources of the first job of each rule."""

    def run(*arguments, gpus=False):
        one = WithGpus(folder.path).warm() if gpus else folder
        output = one.run("--dry-run", *arguments, verbose=True)
        found = {}
        for rule, line in re.findall(r"rule (\w+):\n(?:.*\n)*? +resources: (.*)\n", output):
            found.setdefault(rule, dict(each.split("=") for each in line.split(", ")))
        return found

    return run


def test_jobs_that_compute_ask_for_memory_time_and_disk(asked):
    resources = asked()
    for rule in COMPUTING:
        assert {"mem_mb", "runtime", "disk_mb"} <= resources[rule].keys()
        assert int(resources[rule]["runtime"]) == 3 and int(resources[rule]["mem_mb"]) > 700
        assert "gpu" not in resources[rule]


def test_a_deadline_of_time_raises_no_memory(asked, folder):
    rule = "capture_dense"
    first, second = (asked("--attempt", f"{attempt}")[rule] for attempt in (1, 2))
    assert int(second["mem_mb"]) > int(first["mem_mb"])
    log = folder.path / "results" / "smoke" / "logs" / rule / "tiny_seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text("12-02 10:00:00,000 ERROR freelunch: interrupted; finished files are kept")
    late = asked("--attempt", "2")[rule]
    shutil.rmtree(folder.path / "results")
    assert (late["mem_mb"], late["runtime"]) == (first["mem_mb"], second["runtime"])


def test_least_squares_ask_for_the_time_of_their_own_pattern(folder):
    """A row with fewer zeros takes longer to solve."""
    exact = folder.path / "studies" / "exact.yaml"
    config = yaml.safe_load((folder.path / "config.yaml").read_text())
    config["adaptations"] = {"exact": {"method": "least_squares"}}
    (grid, *_) = config["study"]["grids"]
    patterns = ["u20", "u50", "u90"]
    config["study"]["grids"] = [{**grid, "patterns": patterns, "adaptations": ["exact"]}]
    exact.write_text(yaml.safe_dump(config))
    # A job of any study asks for three minutes at least: this machine is slow.
    output = folder.run(
        "--dry-run", "--config", f"study={exact}", "tflops=1e-9", "--forceall", verbose=True
    )
    jobs = re.findall(
        r"rule reconstruct_window:\n(?:.*\n)*?.*pruning=\w+-(\w+).*\n(?:.*\n)*?.*runtime=(\d+)",
        output,
    )
    minutes = dict(sorted(jobs))
    assert list(minutes) == patterns
    assert int(minutes["u20"]) > int(minutes["u50"]) > int(minutes["u90"])


@pytest.mark.parametrize(
    ("arguments", "gpus", "asking"),
    [
        ((), True, COMPUTING),
        (("--default-resources", "device=cpu"), True, set()),
        # They are elsewhere.
        (("--default-resources", "device=cuda"), False, COMPUTING),
    ],
)
def test_gpus_that_are_there_are_used_unless_the_profile_says_otherwise(
    asked, arguments, gpus, asking
):
    resources = asked(*arguments, gpus=gpus)
    assert {rule for rule, each in resources.items() if each.get("gpu") == "1"} == asking


def test_the_memory_of_a_gpu_that_no_job_would_use_is_refused(folder):
    output = folder.run("--config", "device_memory=80", status=1)
    assert "device_memory: the memory of a GPU is given, but no job would use one" in output
    assert not (folder.path / "results").exists()
    # A plan, and a dry run, may be for another machine, and so are downloads.
    folder.run("--dry-run", "--config", "device_memory=80")
    folder.run("--config", "device_memory=80", "--", "fetch")
    assert (folder.path / "results").exists()


def test_make_fetches_here_whatever_the_profile(folder, tmp_path):
    study = folder.copy(tmp_path / "study").warm()
    shutil.rmtree(study.path / "resources", ignore_errors=True)
    done = study.make("fetch", "PROFILE=slurm", "MODELS=tiny", "DEVICE_MEMORY=80", "TFLOPS=400")
    assert "all is well" in done.stdout
    assert (study.path / "resources" / "models" / "tiny" / "manifest.json").exists()
    assert not (study.path / "results" / "smoke" / "calibration").exists()


def test_windows_share_out_the_gpus_that_cells_leave(folder, tmp_path):
    (tmp_path / "bin").symlink_to(folder.path.parent / "bin")
    study = WithGpus(folder.copy(tmp_path / "study").path).warm()
    # However short a job is.
    study.edit(
        "workflow/scripts/freelunch/costs/job_requests.py", "WORTH_S = 600.0", "WORTH_S = 1e-9"
    )
    study.edit("config.yaml", "criteria: [magnitude, wanda]", "criteria: [wanda]")
    assert study.planned()["reconstruct_window"] == 3
