"""The recipe for a new figure, followed to the letter."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "docs" / "recipes" / "figure.md"
MOST_FILES = 3


def files_of_the_recipe() -> dict[str, str]:
    """Return the code of each section, by the file that its first words name."""
    sections = re.split(r"^## \d\. .*$", RECIPE.read_text(), flags=re.M)[1:]
    files = {}
    for section in sections:
        (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
        files[re.search(r"`((?:workflow|tests)/\S+\.py)`", section)[1]] = code
    return files


def test_a_figure_made_by_the_recipe(study):
    files = files_of_the_recipe()
    assert 0 < len(files) <= MOST_FILES
    shutil.copytree(ROOT / "tests" / "support", study.path / "tests" / "support")
    for name, code in files.items():
        path = study.path / name
        assert not path.exists(), "the recipe edits no file"
        path.parent.mkdir(exist_ok=True)
        path.write_text(code)

    (test,) = (name for name in files if name.startswith("tests/"))
    for command in (["pytest", "-q", test], ["ruff", "check", *files], ["mypy"]):
        done = subprocess.run(
            [sys.executable, "-m", *command],
            cwd=study.path,
            env=study.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"

    # A finished study draws it, and computes nothing again.
    planned = study.planned()
    assert planned.keys() == {"build_tables", "draw_figure", "audit_study", "all", "total"}
    study.run()
    results = (
        study.path
        / "results"
        / yaml.safe_load((study.path / "config.yaml").read_text())["study"]["name"]
    )
    rows = (results / "figures" / "sparsity.csv").read_text().splitlines()
    assert rows[0].startswith("model,criterion,pattern,adaptation,sparsity,perplexity")
    assert len(rows) == 1 + 5
    for suffix in ("png", "svg", "pdf"):
        assert (results / "figures" / f"sparsity.{suffix}").stat().st_size > 1000
    page = (results / "audit" / "index.html").read_text()
    assert "whose perplexity rises with its sparsity" in page
