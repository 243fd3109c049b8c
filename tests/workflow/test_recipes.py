"""The recipes of docs/recipes, followed to the letter, one after the other in one study.

What each of them makes run again is planned before the next is followed. The study then runs once.
"""

import csv
import hashlib
import json
import os
import shutil
import subprocess

import pytest
import torch
import yaml
from safetensors.torch import load_file

from freelunch.pruning.dense_pass import statistics_file
from recipes import files_of, follow, succeed
from repository import ROOT
from study_folder import SHOWN

# The tests that a recipe changes, or that take up by themselves what it adds; what they share.
TESTS = (
    "conftest.py",
    *("adaptation/conftest.py", "adaptation/test_reconstruction.py", "adaptation/test_matrices.py"),
    *("study/conftest.py", "study/test_schema.py", "pruning/test_criteria.py"),
)
RECIPES = ("claim", "figure", "column", "metric", "criterion", "loss", "retraining_method")
# The tests of a family of models.
OF_FAMILIES = ("study/test_families", "model/test_blocks", "adaptation/test_window_inputs")
COMPUTES_WEIGHTS = {"fetch_model", "capture_dense", "prune_model", "reconstruct_window"}


@pytest.mark.parametrize(
    ("recipe", "most"),
    [
        *(("claim", 1), ("metric", 5), ("figure", 2), ("column", 1), ("model_family", 2)),
        *(("criterion", 3), ("loss", 3), ("retraining_method", 5), ("text_source", 2)),
        ("comparison", 1),
    ],
)
def test_a_recipe_touches_few_files(recipe: str, most: int) -> None:
    assert len(files_of(recipe)) <= most


@pytest.fixture(scope="module")
def followed(finished, tmp_path_factory):
    """A study in which all recipes were followed, then run.

    Attributes:
        planned_after: What a run would have started after each recipe.
    """
    study = finished.copy(tmp_path_factory.mktemp("recipes") / "study").warm()
    shutil.copytree(ROOT / "tests" / "support", study.path / "tests" / "support")
    shutil.copytree(ROOT / "docs" / "guide", study.path / "docs" / "guide")
    (study.path / "tests" / "reporting").mkdir()
    for name in TESTS:
        (study.path / "tests" / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / name, study.path / "tests" / name)

    study.planned_after = {}
    for recipe in RECIPES:
        follow(recipe, study.path)
        configure(study, recipe)
        study.planned_after[recipe] = study.planned()
    # As `make settings` does.
    schema = succeed("freelunch", "schema", folder=study.path, environment=with_library(study))
    (study.path / "workflow" / "schemas" / "config.schema.json").write_text(schema)
    study.run()
    return study


def configure(study, recipe: str) -> None:
    """Have the study use what a recipe added."""
    path = study.path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    if recipe == "criterion":
        config["criteria"]["product"] = {"score": "product"}
        config["study"]["grids"][0]["criteria"].append("product")
    if recipe == "loss":
        config["adaptations"]["recon_block"]["loss"] = "huber"
    if recipe == "retraining_method":
        config["adaptations"]["retrained"] = {"method": "magnitude_lora", "rank": 8}
        config["study"]["grids"][0]["adaptations"].append("retrained")
    path.write_text(yaml.safe_dump(config))


def with_library(study) -> dict[str, str]:
    return {**study.environment, "PYTHONPATH": str(study.path / "workflow" / "scripts")}


def test_the_tests_that_recipes_add_or_reach_pass(followed):
    added = [
        name
        for recipe in ("metric", "figure")
        for name in files_of(recipe)
        if name.startswith("tests/reporting/")
    ]
    command = ("pytest", "-v", *added, *(f"tests/{name}" for name in TESTS if "test_" in name))
    chosen = "huber or product or schema or worst_window or sparsity or magnitude_lora"
    printed = succeed(
        *command, "-k", chosen, folder=followed.path, environment=followed.environment
    )
    for said in (
        "[huber] PASSED",
        "[product] PASSED",
        "-magnitude_lora] PASSED",
        *(f"{name}::" for name in added),
    ):
        assert said in printed


def test_what_recipes_add_is_in_style(followed):
    # It is not followed before the run, which would fetch everything again.
    follow("text_source", followed.path)
    recipes = (*RECIPES, "text_source")
    files = {file for recipe in recipes for file in files_of(recipe) if file.endswith(".py")}
    # What mypy knows of the files that no recipe touches is of use here too.
    mypy = ["mypy", "--cache-dir", str(ROOT / ".mypy_cache")]
    for command in (["ruff", "check", *sorted(files)], mypy):
        succeed(*command, folder=followed.path, environment=followed.environment)


