"""The environments agree: pyproject.toml is the one place where versions are pinned."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

from repository import ROOT, shell_environment

GROUPS = tomllib.loads((ROOT / "pyproject.toml").read_text())["dependency-groups"]
PINS = [pin for group in GROUPS.values() for pin in group]
LOCK = dict(
    line.split("==") for line in (ROOT / "envs" / "lock.txt").read_text().split() if "==" in line
)


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_conda_environment_repeats_the_pins():
    dependencies = yaml.safe_load((ROOT / "envs" / "freelunch.yaml").read_text())["dependencies"]
    pip = next(item["pip"] for item in dependencies if isinstance(item, dict))
    assert pip == GROUPS["run"]


def test_container_installs_the_pins():
    text = (ROOT / "envs" / "Containerfile").read_text()
    assert "--group run -c lock.txt" in text
    assert "COPY pyproject.toml envs/lock.txt" in text


def test_lock_holds_every_pin_at_its_version():
    locked = {normal(name): version for name, version in LOCK.items()}
    for pin in PINS:
        if not pin.startswith("torch"):
            name, version = pin.split("==")
            assert locked[normal(name)] == version, f"{pin}: run `make lock`"


def test_everything_but_torch_is_pinned_exactly():
    ranges = [pin for pin in PINS if "==" not in pin]
    assert ranges == ["torch>=2.9,<2.14"]
    assert "torch" not in LOCK


def test_every_rule_uses_the_environment():
    for path in (ROOT / "workflow" / "rules").glob("*.smk"):
        text = path.read_text()
        rules = len(re.findall(r"^ *rule \w+:", text, re.M))
        assert text.count('"../../envs/freelunch.yaml"') == rules, path


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `make` here as from a shell, whatever `make` runs the tests."""
    return subprocess.run(
        ["make", *arguments], cwd=ROOT, env=shell_environment(), capture_output=True, text=True
    )


@pytest.mark.parametrize("word", ["MODEL=opt", "CLAIM=C1", "SEED=0", "study=config.yaml"])
def test_make_refuses_words_that_a_target_does_not_know(word: str) -> None:
    """They would be ignored, and the whole study would run."""
    done = make("--dry-run", "study", word)
    name = word.partition("=")[0]
    assert done.returncode == 2 and f"unknown: {name}. `make study` knows" in done.stderr


@pytest.mark.parametrize(
    "command",
    ["new MODEL=a TEXT=b", "compare A=a B=b", "plan MODELS=a SEEDS=0"],
)
def test_make_knows_the_words_of_its_targets(command: str) -> None:
    done = make("--dry-run", *command.split())
    assert done.returncode == 0, done.stderr


def test_make_takes_the_words_of_a_make_that_starts_it(tmp_path: Path) -> None:
    """It does not know them itself."""
    outer = tmp_path / "Makefile"
    outer.write_text(f"all:\n\tmake --dry-run -C '{ROOT}' repair STUDY=config.yaml\n")
    done = make("-f", str(outer), "SECONDS=60")
    assert done.returncode == 0, done.stderr
