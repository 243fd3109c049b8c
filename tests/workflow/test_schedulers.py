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


def template(mount: Path, *keys: str) -> str:
    """Return the template of jobs, filled in, with some of its keys that are comments."""
    text = (SCRIPTS / "job.yaml").read_text().replace("/study}", f"{mount}}}")
    for key in keys:
        text = text.replace(f"# {key}: ", f"{key}: ")
    return text.replace(": IMAGE", ": mine").replace(": CLAIM", ": mine")


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
    (study.path / "mine").mkdir()
    profile = (SCRIPTS / "profile.yaml").read_text() + "seconds-between-status-checks: 1\n"
    ours = profile.replace("--template workflow/profiles/kubernetes", "--template mine")
    assert ours != profile
    (study.path / "mine" / "profile.yaml").write_text(ours)
    (study.path / "mine" / "job.yaml").write_text(template(tmp_path, "nodeSelector", "env"))
    said = study.run(str(WINDOWS / "manifest.json"), verbose=True)
    assert digests(study.path / WINDOWS) == digests(finished.path / WINDOWS)
    (file,) = (tmp_path / "bin" / "jobs").glob("*.json")
    assert file.stem in said, "the name by which Snakemake asks for the job"
    job = json.loads(file.read_text())
    pod = job["spec"]["template"]["spec"]
    container = pod["containers"][0]
    asked = container["resources"]
    assert asked["requests"] == asked["limits"]
    assert asked["requests"]["cpu"] == "1" and "nvidia.com/gpu" not in asked["requests"]
    assert 700 < int(asked["requests"]["memory"].removesuffix("M")) < 4000
    # Three minutes, and ten for pulling the image. A deadline of the job would count its queueing.
    assert pod["activeDeadlineSeconds"] == 780 and "activeDeadlineSeconds" not in job["spec"]
    assert job["spec"]["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    assert pod["nodeSelector"] and container["env"], "what is the user's stays"
    assert container["workingDir"] == str(study.path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("image: mine", "image: IMAGE", "is not filled in"),
        ("claimName: mine", "claimName: CLAIM", "is not filled in"),
        ("mountPath: ", "mountPath: /elsewhere", "below none of its mounts: /elsewhere/"),
        ("containers:", "container:", "no Job whose container mounts a volume"),
        ("metadata:", "metadata: [", "cannot be read as YAML"),
        ("", "", "the role of"),
    ],
)
def test_a_template_that_can_run_no_step_is_refused(tmp_path, monkeypatch, old, new, said):
    refused = "#!/bin/sh\necho 'Error from server (Forbidden): jobs.batch' >&2\nexit 1\n"
    monkeypatch.setenv("PATH", stand_in(tmp_path, "kubectl", refused))
    (tmp_path / "script").write_text('# properties = {"threads": 1, "resources": {}}\n')
    (tmp_path / "job.yaml").write_text(template(tmp_path).replace(old, new))
    command = [SCRIPTS / "submit", "--template", "job.yaml", "script"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and not done.stdout
    assert said in done.stderr and "\n  to do: " in done.stderr and "Traceback" not in done.stderr


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
        ("printf 'found FailureTarget'", "running"),
        ("echo 'Error from server (Forbidden)' >&2; exit 1", ""),
        ("true", "failed"),
        ("echo no answer >&2; exit 1", "running"),
        (None, ""),
    ],
    ids=["running", "success", "failed", "failing", "forbidden", "gone", "no answer", "no kubectl"],
)
def test_the_state_of_a_job(tmp_path, kubectl, expected):
    (tmp_path / "sh").symlink_to("/bin/sh")
    path = str(tmp_path)
    if kubectl is not None:
        stand_in(tmp_path, "kubectl", f"#!/bin/sh\n{kubectl}\n")
        path = os.pathsep.join([str(tmp_path / "bin"), "/usr/bin", "/bin"])
    command = ["sh", SCRIPTS / "status", "freelunch-1"]
    done = subprocess.run(command, env={"PATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (int(not expected), expected)
    assert ("/role.yaml" in done.stderr) == ("Forbidden" in str(kubectl))
    assert ("kubectl is not here" in done.stderr) == (kubectl is None)