def test_a_claim_is_judged_and_nothing_computed_again(followed):
    planned = followed.planned_after["claim"]
    assert "audit_study" in planned and planned.keys() <= SHOWN
    folder = followed.path / "results" / "smoke"
    audit = json.loads((folder / "audit" / "audit.json").read_text())
    claim = next(claim for claim in audit["claims"] if claim["id"] == "C9")
    pruned = {f"tiny, {name}, u50, recon_block" for name in ("magnitude", "wanda", "product")}
    assert {finding["subject"] for finding in claim["parts"][0]["findings"]} == pruned
    for shown in ("audit/index.html", "audit/verdicts.md"):
        assert claim["title"] in (folder / shown).read_text()


def test_a_figure_is_drawn_and_nothing_computed_again(followed):
    planned = followed.planned_after["figure"]
    assert planned.keys() == SHOWN
    figures = followed.path / "results" / "smoke" / "figures"
    rows = (figures / "sparsity.csv").read_text().splitlines()
    assert rows[0].startswith("model,criterion,pattern,adaptation,sparsity,perplexity")
    assert len(rows) == 1 + 10
    for suffix in ("png", "svg", "pdf"):
        assert (figures / f"sparsity.{suffix}").stat().st_size > 1000
    pages = (figures.parent / "audit").glob("*.html")
    assert any("whose perplexity rises with its sparsity" in page.read_text() for page in pages)


def test_a_column_is_shown_and_nothing_computed_again(followed):
    assert followed.planned_after["column"].keys() == SHOWN
    with (followed.path / "results/smoke/tables/summary.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            assert bool(row["pruning_peak_bytes"]) == (row["criterion"] != "dense")


def test_a_model_family_is_one_row(tmp_path):
    """Its blocks are transformers' own, and so are their halves, biases and sizes."""
    for part in ("workflow", "tests", "studies", "config", "config.yaml", "pyproject.toml"):
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, tmp_path / part)
    follow("model_family", tmp_path)
    tests = [f"tests/{name}.py" for name in (*OF_FAMILIES, "costs/test_shapes")]
    library = str(tmp_path / "workflow" / "scripts")
    environment = {**os.environ, "PYTHONPATH": library}
    command = ("pytest", "-v", "-p", "no:xdist", "-k", "helium", *tests)
    printed = succeed(*command, folder=tmp_path, environment=environment)
    assert all(f"{name}::" in printed for name in tests)


def test_a_metric_is_measured_of_all_cells_and_shown(followed):
    planned = followed.planned_after["metric"]
    assert planned["evaluate_cell"] == 5 and not planned.keys() & COMPUTES_WEIGHTS
    results = followed.path / "results" / "smoke"
    with (results / "tables" / "summary.csv").open(newline="") as file:
        shown = {row["record"]: float(row["worst_window_loss"]) for row in csv.DictReader(file)}
    records = {path.name: json.loads(path.read_text()) for path in results.glob("records/*.json")}
    assert shown.keys() == records.keys()
    for name, record in records.items():
        metrics = record["metrics"]["perplexity"]
        assert shown[name] == metrics["worst_window_loss"] == max(metrics["window_losses"])
    assert "Worst window" in (results / "audit" / "evidence.html").read_text()


def test_a_criterion_prunes_by_its_scores(followed):
    planned = followed.planned_after["criterion"]
    assert planned["prune_model"] == 1 and "capture_dense" not in planned
    results = followed.path / "results/smoke"
    dense = load_file(results / "checkpoints/tiny/dense/none/seed0/block-000.safetensors")
    pruned = load_file(results / "checkpoints/tiny/product-u50/none/seed0/block-000.safetensors")
    told = load_file(results / "dense/tiny/seed0" / statistics_file(0))
    name = "model.layers.0.self_attn.q_proj.weight"
    worth = (dense[name] * told["self_attn.q_proj.mean"]).abs()
    order = worth.argsort(dim=1, stable=True)
    half = worth.shape[1] // 2
    assert not pruned[name].gather(1, order[:, :half]).any()
    assert torch.equal(
        pruned[name].gather(1, order[:, half:]), dense[name].gather(1, order[:, half:])
    )


def test_a_loss_is_trained_by(followed):
    # Of three criteria, with the one that a recipe added.
    assert followed.planned_after["loss"]["reconstruct_window"] == 3
    records = followed.path / "results" / "smoke" / "records"
    record = json.loads((records / "tiny__wanda-u50__recon_block__seed0.json").read_text())
    assert "huber" in json.dumps(record["spec"])
    for loss in record["adaptation"]["losses"].values():
        assert 0 < loss["after"] < loss["before"]


def test_a_retraining_method_trains_what_its_masks_keep(followed):
    # Of three criteria, with the one that a recipe added.
    assert followed.planned_after["retraining_method"]["retrain_model"] == 3
    results = followed.path / "results" / "smoke"
    record = json.loads(
        (results / "records" / "tiny__wanda-u50__retrained__seed0.json").read_text()
    )
    for loss in record["adaptation"]["losses"].values():
        assert 0 < loss["after"] < loss["before"]
    pruned, trained = (
        load_file(results / f"checkpoints/tiny/wanda-u50/{adaptation}/seed0/block-000.safetensors")
        for adaptation in ("none", "retrained")
    )
    for key, weight in pruned.items():
        assert torch.equal(trained[key] == 0, weight == 0)


