"""The command line: what each command prints, its exit status, and the command for Snakemake."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freelunch.audit.output_checks import config_text
from freelunch.audit.output_files import AUDIT_SUMS, CONFIG, digested, seal
from freelunch.cli.options import Running, profile_folder
from freelunch.cli.run import check_start, run_snakemake
from freelunch.core.code_digest import SCRIPTS
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically
from freelunch.study.open_study import open_study
from freelunch.study.registry import REPOSITORY
from freelunch.study.study import Study
from own_models import machine
from refusals import refused as refusal
from repository import ROOT
from snakemake_logger_plugin_freelunch.story import COMMAND

Captured = pytest.CaptureFixture[str]
Patch = pytest.MonkeyPatch
Run = Callable[..., int]
Said = Callable[..., str]
STUDY = Path("config.yaml")


@pytest.fixture(autouse=True)
def _with_the_smoke_study(_in_a_folder_of_its_own: None) -> None:
    """As the default one."""
    shutil.copy(ROOT / "studies" / "smoke.yaml", STUDY)
    shutil.copytree(ROOT / "tests" / "fixtures", "tests/fixtures")


def edit(old: str, new: str) -> None:
    STUDY.write_text(STUDY.read_text().replace(old, new))


def test_a_message_has_no_power_over_the_terminal(refused: Said) -> None:
    edit("tests/fixtures/tiny-llama", '"\\e[2Jgone"')
    assert "there is nothing at \\x1b[2Jgone" in refused("check")


def test_a_plan_is_for_the_machine_of_a_rate(did: Said, refused: Said) -> None:
    assert "The study `smoke` (config.yaml): 5 cells" in did("plan", "--tflops", "400")
    for rate in ("0", "-1", "inf", "nan", "1e-320", "1e300", "fast"):
        assert f"found:    {rate}\n" in refused("plan", "--tflops", rate)


def test_a_plan_imports_nothing_slow() -> None:
    code = (
        "import sys; sys.argv = ['freelunch', 'plan', '--tflops', '1']\n"
        "from freelunch.cli.main import main\n"
        "assert main() == 0\n"
        "slow = {'torch', 'pandas', 'scipy', 'huggingface_hub'}\n"
        "assert not slow & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_study_that_does_not_fit_runs_only_if_it_is_told_to(
    did: Said, refused: Said, monkeypatch: Patch
) -> None:
    """Memory is a prediction, and a machine may have swap."""
    monkeypatch.setattr("freelunch.cli.main.this_machine", lambda size: machine(memory=0.001))
    monkeypatch.setattr("freelunch.cli.main.run_snakemake", lambda command, summary: 0)
    assert "`freelunch run --elsewhere`" in refused("run", "--", "--dry-run")
    did("run", "--elsewhere", "--", "--dry-run")


@pytest.mark.parametrize("command", ["summary", "audit", "verify"])
def test_findings_need_a_run(refused: Said, command: str) -> None:
    said = refused(command)
    assert ("it has not run" in said) and "run it: make study STUDY=config.yaml" in said


def finished(study: Study) -> Study:
    """Leave what says that a study ran to its end."""
    for name in digested(study)[AUDIT_SUMS]:
        text = config_text(study) if name == CONFIG else "made by another step"
        write_atomically(study.paths.root / name, text)
    seal(study, AUDIT_SUMS)
    return study


@pytest.mark.parametrize(
    ("old", "new", "options", "setting"),
    [
        ("windows: 16", "windows: 8", [], "study.evaluation.perplexity.windows = 16"),
        ("[none, recon_block]", "[none]", [], "study.grids = ["),
        ("", "", ["--seeds", "0"], "study.part = null"),
    ],
)
@pytest.mark.parametrize("command", ["summary", "audit", "verify"])
def test_an_edited_study_is_to_be_run_and_not_repaired(
    refused: Said, command: str, old: str, new: str, options: list[str], setting: str
) -> None:
    """An edit damages nothing that was made before it, and no step has to be forced."""
    before = finished(open_study(STUDY))
    edit(old, new)
    said = refused(command, *options)
    assert said.startswith(f"error: {before.paths.root / CONFIG}: the study was edited")
    assert f"found:    {setting}" in said and ", as in config.yaml\n" in said
    assert said.endswith(f": make study STUDY=config.yaml{' SEEDS=0' if options else ''}\n")
    assert "repair" not in said and "FORCE" not in said


def test_a_damaged_note_of_what_was_run_is_no_edit(refused: Said) -> None:
    (finished(open_study(STUDY)).paths.root / CONFIG).write_text("damaged")
    said = refused("audit")
    assert "does not have the digest" in said and "make repair" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plna"], "No such command 'plna'. Did you mean 'plan'?"),
        (["run", "--force", "prune_model prune"], "found prune; expected prune_model (nearest) "),
        (["check", "--foo"], "No such option: --foo"),
        (["new"], "Missing argument 'MODEL'"),
        (["check", "a.yaml", "b.yaml"], "unexpected extra argument"),
        (["plan", "--disk", "fast"], "a rate such as 500MB/s"),
    ],
)
def test_wrong_usage_has_a_status_of_its_own(
    run: Run, capsys: Captured, words: list[str], said: str
) -> None:
    assert run(*words) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and "Traceback" not in err


def test_help_names_every_command_without_colours(did: Said, monkeypatch: Patch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    said = did("--help")
    assert "freelunch new ~/models/mine ~/notes.txt" in said and "\x1b" not in said
    commands = re.findall(r"^  (\w+) {2,}\w", said[said.index("Commands:") :], re.M)
    assert {"new", "pin", "check", "plan", "run", "summary", "audit", "verify"} < set(commands)
    for command in commands:
        assert f"Usage: freelunch {command} [OPTIONS]" in did(command, "--help")


# --- Running Snakemake


def test_all_that_make_takes_reaches_snakemake(monkeypatch: Patch) -> None:
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.delenv("NO_COLOR", raising=False)
    start, study = "snakemake --config study=a.yaml", Path("a.yaml")
    profiles = "--workflow-profile workflow/profiles"
    assert " ".join(Running(study).command()) == f"{start} --cores all {profiles}/local"
    chosen = Running(study, "one,two", "C1", None, "2", "slurm", 4, 400.0, "80")
    assert " ".join(chosen.command()) == (
        f"{start} claims=C1 models=one,two device_memory=80 tflops=400 --set-scatter windows=4 "
        # On a cluster, the profile says how many cores this machine uses.
        f"{profiles}/slurm"
    )
    monkeypatch.chdir(REPOSITORY.parent)
    monkeypatch.setenv("NO_COLOR", "1")
    command = Running(study).command()
    assert "--nocolor" in command
    assert command[1:3] == ["--snakefile", str(REPOSITORY / "Snakefile")]
    assert command[-1] == str(REPOSITORY / "workflow" / "profiles" / "local")


def test_a_profile_is_found_or_refused(tmp_path: Path, monkeypatch: Patch) -> None:
    """Snakemake ignores one that does not exist, with exit status 0."""
    for name, text in (("here", "keep-going: true\n"), ("far", "executor: slurm\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "profile.yaml").write_text(text)
        running = Running(profile=str(tmp_path / name))
        assert running.runs_here == ("--cores" in running.command()) == (name == "here")
    monkeypatch.chdir(REPOSITORY)
    assert profile_folder("slurm") == Path("workflow/profiles/slurm")
    assert profile_folder("workflow/profiles/local") == Path("workflow/profiles/local")
    with refusal(where="--profile", found="slrum", expected="slurm (nearest) out of: kubernetes"):
        profile_folder("slrum")


@pytest.mark.parametrize(
    "option", ["--config", "--conf", "-C", "-Cseeds=1", "--configfile", "--configfile=a.yaml"]
)
def test_options_for_snakemake_choose_no_other_study(option: str, refused: Said) -> None:
    """Snakemake keeps only the last --config, so it would run the default study instead."""
    said = refused("run", "studies/smoke.yaml", "--", "--dry-run", option, "seeds=1")
    assert f"found:    {option}\n" in said
    assert "--models, --claims, --seeds, --tflops or --device-memory" in said


def test_the_exit_status_is_that_of_snakemake(monkeypatch: Patch) -> None:
    script = "import os, sys; sys.exit(7 if os.environ['MAKELEVEL'] else 0)"
    assert run_snakemake([sys.executable, "-c", script], summary=False) == 7
    with refusal(todo="make env"):
        run_snakemake(["no-snakemake"], summary=False)
    with refusal(found="SIGKILL", todo="freelunch"):
        run_snakemake(["bash", "-c", "kill -KILL $$"], summary=False)


def command(*words: str, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(SCRIPTS)}
    started = [sys.executable, "-m", "freelunch", *words]
    return subprocess.Popen(started, env=environment, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.parametrize("seconds", [0.3, 3, 6])
def test_an_interruption_of_the_imports_shows_no_traceback(seconds: float) -> None:
    """Those of this program and of Snakemake, which the terminal interrupts, too."""
    words = ("run", "studies/smoke.yaml", "--", "--dry-run")
    process = command(*words, stdout=subprocess.PIPE, cwd=ROOT, start_new_session=True)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    assert "Traceback" not in process.communicate()[1]


def test_a_handler_of_sigterm_may_wait_for_the_thread_that_it_interrupts() -> None:
    """Snakemake's handler waits for the lock of its scheduler."""
    script = (
        "import os, signal, threading; from freelunch.cli.run import handle_sigterm_in_thread\n"
        "lock, handled = threading.Lock(), threading.Event()\n"
        "def handler(*arguments):\n"
        "    with lock: handled.set()\n"
        "signal.signal(signal.SIGTERM, handler)\n"
        "handle_sigterm_in_thread(list)\n"
        "with lock: os.kill(os.getpid(), signal.SIGTERM)\n"
        "print(handled.wait(10))\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


def test_an_interrupted_run_names_what_the_user_typed(
    monkeypatch: Patch, capfd: pytest.CaptureFixture[str]
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


def test_a_start_that_could_run_nothing_or_would_harm_another_run_is_refused() -> None:
    check_start(["snakemake", "--unlock"], None, alone=True)
    check_start(["snakemake"], 1, alone=False)
    for where, arguments, cores in (("--unlock", ["--unlock"], 1), ("--cores", [], 0)):
        with pytest.raises(UserError) as error:
            check_start(arguments, cores, alone=False)
        assert error.value.where == where
