"""Every kind of criterion and pattern through the workflow, and what an edit of one runs again."""

import json

import pytest
import yaml
from transformers import AutoModelForCausalLM

CRITERIA = {
    "random": {"score": "random"},
    "ria": {"score": "ria"},
    "wanda_swaps": {"score": "wanda", "swaps": 3},
    "sparsegpt_sparse": {"score": "sparsegpt", "statistics": "sparse"},
    "flap": {"score": "flap"},
}


def grid(criteria: list[str], pattern: str, adaptation: str = "none") -> dict[str, list[object]]:
    return {
        "models": ["tiny"],
        "criteria": criteria,
        "patterns": [pattern],
        "adaptations": [adaptation],
        "seeds": [0],
    }


def widen(study) -> None:
    """Add the criteria to the smoke study."""
    path = study.path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["criteria"] |= CRITERIA
    config["study"]["grids"] += [
        grid(["random", "ria"], "u50"),
        grid(["wanda_swaps"], "2of4"),
        grid(["sparsegpt_sparse"], "4of8", "recon_block"),
        grid(["flap"], "s50", "recon_block"),
    ]
    path.write_text(yaml.safe_dump(config))


def record(study, cell: str) -> dict:
    path = study.path / "results" / "smoke" / "records" / f"{cell.replace('/', '__')}.json"
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def wide(finished, tmp_path_factory):
    study = finished.copy(tmp_path_factory.mktemp("criteria") / "study").warm()
    widen(study)
    study.planned_first = study.planned()
    # Magnitude and Wanda have run in the smoke study; what follows is about the others.
    path = study.path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    del config["study"]["grids"][0]
    path.write_text(yaml.safe_dump(config))
    study.run()
    return study


def test_the_first_criterion_that_needs_gram_matrices_makes_the_dense_pass_again(wide):
    # `wanda_swaps` does; with the pass goes whatever was made from it.
    assert wide.planned_first["capture_dense"] == 1
    assert wide.planned_first["prune_model"] == 2 + len(CRITERIA)
    assert wide.planned() == {}


def test_zeros_are_those_of_the_pattern(wide):
    for cell, share in (
        ("tiny/random-u50/none/seed0", 0.5),
        ("tiny/ria-u50/none/seed0", 0.5),
        ("tiny/wanda_swaps-2of4/none/seed0", 0.5),
        ("tiny/sparsegpt_sparse-4of8/recon_block/seed0", 0.5),
    ):
        found = record(wide, cell)
        for name, counts in found["identity"]["matrices"].items():
            assert counts["zeros"] == share * counts["rows"] * counts["columns"], (cell, name)
    flap = record(wide, "tiny/flap-s50/recon_block/seed0")["identity"]
    # Of all units together: no more than asked for, and less by less than one of them.
    assert 0.4 < flap["sparsity"] <= 0.5
    assert len({counts["zeros"] for counts in flap["matrices"].values()}) > 2


def test_records_say_what_the_criterion_noted(wide):
    notes = record(wide, "tiny/wanda_swaps-2of4/none/seed0")["pruning"]["notes"]
    assert all(note["error_after"] <= note["error_before"] for note in notes.values())
    assert sum(note["swaps"] for note in notes.values()) > 0
    assert record(wide, "tiny/ria-u50/none/seed0")["pruning"] == {"notes": {}}
    assert record(wide, "tiny/dense/none/seed0")["pruning"] is None
    spec = record(wide, "tiny/sparsegpt_sparse-4of8/recon_block/seed0")["spec"]["criterion"]
    assert spec["statistics"] == "sparse" and spec["damping"] == 0.01


def test_records_say_what_pruning_cost(wide):
    found = record(wide, "tiny/sparsegpt_sparse-4of8/recon_block/seed0")
    sparse, sample = found["cost"]["prune_model"], found["spec"]["calibration"]
    # Once for the statistics, and once pruned.
    assert sparse["tokens"] == 2 * sample["samples"] * sample["length"]
    swapped, plain = (
        record(wide, f"tiny/{cell}/none/seed0")["cost"]["prune_model"]
        for cell in ("wanda_swaps-2of4", "ria-u50")
    )
    assert sparse["flops"] > swapped["flops"] > plain["flops"] == 0
    assert "tokens" not in plain


def test_checkpoints_load_with_their_compensating_biases(wide):
    folder = wide.path / "results/smoke/checkpoints/tiny/flap-s50/recon_block/seed0"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert any(layer.mlp.down_proj.bias.abs().sum() > 0 for layer in model.model.layers)


def test_an_edit_of_a_criterion_reruns_what_it_prunes_and_nothing_else(wide):
    path = wide.path / "workflow" / "scripts" / "freelunch" / "pruning" / "criteria" / "ria.py"
    text = path.read_text()
    path.write_text(text.replace("of_column + of_row", "of_row + of_column"))
    try:
        planned = wide.planned()
    finally:
        path.write_text(text)
    assert planned["prune_model"] == planned["evaluate_cell"] == 1
    assert "capture_dense" not in planned and "reconstruct_window" not in planned


@pytest.mark.parametrize(
    ("criterion", "pattern", "said"),
    [
        ("wanda", "3of5", "a linear layer has 32 inputs; expected a multiple of 5"),
        ("wanda", "s20", "'wanda' prunes single weights"),
        ("wanda", "u100", "not a pattern: 'u100'"),
    ],
)
def test_what_cannot_be_pruned_is_refused_before_anything_runs(study, criterion, pattern, said):
    path = study.path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["study"]["grids"].append(grid([criterion], pattern))
    path.write_text(yaml.safe_dump(config))
    output = study.run("--dry-run", status=1)
    assert said in output
    assert "Traceback" not in output