def git(folder, *words: str) -> None:
    named = ("-c", "user.name=tests", "-c", "user.email=tests@localhost")
    subprocess.run(["git", *named, *words], cwd=folder, check=True, capture_output=True)


def test_a_comparison_is_archived_and_checked_by_others(followed, tmp_path):
    """The archive of the study in which all recipes were followed; that of the recipe is read."""
    study = followed.copy(tmp_path / "study")
    follow("comparison", study.path)
    shutil.copy(ROOT / ".gitignore", study.path)
    planned = study.freelunch("plan", "studies/comparison.yaml", "--tflops", "1")
    assert ": 25 cells" in planned.stdout, planned.stderr
    refused = study.freelunch("archive", "config.yaml")
    assert refused.returncode == 1 and "git cannot tell the commit" in refused.stderr
    for words in (["init"], ["add", "--all"], ["commit", "-m", "A comparison"]):
        git(study.path, *words)

    written = study.path / "results" / "smoke" / "smoke-artifact.tar.gz"
    contents = []
    for _ in range(2):
        done = study.freelunch("archive", "config.yaml")
        assert done.returncode == 0 and str(written.relative_to(study.path)) in done.stdout, done
        contents.append(written.read_bytes())
        written.unlink()
    assert contents[0] == contents[1]
    written.write_bytes(contents[0])
    shutil.unpack_archive(written, tmp_path, filter="data")
    folder = tmp_path / "smoke-artifact"
    check = ["sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS"]
    assert subprocess.run(check, cwd=folder, capture_output=True, check=True).stdout == b""
    assert (folder / "code" / "studies" / "comparison.yaml").is_file()
    # The other's run: here, the study's own results.
    shutil.copytree(study.path / "results", folder / "code" / "results")
    readme = (folder / "README.md").read_text()
    command = next(line for line in readme.splitlines() if line.startswith("| reproduced"))
    *_, study_word, a, b = command.split("`")[1].split()
    assert command.startswith("| reproduced | `make -C code study compare ")
    assert study_word == "STUDY=config.yaml"
    other = type(study)(folder / "code")
    other.programs = study.programs
    compared = other.make("compare", a, b).stdout
    count = compared.split()[0]
    assert f"{count} equal, 0 equal up to rounding, 0 different; 0 only in A" in compared
    assert f"`{count} cells in both runs`" in command

    (study.path / "studies" / "forgotten.yaml").touch()
    refused = study.freelunch("archive", "config.yaml")
    assert refused.returncode == 1 and "studies/forgotten.yaml" in refused.stderr
    (study.path / "studies" / "forgotten.yaml").unlink()
    next((study.path / "results" / "smoke" / "records").glob("*.json")).unlink()
    refused = study.freelunch("archive", "config.yaml")
    assert refused.returncode == 1 and "make repair STUDY=config.yaml" in refused.stderr


def test_a_new_kind_of_source_is_fetched(tmp_path):
    scripts = tmp_path / "workflow" / "scripts"
    shutil.copytree(ROOT / "workflow" / "scripts", scripts)
    follow("text_source", tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(scripts)}
    assert '"web"' in succeed("freelunch", "schema", folder=tmp_path, environment=environment)
    (tmp_path / "words.txt").write_text("one\ntwo\n")
    sha256 = hashlib.sha256(b"one\ntwo\n").hexdigest()
    url = (tmp_path / "words.txt").as_uri()
    entry = {"source": "web", "url": url, "sha256": sha256, "format": "lines"}
    (tmp_path / "fetch.py").write_text(
        "import json, pathlib, sys\n"
        "from freelunch.data.texts import fetch_text\n"
        "from freelunch.study.sources import read_text\n"
        "entry = read_text(json.loads(sys.argv[1]))\n"
        "text = fetch_text('words', entry, pathlib.Path('words'), 'test')\n"
        "print(json.dumps([entry.place, text.facts]))\n"
    )
    options = {"folder": tmp_path, "environment": environment}
    place, facts = json.loads(succeed("fetch", json.dumps(entry), **options))
    assert place == url and facts["documents"] == 2
    assert facts["origin"] == {
        "source": "web",
        "sha256": sha256,
        "url": url,
        "files": {"words.txt": sha256},
    }
    for key, value in (("sha256", "0" * 64), ("url", f"{url}.gone")):
        with pytest.raises(AssertionError, match=f"texts.words.{key}"):
            succeed("fetch", json.dumps({**entry, key: value}), **options)
