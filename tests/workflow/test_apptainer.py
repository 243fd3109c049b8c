"""`--sdm apptainer`: jobs run in the image of envs/Containerfile."""

from pathlib import Path

import pytest

from apptainer_standin import Apptainer
from study_folder import Folder, digests

PROFILE = """
software-deployment-method: apptainer
apptainer-args: --nv --bind /tmp
"""
SAMPLE = Path("results/smoke/calibration/tiny/seed0")


@pytest.fixture
def apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apptainer:
    apptainer = Apptainer(tmp_path / "apptainer")
    monkeypatch.setenv("PATH", apptainer.path)
    return apptainer


@pytest.fixture
def deployed(study: Folder) -> Folder:
    """A finished study whose profile chooses the image."""
    (study.path / "mine").mkdir()
    text = (study.path / "profiles" / "default" / "profile.yaml").read_text()
    (study.path / "mine" / "profile.yaml").write_text(text + PROFILE)
    study.options = (*study.options, "--workflow-profile", "mine")
    return study


def test_jobs_run_in_the_image(deployed: Folder, finished: Folder, apptainer: Apptainer) -> None:
    """All but downloads, which `make fetch` may have done without it. The results are the same."""
    (deployed.path / "envs" / "freelunch.sif").touch()
    # Jobs that were done in another environment would run again.
    planned, whole = deployed.planned(), deployed.planned("--forceall")
    assert whole.keys() - planned.keys() == {"fetch_model", "fetch_text"}
    deployed.run("--", str(SAMPLE / "manifest.json"))
    ((image, nv, mounts, command),) = apptainer.calls()
    assert (image, nv, command[:2]) == ("envs/freelunch.sif", True, ["bash", "-c"])
    assert ".sample_text.py" in command[2] and "/tmp" in mounts
    assert digests(deployed.path / SAMPLE) == digests(finished.path / SAMPLE)
