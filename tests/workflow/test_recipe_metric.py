"""docs/recipes/metric.md, followed to the letter."""

import csv
import json
import shutil
from pathlib import Path

from recipes import files_of, follow, succeed

ROOT = Path(__file__).resolve().parents[2]


def test_the_recipe_touches_few_files() -> None:
    assert len(files_of("metric")) <= 5


def test_a_metric_made_by_the_recipe(study):
    shutil.copytree(ROOT / "tests" / "support", study.path / "tests" / "support")
    (study.path / "tests" / "reporting").mkdir()
    shutil.copytree(ROOT / "docs" / "guide", study.path / "docs" / "guide")
    follow("metric", study.path)
    files = [name for name in files_of("metric") if name.endswith(".py")]

    (test,) = (name for name in files if name.startswith("tests/"))
    for command in (["pytest", "-q", test], ["ruff", "check", *files]):
        succeed(*command, folder=study.path, environment=study.environment)

    # A finished study evaluates its cells again, and computes nothing that comes before.
    planned = study.planned()
    before = {"fetch_model", "capture_dense", "prune_model", "reconstruct_window"}
    assert not planned.keys() & before
    study.run()
    results = study.path / "results" / "smoke"
    with (results / "tables" / "summary.csv").open(newline="") as file:
        shown = {row["record"]: float(row["worst_window_loss"]) for row in csv.DictReader(file)}
    records = {path.name: json.loads(path.read_text()) for path in results.glob("records/*.json")}
    assert shown.keys() == records.keys()
    for name, record in records.items():
        metrics = record["metrics"]["perplexity"]
        assert shown[name] == metrics["worst_window_loss"] == max(metrics["window_losses"])
    assert "Worst window" in (results / "audit" / "index.html").read_text()
