"""`--sdm apptainer`: jobs run in the image of envs/Containerfile."""

from pathlib import Path

import pytest

from apptainer_standin import Apptainer
from study_folder import Folder, digests

DEPLOYED = ("--software-deployment-method", "apptainer")
SAMPLE = Path("results/smoke/calibration/tiny/seed0")


@pytest.fixture
def apptainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Apptainer:
    apptainer = Apptainer(tmp_path / "apptainer")
    monkeypatch.setenv("PATH", apptainer.path)
    return apptainer


def test_jobs_run_in_the_image(study: Folder, finished: Folder, apptainer: Apptainer) -> None:
    """All but downloads, which `make fetch` may have done without it. The results are the same."""
    (study.path / "envs" / "freelunch.sif").touch()
    # All jobs of another environment would run again.
    planned = study.planned(*DEPLOYED)
    whole = study.planned("--forceall")
    assert whole.keys() - planned.keys() == {"fetch_model", "fetch_text"}
    assert not study.planned(), "a finished study runs again without the image"
    study.run(*DEPLOYED, "--apptainer-args=--nv", "--", str(SAMPLE / "manifest.json"))
    ((image, nv, mounts, command),) = apptainer.calls()
    assert (image, nv, command[:2]) == ("envs/freelunch.sif", True, ["sh", "-c"])
    assert ".sample_calibration.py" in command[2] and mounts
    same = [digests(folder.path / SAMPLE, "*.safetensors") for folder in (study, finished)]
    assert same[0] == same[1]


def test_without_the_image_nothing_starts(study: Folder, apptainer: Apptainer) -> None:
    said = study.run("--dry-run", *DEPLOYED, status=1)
    assert "expected: the image of envs/Containerfile at envs/freelunch.sif" in said
