"""A copy of the repository whose studies run on a real Slurm."""

import os
import shutil
import subprocess
from pathlib import Path

from real_slurm import Slurm
from repository import ROOT
from study_folder import Folder

STUDY = "studies/chosen.yaml"


class OnSlurm(Folder):
    """A copy of the repository whose studies run on a Slurm, by the profile for it.

    Polling is at its shortest.
    """

    slurm: Slurm
    # Most tests read what Snakemake says of jobs that Slurm gets.
    verbose = True
    options = (
        "--workflow-profile",
        "workflow/profiles/slurm",
        "--slurm-init-seconds-before-status-checks=1",
        "--max-status-checks-per-second=1",
        "--latency-wait=10",
        # It has no accounting.
        "--slurm-status-command=squeue",
    )

    @classmethod
    def new(cls, path: Path) -> "OnSlurm":
        """Make a copy in which the smoke study is not the default one."""
        folder = super().new(path)
        default = folder.path / "config.yaml"
        default.rename(folder.path / STUDY)
        shutil.copy(ROOT / "config.yaml", default)
        return folder

    @property
    def environment(self) -> dict[str, str]:
        ours = super().environment
        slurm = self.slurm.environment
        path = f"{self.slurm.folder / 'bin'}{os.pathsep}{ours['PATH']}"
        ours |= {"VERBOSE": "1"} if self.verbose else {}
        return {**ours, "SLURM_CONF": slurm["SLURM_CONF"], "PATH": path}

    def run_study(self, *arguments: str, status: int = 0) -> str:
        """Run the study, or a part of it that comes after `--`; return what Snakemake said."""
        return self.run("--config", f"study={STUDY}", *arguments, status=status)

    def start_study(self, *arguments: str) -> subprocess.Popen[str]:
        return self.start("--config", f"study={STUDY}", *arguments)
