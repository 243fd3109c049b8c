"""The command line: what each command prints, and its exit status."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from freelunch.audit.crate import config_text
from freelunch.audit.output_files import AUDIT_SUMS, CONFIG, digested, seal
from freelunch.cli.main import main
from freelunch.core.files import write_atomically
from freelunch.study.open_study import open_study
from freelunch.study.schema import SCHEMA
from freelunch.study.study import Study
from own_models import machine
from repository import ROOT

Captured = pytest.CaptureFixture[str]
Run = Callable[..., int]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the smoke study as the default one."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "studies" / "smoke.yaml", "config.yaml")
    shutil.copytree(ROOT / "tests" / "fixtures", "tests/fixtures")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    def command(*arguments: str) -> int:
        monkeypatch.setattr("sys.argv", ["freelunch", *arguments])
        return main()

    return command


def test_one_line_says_that_all_is_well(run: Run, capsys: Captured) -> None:
    assert run("check") == run("check", "config.yaml") == 0
    line = "config.yaml: all is well (settings, files and texts, memory and disk; 5 cells).\n"
    assert capsys.readouterr() == (2 * line, "")


def test_what_is_wrong_is_said_without_a_traceback(run: Run, capsys: Captured) -> None:
    path = Path("config.yaml")
    path.write_text(path.read_text().replace("samples: 8", "sampels: 8"))
    assert run("check") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: config.yaml: 2 problems in the config\n")
    assert "Traceback" not in said


def test_a_message_has_no_power_over_the_terminal(run: Run, capsys: Captured) -> None:
    path = Path("config.yaml")
    path.write_text(path.read_text().replace("tests/fixtures/tiny-llama", '"\\e[2Jgone"'))
    assert run("check") == 1
    assert "there is nothing at \\x1b[2Jgone" in capsys.readouterr().err


def test_a_plan_is_for_the_machine_of_a_rate(run: Run, capsys: Captured) -> None:
    assert run("plan", "--tflops", "400") == 0
    assert "The study `smoke` (config.yaml): 5 cells" in capsys.readouterr().out
    for rate in ("0", "-1", "inf", "nan", "1e-320", "1e300", "fast"):
        assert run("plan", "--tflops", rate) == 1
        assert f"found:    {rate}\n" in capsys.readouterr().err


def test_a_plan_imports_nothing_slow() -> None:
    code = (
        "import sys; sys.argv = ['freelunch', 'plan', '--tflops', '1']\n"
        "from freelunch.cli.main import main\n"
        "assert main() == 0\n"
        "assert not {'torch', 'transformers', 'pandas', 'scipy', 'rocrate'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_study_that_does_not_fit_runs_only_if_it_is_told_to(
    run: Run, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is a prediction, and a machine may have swap."""
    monkeypatch.setattr("freelunch.cli.main.this_machine", lambda size: machine(memory=0.001))
    monkeypatch.setattr("freelunch.cli.main.run_snakemake", lambda command, summary: 0)
    assert run("run", "--", "--dry-run") == 1
    assert "`freelunch run --elsewhere`" in capsys.readouterr().err
    assert run("run", "--elsewhere", "--", "--dry-run") == 0


@pytest.mark.parametrize("command", ["summary", "audit"])
def test_findings_need_a_run(run: Run, capsys: Captured, command: str) -> None:
    assert run(command) == 1
    said = capsys.readouterr().err
    assert "no audit yet" in said and "run it: make study STUDY=config.yaml" in said


@pytest.mark.parametrize(
    ("old", "new", "setting"),
    [
        ("windows: 16", "windows: 8", "study.evaluation.perplexity.windows = 16"),
        ("adaptations: [none, recon_block]", "adaptations: [none]", "study.grids = ["),
    ],
)
@pytest.mark.parametrize("command", ["summary", "audit", "verify"])
def test_an_edited_study_is_to_be_run_and_not_repaired(
    run: Run, capsys: Captured, command: str, old: str, new: str, setting: str
) -> None:
    """An edit damages nothing that was made before it, and no step has to be forced."""
    finished(old_study := open_study(Path("config.yaml")))
    path = Path("config.yaml")
    path.write_text(path.read_text().replace(old, new))
    assert run(command) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {old_study.paths.root / CONFIG}: the study was edited")
    assert f"found:    {setting}" in said and ", as in config.yaml\n" in said
    assert said.endswith(": make study STUDY=config.yaml\n")
    assert "repair" not in said and "FORCE" not in said


def test_another_part_than_the_audits_is_to_be_run(run: Run, capsys: Captured) -> None:
    finished(open_study(Path("config.yaml")))
    assert run("audit", "--seeds", "0") == 1
    said = capsys.readouterr().err
    assert "found:    study.part = null" in said
    assert said.endswith(": make study STUDY=config.yaml SEEDS=0\n")


def test_a_damaged_note_of_what_was_run_is_no_edit(run: Run, capsys: Captured) -> None:
    finished(study := open_study(Path("config.yaml")))
    (study.paths.root / CONFIG).write_text("damaged")
    assert run("audit") == 1
    said = capsys.readouterr().err
    assert "does not have the digest" in said and "make repair" in said


def finished(study: Study) -> None:
    """Leave what says that a study ran to its end."""
    for name in digested(study)[AUDIT_SUMS]:
        text = config_text(study) if name == CONFIG else "made by another step"
        write_atomically(study.paths.root / name, text)
    seal(study, AUDIT_SUMS)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["plna"], "No such command 'plna'. Did you mean 'plan'?"),
        (["run", "--force", "prune_model prune"], "found prune; expected prune_model (nearest) "),
        (["check", "--foo"], "No such option: --foo"),
        (["new"], "Missing argument 'MODEL'"),
        (["devices"], "Missing option '--device-memory'"),
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


def test_help_names_every_command_without_colours(
    run: Run, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert run("--help") == 0
    said = capsys.readouterr().out
    assert "freelunch new ~/models/mine ~/notes.txt" in said and "\x1b" not in said
    commands = re.findall(r"^  (\w+) {2,}\w", said[said.index("Commands:") :], re.M)
    assert {"new", "pin", "check", "plan", "run", "summary", "audit", "verify"} < set(commands)
    for command in commands:
        assert run(command, "--help") == 0
        assert f"Usage: freelunch {command} [OPTIONS]" in capsys.readouterr().out


def test_a_shell_completes_commands_and_studies(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch, run: Run
) -> None:
    Path("studies").mkdir()
    Path("studies/mine.yaml").touch()
    monkeypatch.setenv("_FREELUNCH_COMPLETE", "complete_bash")
    for words, completed in {
        "freelunch ve": "verify",
        "freelunch plan stu": "studies/mine.yaml",
    }.items():
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(len(words.split(" ")) - 1))
        run()
        assert capsys.readouterr().out.strip() == completed


def test_a_study_that_has_not_run_is_not_damaged(run: Run, capsys: Captured) -> None:
    assert run("verify") == 1
    said = capsys.readouterr().err
    assert "it has not run" in said and "run it: make study STUDY=config.yaml" in said


def test_generated_files_are_printed(run: Run, capsys: Captured) -> None:
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(SCHEMA.read_text())
    assert run("settings") == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "guide" / "settings.md").read_text()
