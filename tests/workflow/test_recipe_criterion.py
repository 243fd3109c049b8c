"""docs/recipes/criterion.md, followed to the letter."""

import shutil
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from freelunch.pruning.dense_pass import statistics_file
from recipes import files_of, follow, succeed

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    *("support/slow_scores.py", "support/tiny_models.py", "support/configs.py"),
    *("study/conftest.py", "pruning/test_criteria.py", "study/test_schema.py"),
)


def test_the_recipe_touches_few_files() -> None:
    assert len(files_of("criterion")) <= 3


def test_a_criterion_made_by_the_recipe(study):
    for name in TESTS:
        (study.path / "tests" / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / name, study.path / "tests" / name)
    follow("criterion", study.path)
    # As `make settings` does.
    schema = subprocess.check_output(
        [sys.executable, "-m", "freelunch", "schema"], cwd=study.path / "workflow" / "scripts"
    )
    (study.path / "workflow" / "schemas" / "config.schema.json").write_bytes(schema)

    # The tests take it up by themselves.
    command = ("pytest", "-v", *TESTS[-2:])
    printed = succeed(*command, folder=study.path / "tests", environment=study.environment)
    assert "test_scores_are_float32_and_leave_the_weight_alone[product] PASSED" in printed

    # A study has it by its name.
    path = study.path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["criteria"]["product"] = {"score": "product"}
    config["study"]["grids"][0]["criteria"].append("product")
    path.write_text(yaml.safe_dump(config))
    planned = study.planned()
    assert planned["prune_model"] == 1 and "capture_dense" not in planned
    study.run()
    results = study.path / "results/smoke"
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
