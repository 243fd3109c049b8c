"""The README's recipe for a new criterion, followed to the letter."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file

from freelunch.pruning.dense_pass import statistics_file

ROOT = Path(__file__).resolve().parents[2]
TESTS = (
    *("support/slow_scores.py", "support/tiny_models.py"),
    *("pruning/test_criteria.py", "study/test_study.py"),
)


def recipe() -> str:
    text = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"^### Adding a criterion$(.*?)^## ", text, re.M | re.S)
    return section


def test_recipe_is_short() -> None:
    assert len(recipe().strip().splitlines()) < 30


def test_a_criterion_made_by_the_recipe(study):
    section = recipe()
    (file,) = re.findall(r"`(workflow/\S+product\.py)`", section)
    (code,) = re.findall(r"^```python\n(.*?)^```$", section, re.M | re.S)
    (definition,) = re.findall(r"^```json\n(.*?)^```$", section, re.M | re.S)
    (slow,) = re.findall(r"^`(\"product\": .*)`\.$", section, re.M)
    for name in TESTS:
        (study.path / "tests" / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / "tests" / name, study.path / "tests" / name)
    (study.path / file).write_text(code)
    study.edit("workflow/schemas/config.schema.json", '"$defs": {', '"$defs": {' + definition)
    study.edit("tests/support/slow_scores.py", "SLOW = {", "SLOW = {" + slow)

    # The tests take it up by themselves.
    chosen = "test_criteria or described or unknown_keys or no_default"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "-k", chosen, *TESTS[2:]],
        cwd=study.path / "tests",
        env=study.environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert "test_scores_are_float32_and_leave_the_weight_alone[product] PASSED" in done.stdout

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
