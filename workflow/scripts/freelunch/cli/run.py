"""`freelunch run`: check a study, run Snakemake on it, and show what it found."""

import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from freelunch.core.errors import UserError, nearest
from freelunch.study.config import Part
from freelunch.study.open_study import DEVICE, KEY, TFLOPS
from freelunch.study.registry import REPOSITORY
from snakemake_logger_plugin_freelunch.story import COMMAND

LOCAL = "local"
_PROFILES = Path("workflow") / "profiles"
# Jobs, and seconds.
_DEFAULT_RATE = (100, 1)


def profile_folder(profile: str) -> Path:
    """Return the folder of a profile: one of workflow/profiles by its name, or any other by its
    path. Snakemake itself ignores a profile that does not exist.

    Raises:
        UserError: There is no such profile.
    """
    for folder in (_here(_PROFILES) / profile, Path(profile)):
        if (folder / "profile.yaml").is_file():
            return folder
    raise UserError(
        "there is no such profile",
        where="--profile",
        found=profile,
        expected=f"{nearest(profile, shipped_profiles())}; or a folder with a profile.yaml",
    )


def shipped_profiles() -> list[str]:
    """Return the names of the profiles in workflow/profiles."""
    return sorted(path.name for path in _here(_PROFILES).iterdir())


def check_cores(cores: int | None) -> None:
    """Refuse a number of cores with which Snakemake would wait for ever; None is no number yet."""
    if cores is not None and cores < 1:
        raise UserError(
            "no job can start without a core of this machine",
            where="--cores",
            found=cores,
            expected="a positive number or all",
        )


def check_image(image: Path) -> None:
    """Refuse to start without the image that jobs are to run in; Apptainer would fail in each job.

    Raises:
        UserError: There is none.
    """
    if not image.exists():
        raise UserError(
            "the image that jobs are to run in is not there",
            where="software-deployment-method",
            found="apptainer",
            expected=f"the image of envs/Containerfile at {image}",
            todo="build it, or link to it, as docs/guide/clusters.md says (Environments)",
        )


def check_unlock(arguments: Sequence[str], alone: bool) -> None:
    """Refuse to take the locks of a run that is alive away; those of a killed run are gone.

    Args:
        arguments: The command line of Snakemake.
        alone: Whether no other run is alive here.
    """
    if "--unlock" in arguments and not alone:
        raise UserError(
            "another run is alive in this folder, so its locks are not stale",
            where="--unlock",
            todo="wait for its end or stop it; the locks of a killed run are removed without this",
        )


def check_options(options: Sequence[str]) -> None:
    """Refuse options for Snakemake that would replace the choice of the study.

    Snakemake keeps only the last `--config`, and without ours it would run the default study.

    Args:
        options: What the user gave after `--`; after another `--`, there are only targets.

    Raises:
        UserError: One of them sets Snakemake's config, possibly abbreviated.
    """
    for option in takewhile(lambda word: word != "--", options):
        # No other options begin like these: `--config`, `--configfile` and `--configfiles`.
        if option.startswith(("--conf", "-C")):
            raise UserError(
                "Snakemake's config chooses the study and the part of it that is run, so it "
                "cannot be set after `--`, too",
                where="freelunch run",
                found=option,
                expected="options of `freelunch run` before `--`: --models, --claims, --seeds, "
                "--tflops or --device-memory",
                todo="name the study as the first argument, and its settings in its file",
            )


def runs_here(profile: str) -> bool:
    """Return whether jobs run on this machine by a profile, which then names no executor."""
    content = yaml.safe_load((profile_folder(profile) / "profile.yaml").read_text("utf-8")) or {}
    return bool(content.get("executor", LOCAL) == LOCAL)


def snakemake_command(
    study: str,
    profile: str = LOCAL,
    cores: str = "all",
    scatter: int | None = None,
    tflops: float | None = None,
    device_memory: str | None = None,
    part: Part | None = None,
) -> list[str]:
    """Return the command that runs Snakemake on a study; options and targets may be appended.

    Args:
        study: The study's file.
        profile: As `profile_folder` takes it.
        cores: Cores of this machine that are used. On a cluster, the profile says how many.
        scatter: Number of jobs that share the windows of a reconstruction; None if the profile or
            the workflow chooses it.
        tflops: TFLOP/s of the machine that runs the jobs; None if it is this one.
        device_memory: Memory of its GPU in GB; None if it is this one.
        part: Part of the study that is run, in place of the file's own.
    """
    command = ["snakemake"]
    if Path.cwd() != REPOSITORY:
        command += ["--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--config", f"{KEY}={study}"]
    for key, names in (part.as_json() if part else {}).items():
        command.append(f"{key}={','.join(map(str, names))}")
    command += [f"{DEVICE}={device_memory}"] if device_memory else []
    command += [f"{TFLOPS}={tflops:g}"] if tflops else []
    command += ["--set-scatter", f"windows={scatter}"] if scatter else []
    command += ["--nocolor"] if "NO_COLOR" in os.environ else []
    command += ["--cores", cores] if runs_here(profile) else []
    # The last option takes one value, so that what follows may be a target.
    return [*command, "--workflow-profile", str(profile_folder(profile))]


def run_snakemake(command: Sequence[str], summary: bool) -> int:
    """Run Snakemake and wait for its end; return its exit status.

    Args:
        command: The command.
        summary: Whether the workflow shows a summary after it computed anything.
    """
    # `make` says what the user typed; without it, this is the command.
    environment = {COMMAND: shlex.join(["freelunch", *sys.argv[1:]]), **os.environ}
    environment |= {} if summary else {"MAKELEVEL": "1"}
    try:
        with subprocess.Popen(command, env=environment) as process:
            # The terminal also interrupts Snakemake, which ends its jobs in order.
            interrupted = signal.signal(signal.SIGINT, signal.SIG_IGN)
            ended = signal.signal(signal.SIGTERM, lambda number, frame: process.terminate())
            try:
                return process.wait()
            finally:
                signal.signal(signal.SIGINT, interrupted)
                signal.signal(signal.SIGTERM, ended)
    except FileNotFoundError as error:
        raise UserError(
            "Snakemake is not installed",
            found=shlex.join(command[:1]),
            todo="make the environment (`make env`) and activate it: source .venv/bin/activate",
        ) from error


def handle_sigterm_in_thread() -> None:
    """Run Snakemake's handler of SIGTERM, which ends a run when its jobs have ended, in a thread.

    It waits for a lock that the interrupted main thread may hold, and there would wait for ever.
    """
    handler = signal.getsignal(signal.SIGTERM)

    def start(*arguments: object) -> None:
        if callable(handler):
            threading.Thread(target=handler, args=arguments, daemon=True).start()

    signal.signal(signal.SIGTERM, start)


def lift_default_rate(scheduler: Any) -> None:
    """Lift Snakemake's default limit of 100 new jobs a second, which no executor reaches.

    Under a limit, each job that ends has Snakemake look for jobs to start once more every second,
    until all have started (its pull request 3744). After 95 jobs of the full study, 80 timers took
    13 % of a core. A limit that the user has set stays.

    Args:
        scheduler: Snakemake's scheduler, which has just started.
    """
    limit = scheduler.job_rate_limiter
    if limit is not None and (limit.max_jobs, limit.timespan) == _DEFAULT_RATE:
        scheduler.job_rate_limiter = None


def _here(path: Path) -> Path:
    return path if path.exists() else REPOSITORY / path
