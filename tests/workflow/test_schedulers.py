"""The profile for Kubernetes and that of the recipe for another scheduler, with stand-ins for their
commands that run jobs on this machine.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from recipes import files_of, follow
from repository import ROOT
from study_folder import WINDOWS, Folder, digests

SCRIPTS = ROOT / "workflow" / "profiles" / "kubernetes"
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
QSUB = """#!/bin/sh
echo "$@" > asked
for script; do :; done
(sh "$script" > qsub.log 2>&1; echo $? > ended) &
echo 7.server
"""
QSTAT = """#!/bin/sh
[ -e ended ] && echo "job_state = F Exit_status = $(cat ended)" || echo "job_state = R"
"""


def stand_in(folder: Path, name: str, script: str) -> str:
    """Write a command; return the PATH that has it."""
    (folder / "bin").mkdir(exist_ok=True)
    path = folder / "bin" / name
    path.write_text(script)
    path.chmod(0o755)
    return f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"


def scheduled(
    finished: Folder, path: Path, profile: str, monkeypatch: pytest.MonkeyPatch, **commands: str
) -> Folder:
    """Return a study without one cell's windows, by a profile and stand-ins beside it."""
    study = finished.copy(path)
    for name, script in commands.items():
        monkeypatch.setenv("PATH", stand_in(path.parent, name, script))
    study.options = ("--workflow-profile", profile)
    for window in (path / WINDOWS).iterdir():
        window.unlink()
    return study


def test_a_pod_asks_for_what_it_needs_runs_on_the_volume_and_makes_the_same(
    finished, tmp_path, monkeypatch
):
    study = scheduled(finished, tmp_path / "study", "mine", monkeypatch, kubectl=KUBECTL)
    profile = (SCRIPTS / "profile.yaml").read_text()
    filled = profile.replace(
        "--image IMAGE --claim CLAIM --mount /study", f"--image i --claim c --mount {tmp_path}"
    )
    assert filled != profile
    (study.path / "mine").mkdir()
    (study.path / "mine" / "profile.yaml").write_text(f"{filled}seconds-between-status-checks: 1\n")
    said = study.run(str(WINDOWS / "manifest.json"), verbose=True)
    assert digests(study.path / WINDOWS) == digests(finished.path / WINDOWS)
    (file,) = (tmp_path / "bin" / "jobs").glob("*.json")
    assert file.stem in said, "the name by which Snakemake asks for the job"
    job = json.loads(file.read_text())
    pod = job["spec"]["template"]["spec"]
    asked = pod["containers"][0]["resources"]
    assert asked["requests"] == asked["limits"]
    assert asked["requests"]["cpu"] == "1" and "nvidia.com/gpu" not in asked["requests"]
    assert 700 < int(asked["requests"]["memory"].removesuffix("M")) < 4000
    assert job["spec"]["activeDeadlineSeconds"] == 180 and job["spec"]["backoffLimit"] == 0
    assert pod["volumes"] == [{"name": "study", "persistentVolumeClaim": {"claimName": "c"}}]
    assert pod["containers"][0]["volumeMounts"][0]["mountPath"] == str(tmp_path)


def test_the_recipe_for_another_scheduler(finished, tmp_path, monkeypatch):
    profile = "workflow/profiles/pbs"
    commands = {"qsub": QSUB, "qstat": QSTAT, "qdel": "#!/bin/sh\n"}
    study = scheduled(finished, tmp_path / "study", profile, monkeypatch, **commands)
    assert len(files_of("scheduler")) <= 2
    (study.path / profile).mkdir()
    follow("scheduler", study.path)
    (study.path / profile / "status").chmod(0o755)
    target = str(WINDOWS / "manifest.json")
    said = study.run("--seconds-between-status-checks=1", target)
    assert "the scheduler gets 1 job" in said and "queued" in said
    assert "walltime=3:00" in (study.path / "asked").read_text()
    assert digests(study.path / WINDOWS) == digests(finished.path / WINDOWS)
    # A job that fails is told of.
    for path in (study.path / WINDOWS).iterdir():
        path.unlink()
    (tmp_path / "bin" / "qsub").write_text(QSUB.replace('sh "$script"', "false"))
    (study.path / "ended").unlink()
    options = ("--seconds-between-status-checks=1", "--retries=0")
    assert "FAILED    reconstruct_window" in study.run(*options, target, status=1)


@pytest.mark.parametrize(
    ("kubectl", "expected"),
    [
        ("printf 'found '", "running"),
        ("printf 'found SuccessCriteriaMet Complete'", "success"),
        ("printf 'found FailureTarget Failed'", "failed"),
        ("true", "failed"),
        ("echo no answer >&2; exit 1", "running"),
        (None, ""),
    ],
    ids=["running", "success", "failed", "gone", "no answer", "no kubectl"],
)
def test_the_state_of_a_job(tmp_path, kubectl, expected):
    (tmp_path / "sh").symlink_to("/bin/sh")
    path = str(tmp_path)
    if kubectl is not None:
        stand_in(tmp_path, "kubectl", f"#!/bin/sh\n{kubectl}\n")
        path = os.pathsep.join([str(tmp_path / "bin"), "/usr/bin", "/bin"])
    command = ["sh", SCRIPTS / "status", "freelunch-1"]
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (int(kubectl is None), expected)
    assert ("kubectl is not here" in done.stderr) == (kubectl is None)
