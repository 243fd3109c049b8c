"""The profile for Kubernetes, with a stand-in for `kubectl` that runs jobs on this machine."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from repository import ROOT
from study_folder import Folder, digests

SCRIPTS = ROOT / "workflow" / "profiles" / "kubernetes"
WINDOWS = Path("results/smoke/windows/tiny/wanda-u50/recon_block/seed0/1-of-1")
KUBECTL = """#!/usr/bin/env python3
import json, subprocess, sys
from pathlib import Path

jobs = Path(__file__).parent / "jobs"
jobs.mkdir(exist_ok=True)
verb, *rest = sys.argv[1:]
if verb == "create":
    job = json.load(sys.stdin)
    name = f"{job['metadata']['generateName']}{len(list(jobs.glob('*.json'))):05d}"
    (jobs / f"{name}.json").write_text(json.dumps(job))
    pod = job["spec"]["template"]["spec"]["containers"][0]
    with (jobs / f"{name}.log").open("w") as log:
        run = subprocess.Popen(
            ["sh", "-c", '"$@"; echo $? > "$0"', jobs / f"{name}.status", *pod["command"]],
            cwd=pod["workingDir"], stdout=log, stderr=log, start_new_session=True,
        )
    print(name, end="")
elif verb == "get":
    ended = jobs / f"{rest[1]}.status"
    if (jobs / f"{rest[1]}.json").exists():
        said = ended.read_text().strip() if ended.exists() else ""
        print("found", {"": "", "0": "SuccessCriteriaMet Complete"}.get(said, "Failed"), end="")
elif verb == "delete":
    for name in rest[1:]:
        (jobs / f"{name}.json").unlink(missing_ok=True)
"""


class OnKubernetes(Folder):
    """A folder in which Snakemake runs by the profile, filled in for the folder's volume."""

    options = ("--workflow-profile", "mine")

    @classmethod
    def of(cls, folder: Folder, path: Path) -> "OnKubernetes":
        study = cls(folder.copy(path).path)
        kubectl = path.parent / "bin" / "kubectl"
        kubectl.parent.mkdir()
        kubectl.write_text(KUBECTL)
        kubectl.chmod(0o755)
        profile = (SCRIPTS / "profile.yaml").read_text()
        filled = profile.replace(
            "--image IMAGE --claim CLAIM --mount /study", "--image i --claim c"
        )
        assert filled != profile
        (path / "mine").mkdir()
        (path / "mine" / "profile.yaml").write_text(
            filled.replace("--claim c", f"--claim c --mount {path.parent}")
            + "seconds-between-status-checks: 1\n"
        )
        return study

    @property
    def environment(self) -> dict[str, str]:
        ours = super().environment
        return {**ours, "PATH": f"{self.path.parent / 'bin'}{os.pathsep}{ours['PATH']}"}


@pytest.fixture
def study(finished, tmp_path):
    return OnKubernetes.of(finished, tmp_path / "study")


def test_a_job_asks_for_what_it_needs_runs_on_the_volume_and_makes_the_same(study, finished):
    for path in (study.path / WINDOWS).iterdir():
        path.unlink()
    said = study.run(str(WINDOWS / "manifest.json"), verbose=True)
    assert digests(study.path / WINDOWS) == digests(finished.path / WINDOWS)
    (file,) = (study.path.parent / "bin" / "jobs").glob("*.json")
    assert file.stem in said, "the name by which Snakemake asks for the job"
    job = json.loads(file.read_text())
    pod = job["spec"]["template"]["spec"]
    asked = pod["containers"][0]["resources"]
    assert asked["requests"] == asked["limits"]
    assert asked["requests"]["cpu"] == "1" and "nvidia.com/gpu" not in asked["requests"]
    assert 700 < int(asked["requests"]["memory"].removesuffix("M")) < 4000
    assert job["spec"]["activeDeadlineSeconds"] == 600 and job["spec"]["backoffLimit"] == 0
    assert pod["volumes"] == [{"name": "study", "persistentVolumeClaim": {"claimName": "c"}}]
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == str(study.path.parent)


def submit(folder: Path, *arguments: str, **resources: object) -> subprocess.CompletedProcess[str]:
    script = folder / "job.sh"
    asked = {"rule": "evaluate_cell", "threads": 4, "resources": resources}
    script.write_text(f"#!/bin/sh\n# properties = {json.dumps(asked)}\ntrue\n")
    (folder / "bin").mkdir(exist_ok=True)
    kubectl = folder / "bin" / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    command = [SCRIPTS / "submit", "--image=i", "--claim=c", *arguments, script]
    return subprocess.run(
        command, cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, text=True
    )


def test_a_gpu_is_asked_for(tmp_path):
    done = submit(tmp_path, f"--mount={tmp_path}", mem_mb=5000, runtime=30, gpu=1)
    assert done.returncode == 0 and done.stdout.startswith("freelunch-evaluate-cell-")
    job = json.loads((tmp_path / "bin" / "jobs" / f"{done.stdout}.json").read_text())
    pod = job["spec"]["template"]["spec"]["containers"][0]
    expected = {"cpu": "4", "memory": "5000M", "nvidia.com/gpu": "1"}
    assert pod["resources"] == {"requests": expected, "limits": expected}
    assert job["spec"]["activeDeadlineSeconds"] == 1800


def test_a_profile_that_is_not_filled_in_is_refused(tmp_path):
    """Its pods would wait for a volume that does not exist."""
    done = submit(tmp_path, f"--mount={tmp_path}", "--claim=CLAIM", mem_mb=1)
    assert done.returncode == 1 and "the profile is not filled in" in done.stderr
    assert not (tmp_path / "bin" / "jobs").exists()


def test_a_study_beside_the_volume_is_refused(tmp_path):
    done = submit(tmp_path, "--mount=/elsewhere", mem_mb=1)
    assert done.returncode == 1
    assert "is not on the shared volume: expected a folder below /elsewhere" in done.stderr


@pytest.mark.parametrize(
    ("kubectl", "expected"),
    [
        ("printf 'found '", "running"),
        ("printf 'found SuccessCriteriaMet Complete'", "success"),
        ("printf 'found FailureTarget Failed'", "failed"),
        ("true", "failed"),
        ("echo no answer >&2; exit 1", "running"),
    ],
    ids=["running", "success", "failed", "gone", "no answer"],
)
def test_the_state_of_a_job(tmp_path, kubectl, expected):
    path = tmp_path / "kubectl"
    path.write_text(f"#!/bin/sh\n{kubectl}\n")
    path.chmod(0o755)
    environment = {"PATH": f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin"}
    done = subprocess.run(
        [SCRIPTS / "status", "freelunch-1"], env=environment, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout.strip()) == (0, expected)


def test_without_kubectl_the_state_of_a_job_is_an_error(tmp_path):
    shell = tmp_path / "sh"
    shell.symlink_to("/bin/sh")
    environment = {"PATH": str(tmp_path)}
    command = ["sh", SCRIPTS / "status", "freelunch-1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and "kubectl is not here" in done.stderr
