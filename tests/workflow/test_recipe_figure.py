"""docs/recipes/figure.md, followed to the letter."""

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from recipes import files_of, follow

ROOT = Path(__file__).resolve().parents[2]


def test_the_recipe_touches_few_files() -> None:
    assert len(files_of("figure")) <= 3


def test_a_figure_made_by_the_recipe(study):
    shutil.copytree(ROOT / "tests" / "support", study.path / "tests" / "support")
    (study.path / "tests" / "reporting").mkdir()
    follow("figure", study.path)
    files = files_of("figure")

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
