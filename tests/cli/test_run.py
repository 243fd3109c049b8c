"""`freelunch run`: the command that it gives Snakemake, and whose exit status it returns."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake.scheduling.job_scheduler import JobRateLimiter
from snakemake.settings.types import MaxJobsPerTimespan

from freelunch.cli.main import main
from freelunch.cli.run import (
    check_options,
    check_unlock,
    lift_default_rate,
    profile_folder,
    run_snakemake,
    runs_here,
    snakemake_command,
)
from freelunch.core.errors import UserError
from freelunch.study.config import Part
from freelunch.study.registry import REPOSITORY
from snakemake_logger_plugin_freelunch.story import COMMAND


@pytest.fixture
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.mark.usefixtures("_in_the_repository")
def test_snakemake_runs_as_it_always_did() -> None:
    said = "snakemake --config study=a.yaml --cores all --workflow-profile workflow/profiles/local"
    assert snakemake_command("a.yaml") == said.split(" ")


@pytest.mark.usefixtures("_in_the_repository")
def test_all_that_make_takes_reaches_snakemake() -> None:
    said = (
        "snakemake --config study=a.yaml claims=C1 models=one,two device_memory=80 tflops=400 "
        "--set-scatter windows=4 --workflow-profile workflow/profiles/slurm"
    )
    part = Part(models=["one", "two"], claims=["C1"])
    found = snakemake_command("a.yaml", "slurm", "2", 4, 400.0, "80", part)
    # On a cluster, the profile says how many cores this machine uses.
    assert found == said.split(" ")


def test_any_profile_without_an_executor_runs_here(tmp_path: Path) -> None:
    for name, text, here in (
        ("local", "keep-going: true\n", True),
        ("far", "executor: slurm\n", False),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "profile.yaml").write_text(text)
        assert runs_here(str(tmp_path / name)) is here
        assert ("--cores" in snakemake_command("a.yaml", str(tmp_path / name))) is here
    assert runs_here("local") and not runs_here("slurm") and not runs_here("kubernetes")


@pytest.mark.usefixtures("_in_the_repository")
def test_without_colours_nothing_has_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert "--nocolor" in snakemake_command("a.yaml")


def test_in_another_folder_the_workflow_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command = snakemake_command("a.yaml")
    assert command[1:3] == ["--snakefile", str(REPOSITORY / "Snakefile")]
    assert Path(command[-1]) == REPOSITORY / "workflow" / "profiles" / "local"


@pytest.mark.usefixtures("_in_the_repository")
def test_a_profile_is_found_or_refused(tmp_path: Path) -> None:
    """Snakemake ignores one that does not exist, with exit status 0."""
    assert profile_folder("slurm") == Path("workflow/profiles/slurm")
    assert profile_folder("workflow/profiles/local") == Path("workflow/profiles/local")
    (tmp_path / "profile.yaml").touch()
    assert profile_folder(str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match=r"slrum\n.*slurm \(nearest\) out of: kubernetes, local,"):
        profile_folder("slrum")


@pytest.mark.parametrize(
    "option",
    [
        "--config",
        "--conf",
        "-C",
        "-Cseeds=1",
        "--configfile",
        "--configfiles",
        "--configfile=a.yaml",
    ],
)
def test_options_for_snakemake_choose_no_other_study(
    option: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Snakemake keeps only the last --config, so it would run the default study instead."""
    typed = ["freelunch", "run", "studies/smoke.yaml", "--", "--dry-run", option, "seeds=1"]
    monkeypatch.setattr(sys, "argv", typed)
    assert main() == 1
    said = capsys.readouterr().err
    assert f"found:    {option}\n" in said
    assert "--models, --claims, --seeds, --tflops or --device-memory" in said


def test_other_options_for_snakemake_are_passed_on() -> None:
    taken = [
        option
        for action in get_argument_parser()._actions
        for option in action.option_strings
        if not option.startswith(("--config", "-C"))
    ]
    check_options([*taken, "--", "--config"])


def test_the_exit_status_is_that_of_snakemake() -> None:
    script = "import os, sys; sys.exit(7 if os.environ['MAKELEVEL'] else 0)"
    assert run_snakemake([sys.executable, "-c", script], summary=False) == 7


def test_a_handler_of_sigterm_may_wait_for_the_thread_that_it_interrupts() -> None:
    """Snakemake's handler waits for the lock of its scheduler."""
    script = (
        "import os, signal, threading; from freelunch.cli.run import handle_sigterm_in_thread\n"
        "lock, handled = threading.Lock(), threading.Event()\n"
        "def handler(*arguments):\n"
        "    with lock: handled.set()\n"
        "signal.signal(signal.SIGTERM, handler)\n"
        "handle_sigterm_in_thread()\n"
        "with lock: os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(handled.wait(10))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_an_interrupted_run_names_what_the_user_typed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The environment of `make study` is not activated, so its users cannot type `snakemake`."""
    script = "from snakemake_logger_plugin_freelunch.story import resume; print(resume())"
    command = [sys.executable, "-c", script]
    monkeypatch.setattr(sys, "argv", ["/bin/freelunch", "run", "my study.yaml"])
    monkeypatch.delenv(COMMAND, raising=False)
    run_snakemake(command, summary=False)
    monkeypatch.setenv(COMMAND, "make study")
    run_snakemake(command, summary=False)
    assert capfd.readouterr().out.splitlines() == ["freelunch run 'my study.yaml'", "make study"]


def test_without_snakemake_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environ, "PATH", "")
    with pytest.raises(UserError, match="make env"):
        run_snakemake(["snakemake"], summary=False)


def test_the_locks_of_a_run_that_is_alive_stay() -> None:
    check_unlock(["snakemake", "--unlock"], alone=True)
    check_unlock(["snakemake"], alone=False)
    with pytest.raises(UserError, match="--unlock: another run is alive"):
        check_unlock(["snakemake", "--unlock"], alone=False)


@pytest.mark.parametrize(("asked", "lifted"), [(None, True), ("100/1m", False), ("5/1s", False)])
def test_only_the_default_rate_of_jobs_is_lifted(asked: str | None, lifted: bool) -> None:
    given = asked or get_argument_parser().get_default("max_jobs_per_timespan")
    limiter = JobRateLimiter(MaxJobsPerTimespan.parse_choice(given))
    scheduler = SimpleNamespace(job_rate_limiter=limiter)
    lift_default_rate(scheduler)
    assert scheduler.job_rate_limiter is (None if lifted else limiter)
    unlimited = SimpleNamespace(job_rate_limiter=None)
    lift_default_rate(unlimited)
    assert unlimited.job_rate_limiter is None
