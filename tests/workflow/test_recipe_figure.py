"""docs/recipes/figure.md, followed to the letter."""

import shutil
from pathlib import Path

import yaml

from recipes import files_of, follow, succeed

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
        succeed(*command, folder=study.path, environment=study.environment)

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
