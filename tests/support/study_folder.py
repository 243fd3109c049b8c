"""A copy of the repository in which Snakemake runs a study, for tests of the whole workflow."""

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Self

from repository import ROOT, shell_environment
from warm_python import warm_folder

SMOKE = ROOT / "studies" / "smoke.yaml"
PARTS = (
    *("Snakefile", "Makefile", "config.yaml", "pyproject.toml", "CITATION.cff"),
    *("config", "envs", "profiles", "studies", "workflow"),
)
# The jobs that show results and compute none, as `Folder.planned` names them.
SHOWN = {"build_tables", "draw_figure", "audit_study", "all", "total"}
# One cell of the smoke study, and its windows if one job makes all of them.
RECONSTRUCTED = "tiny/wanda-u50/recon_block/seed0"
WINDOWS = Path("results/smoke/windows") / RECONSTRUCTED / "1-of-1"


def digests(folder: Path, pattern: str = "**/*.safetensors") -> dict[str, str]:
    """Return the digest of each file of a folder that is like the pattern, by its relative path."""
    files = sorted(folder.glob(pattern))
    assert files, f"nothing like {pattern} in {folder}"
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


class Folder:
    """A copy of the repository in which Snakemake runs the smoke study as its default.

    Attributes:
        path: The copy.
        said: A file beside it, with what the first run of the study said.
        options: What every run is started with.
        programs: Folders of `snakemake` and `python`, the first that has them.
    """

    options: tuple[str, ...] = ("--cores", "2")
    programs: tuple[Path, ...] = (Path(sys.executable).parent,)

    def __init__(self, path: Path) -> None:
        self.path, self.said = path, path.with_suffix(".txt")

    @classmethod
    def new(cls, path: Path) -> "Folder":
        path.mkdir()
        # With what Python and the digests of code keep, so that no copy parses the library again;
        # other tests may just be writing it, to names that they then change.
        ignore = shutil.ignore_patterns("*.pyc.*", ".*.json.*")
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                shutil.copytree(source, path / part, symlinks=True, ignore=ignore)
            else:
                shutil.copy(source, path / part)
        shutil.copytree(ROOT / "tests" / "fixtures", path / "tests" / "fixtures", ignore=ignore)
        shutil.copy(SMOKE, path / "config.yaml")
        return cls(path)

    def warm(self, *within: str) -> Self:
        """Have Snakemake and its jobs start as `warm_python` says; return the folder."""
        self.programs = (warm_folder(*within), *type(self).programs)
        return self

    def cold(self) -> Self:
        """Have them be processes of their own again; return the folder."""
        self.programs = type(self).programs
        return self

    def copy(self, path: Path) -> "Folder":
        shutil.copytree(self.path, path, symlinks=True)
        new = type(self)(path)
        new.programs = self.programs
        return new

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.path / file
        text = path.read_text()
        assert text.count(old) == 1, f"{file} holds {old!r} {text.count(old)} times"
        path.write_text(text.replace(old, new))

    @property
    def environment(self) -> dict[str, str]:
        """As in a shell where the environment is activated, whatever `make` runs the tests."""
        path = os.pathsep.join([*map(str, self.programs), os.environ["PATH"]])
        inherited = shell_environment("PYTHONDONTWRITEBYTECODE", "PYTHONPATH", "VERBOSE")
        return {**inherited, "PATH": path}

    def start(self, *arguments: str, verbose: bool = False) -> subprocess.Popen[str]:
        """Start Snakemake; it says all that it has to say if this is verbose."""
        return subprocess.Popen(
            ["snakemake", *self.options, *arguments],
            cwd=self.path,
            env={**self.environment, **({"VERBOSE": "1"} if verbose else {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Whoever runs the tests in the background of a shell has interrupts ignored, and what
            # is started inherits that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str, status: int = 0, verbose: bool = False) -> str:
        """Run Snakemake and return what it said; fail if it ends with another status."""
        process = self.start(*arguments, verbose=verbose)
        try:
            output = process.communicate()[0]
        except BaseException:
            # The tests were stopped. The run is in a session of its own.
            os.killpg(process.pid, signal.SIGKILL)
            raise
        assert process.returncode == status, output
        return output

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `make`, which has to succeed."""
        done = subprocess.run(
            # There is no environment to make: this one's programs are found.
            ["make", "--old-file=.venv/.ready", *arguments],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    def freelunch(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run this library's command, whatever its exit status."""
        return subprocess.run(
            [sys.executable, "-m", "freelunch", *arguments],
            cwd=self.path,
            env={**self.environment, "PYTHONPATH": str(self.path / "workflow" / "scripts")},
            capture_output=True,
            text=True,
            check=False,
        )

    def planned(self, *arguments: str) -> dict[str, int]:
        """Return how many jobs of each rule a run would start."""
        output = self.run("--dry-run", *arguments, verbose=True)
        if "Nothing to be done" in output:
            return {}
        stats = output[output.index("Job stats:") :].split("\n\n")[0]
        return {rule: int(count) for rule, count in re.findall(r"^(\w+) +(\d+)$", stats, re.M)}
