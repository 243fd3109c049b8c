"""The command line: what each command prints, and its exit status."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from configs import ROOT
from freelunch.cli.main import main
from freelunch.study.schema import SCHEMA

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


def test_a_valid_study_is_checked_in_silence(run: Run, capsys: Captured) -> None:
    assert run("check") == run("check", "config.yaml") == 0
    assert capsys.readouterr() == ("", "")


def test_what_is_wrong_is_said_without_a_traceback(run: Run, capsys: Captured) -> None:
    path = Path("config.yaml")
    path.write_text(path.read_text().replace("samples: 8", "sampels: 8"))
    assert run("check") == 1
    said = capsys.readouterr().err
    assert said.startswith("error: config.yaml: 2 problems in the config\n")
    assert "Traceback" not in said


def test_a_name_is_that_of_the_study(run: Run, capsys: Captured) -> None:
    assert run("name", "config.yaml") == 0
    assert capsys.readouterr().out == "smoke\n"


def test_a_plan_is_for_the_machine_of_a_rate(run: Run, capsys: Captured) -> None:
    assert run("plan", "--tflops", "400") == 0
    assert "The study `smoke` (config.yaml): 5 cells" in capsys.readouterr().err
    for rate in ("0", "-1", "inf", "fast"):
        with pytest.raises(SystemExit):
            run("plan", "--tflops", rate)
        assert f"invalid rate value: '{rate}'" in capsys.readouterr().err


def test_a_summary_needs_records(run: Run, capsys: Captured) -> None:
    assert run("summary") == 1
    said = capsys.readouterr().err
    assert "a record is missing" in said and "make study STUDY=config.yaml" in said


def test_generated_files_are_printed(run: Run, capsys: Captured) -> None:
    assert run("schema") == 0
    assert json.loads(capsys.readouterr().out) == json.loads(SCHEMA.read_text())
    assert run("settings") == 0
    assert capsys.readouterr().out == (ROOT / "docs" / "guide" / "settings.md").read_text()
