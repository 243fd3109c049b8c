"""Windows, inputs, retraining and searches through the workflow: what runs, what is recorded."""

import csv
import hashlib
import json
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from freelunch.core.units import amount
from study_folder import SHOWN

# Each starts as many jobs as it is good for: they are most of what the tests take.
SEARCHED = {
    "method": "masklora",
    "loss": "distillation",
    "rank": 4,
    "learning_rate": [1.0e-4, 1.0e-2],
    "epochs": [2],
    "budget": {"times": 4, "of": "recon_block"},
}
ADAPTATIONS = {
    "recon_matrix": {"window": "matrix", "train_norms": False},
    "recon_auto": {"window": "auto", "memory_gb": 4},
    "recon_sparse": {"inputs": "sparse", "targets": "local"},
    "searched": SEARCHED,
    "as_the_paper": {"learning_rate": [1.0e-4, 10.0], "select_on": "evaluation"},
}
CELL = "results/smoke/{}/tiny/wanda-u50/{}/seed0"


def widen(study) -> None:
    """Give the smoke study other adaptations, and documents: held-out text needs more than four."""
    path = study.path / "tests" / "fixtures" / "speeches.jsonl"
    speeches = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    pieces = [text[at : at + 500] for text in speeches for at in range(0, len(text), 500)]
    path.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    path = study.path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    for name, settings in ADAPTATIONS.items():
        config["adaptations"][name] = {"method": "reconstruction", **settings}
    config["adaptations"]["recon_matrix_exact"] = {"method": "least_squares"}
    config["study"]["keep_hidden_states"] = "every_2"
    config["study"]["selection"] = {"samples": 4}
    config["study"]["evaluation"]["drift"] = {"samples": 2}
    (grid,) = config["study"]["grids"]
    grid["criteria"] = ["wanda"]
    grid["adaptations"] += [*ADAPTATIONS, "recon_matrix_exact"]
    path.write_text(yaml.safe_dump(config))


def record(study, adaptation: str) -> dict:
    name = f"tiny__wanda-u50__{adaptation}__seed0.json"
    return json.loads((study.path / "results" / "smoke" / "records" / name).read_text())


@pytest.fixture(scope="module")
def wide(finished, tmp_path_factory):
    study = finished.copy(tmp_path_factory.mktemp("windows") / "study").warm()
    widen(study)
    study.planned_first = study.planned()
    study.planned_in_groups = study.planned("--set-scatter", "windows=2")
    study.run()
    return study


def test_each_adaptation_and_candidate_has_its_jobs(wide):
    # All five, since documents and with them the calibration sample are others; two candidates.
    assert wide.planned_first["reconstruct_window"] == 5 + 2
    assert wide.planned_first["retrain_model"] == 2
    assert wide.planned_first["extend_calibration"] == 1
    # The dense model, two pruned cells of before, the new ones, and four candidates.
    assert wide.planned_first["evaluate_cell"] == 1 + 2 + len(ADAPTATIONS) + 1 + 4
    assert wide.planned_first["choose_candidate"] == 2
    assert wide.planned() == {}


def test_a_job_for_each_group_of_windows_but_one_where_they_follow_each_other(wide):
    # Two each of block, matrix, exact and auto; one sparse; two each of the candidates.
    assert wide.planned_in_groups["reconstruct_window"] == 2 * 4 + 1 + 2 * 2


def test_drift_is_measured_of_every_pruned_cell(wide):
    assert wide.planned_first["capture_reference"] == 1
    found = record(wide, "recon_matrix")
    metrics = found["metrics"]["drift"]
    assert len(metrics["drift"]["accumulated"]) == len(metrics["drift"]["local"]) == 4
    assert metrics["drift"]["local"][0] == metrics["drift"]["accumulated"][0]
    assert found["spec"]["evaluation"]["drift"] == {"samples": 2}
    assert found["spec"]["selection"] == {"samples": 4}
    assert found["cost"]["capture_reference"]["flops"] > 0
    # Of the same tokens for all.
    tokens = {record(wide, name)["metrics"]["drift"]["token_ids_sha256"] for name in ADAPTATIONS}
    assert tokens == {metrics["token_ids_sha256"]}
    dense = record(wide, "recon_auto")["metrics"]["drift"]["dense"]
    assert dense == metrics["dense"] and dense["loss"] != metrics["loss"]
    folder = wide.path / "results" / "smoke"
    assert (folder / "figures" / "drift.png").stat().st_size > 10_000
    assert "held out" in (folder / "tables" / "summary.md").read_text()


def test_what_was_adapted_together_is_recorded(wide):
    found = {name: record(wide, name)["adaptation"] for name in [*ADAPTATIONS, "recon_block"]}
    windows = {name: (facts["window"], facts["windows"]) for name, facts in found.items()}
    assert windows == {
        "recon_matrix": ("matrix", 28),
        "recon_auto": ("all", 1),
        "recon_sparse": (1, 4),
        "searched": ("model", 1),
        "as_the_paper": (1, 4),
        "recon_block": (1, 4),
    }
    assert next(iter(found["recon_matrix"]["losses"])) == "0.mlp.down_proj"


def test_the_best_candidate_is_the_result(wide):
    facts = record(wide, "searched")
    choice, cost = facts["adaptation"]["choice"], facts["cost"]
    assert choice["selected_on"] == "calibration" and len(choice["candidates"]) == 2
    best = min(choice["candidates"], key=lambda name: choice["candidates"][name]["perplexity"])
    assert choice["chosen"] == best
    chosen = choice["candidates"][best]
    assert f"lr{chosen['learning_rate']}.epochs{chosen['epochs']}" in best
    for name, found in choice["candidates"].items():
        path = wide.path / CELL.format("metrics", name) / "held_out.json"
        assert json.loads(path.read_text())["perplexity"] == found["perplexity"]
    for shard in ("block-000.safetensors", "block-003.safetensors"):
        ours = (wide.path / CELL.format("checkpoints", "searched") / shard).read_bytes()
        assert ours == (wide.path / CELL.format("checkpoints", best) / shard).read_bytes()
    # What the dense model passed, so that there is something to learn from, is counted beside it.
    assert 0 < cost["retrain_model"]["dense_flops"] < cost["retrain_model"]["flops"]
    # The search is the other one, and measuring both.
    assert cost["search"]["flops"] > cost["retrain_model"]["flops"]
    assert cost["search"]["jobs"] == 1 + 2
    assert facts["spec"]["adaptation"]["learning_rate"] == SEARCHED["learning_rate"]
    assert facts["spec"]["selection"] == {"samples": 4}


def test_a_choice_on_the_evaluation_text_is_marked_wherever_it_appears(wide):
    choice = record(wide, "as_the_paper")["adaptation"]["choice"]
    assert choice["selected_on"] == "evaluation"
    candidates = choice["candidates"]
    assert candidates.keys() == {f"as_the_paper.lr{rate}.epochs1" for rate in (0.0001, 10.0)}
    # The rate that spoils windows stops nothing: they keep their pruned weights.
    assert candidates["as_the_paper.lr10.0.epochs1"]["windows_kept_pruned"] > 0
    assert choice["chosen"] == min(candidates, key=lambda name: candidates[name]["perplexity"])
    tables = wide.path / "results" / "smoke" / "tables"
    summary = (tables / "summary.md").read_text()
    lines = [line for line in summary.splitlines() if "as_the_paper" in line]
    assert len(lines) >= 2 and all("chosen on the evaluation text" in line for line in lines)
    others = [line for line in summary.splitlines() if "| searched" in line]
    assert others and not any("evaluation" in line for line in others)
    header, *rows = (tables / "summary.csv").read_text().splitlines()
    column = header.split(",").index("selected_on")
    selected = {row.split(",")[3]: row.split(",")[column] for row in rows}
    assert (selected["as_the_paper"], selected["searched"]) == ("evaluation", "calibration")


def test_what_an_adaptation_saw_and_trained_is_recorded(wide):
    """In the same units for retraining and reconstruction."""
    found = {name: record(wide, name) for name in ("searched", "recon_block")}
    retrained, local = (found[name]["adaptation"] for name in found)
    # A budget of four times the 8 sequences of 32 tokens, in two epochs.
    assert (local["samples"], retrained["samples"]) == (8, 16)
    assert found["searched"]["cost"]["retrain_model"]["tokens"] == 4 * 8 * 32
    assert found["recon_block"]["cost"]["reconstruct_window"]["tokens"] == 8 * 32
    assert (local["steps"], retrained["steps"]) == (4, 16)
    assert local["distinct_tokens"] <= 8 * 32 < retrained["distinct_tokens"] <= 16 * 32
    assert 0 < retrained["trained_parameters"] < local["trained_parameters"]
    assert len(retrained["training_losses"]) == 16
    assert "extend_calibration" in found["searched"]["cost"]
    tables = wide.path / "results" / "smoke"
    budgets = (tables / "figures" / "budgets.csv").read_text().splitlines()
    names = [line.split(",")[3] for line in budgets[1:]]
    assert names == ["recon_block", "as_the_paper", "searched"]
    with (tables / "tables" / "reach.csv").open() as file:
        reach = list(csv.DictReader(file))
    assert {row["series"] for row in reach} == {"masklora, distilled"}
    assert [row["unit"] for row in reach] == ["tokens", "distinct_tokens", "flops"]
    assert (tables / "figures" / "budgets.png").stat().st_size > 10_000
    summary = (tables / "tables" / "summary.md").read_text()
    assert "**Retraining beside reconstruction**" in summary


def test_an_extended_sample_begins_with_the_calibration_sample(wide):
    folder = wide.path / "results" / "smoke"
    tokens = {
        name: load_file(folder / path / "tokens.safetensors")["input_ids"]
        for name, path in {
            "calibration": "calibration/tiny/seed0",
            "extended": "extended/tiny/seed0/16",
            "held out": "held_out/tiny/seed0",
        }.items()
    }
    assert torch.equal(tokens["extended"][:8], tokens["calibration"])
    assert tokens["extended"].shape == (16, 32)
    digests = record(wide, "searched")["provenance"]["digests"]
    for name, of in (("calibration", "calibration"), ("extended", "adaptation")):
        expected = hashlib.sha256(tokens[name].numpy().tobytes()).hexdigest()
        assert digests[f"{of}_token_ids"] == expected
    assert digests["held_out_token_ids"] not in (expected, digests["calibration_token_ids"])
    held_out = {tuple(row) for row in tokens["held out"].tolist()}
    assert held_out.isdisjoint(map(tuple, tokens["extended"].tolist()))


def test_hidden_states_are_a_cache(wide, tmp_path):
    hidden = wide.path / "results" / "smoke" / "hidden" / "tiny" / "seed0"
    names = {path.name for path in hidden.iterdir()}
    kept = {f"hidden-{at:03d}.safetensors" for at in (0, 2, 4)}
    assert names == {"manifest.json", "finished.jsonl", *kept}
    study = wide.copy(tmp_path / "study")
    shutil.rmtree(study.path / "results" / "smoke" / "hidden")
    assert study.planned() == {}
    study.edit("config.yaml", "keep_hidden_states: every_2", "keep_hidden_states: all")
    assert study.planned().keys() <= SHOWN
    # What needs them makes them again, to the bit.
    manifest = study.path / CELL.format("windows", "recon_matrix") / "1-of-1" / "manifest.json"
    before = manifest.read_text()
    target = str(manifest.relative_to(study.path))
    study.run("--forcerun", "reconstruct_window", "--", target)
    assert manifest.read_text() == before


def test_another_grid_runs_the_new_candidates_only(wide, tmp_path):
    study = wide.copy(tmp_path / "study")
    path = study.path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["adaptations"]["searched"]["learning_rate"] = [1.0e-3, 1.0e-2]
    path.write_text(yaml.safe_dump(config))
    planned = study.planned()
    assert "reconstruct_window" not in planned and "extend_calibration" not in planned
    assert planned["retrain_model"] == 1
    # The new candidate, and the cell, if another is chosen.
    assert planned["evaluate_cell"] == 2
    assert planned["choose_candidate"] == 1
    assert planned["collect_records"] == 1


def test_a_mended_formula_trains_again_only_what_it_decides_otherwise(wide, tmp_path):
    study = wide.copy(tmp_path / "study")
    path = "workflow/scripts/freelunch/costs/reconstruction.py"
    study.edit(path, "BESIDE_BYTES = 80_000_000", "BESIDE_BYTES = 81_000_000")
    planned = study.planned()
    computing = {"reconstruct_window", "retrain_model", "evaluate_cell", "prune_model"}
    assert not computing & planned.keys()
    # With this much beside, no window but the least fits into the budget.
    study.edit(path, "BESIDE_BYTES = 81_000_000", "BESIDE_BYTES = 3_614_500_000")
    assert study.planned()["reconstruct_window"] == 1


def candidates(study) -> set[str]:
    """Return the candidates whose adapted blocks or checkpoints are on disk."""
    root = study.path / "results" / "smoke"
    found = [*root.glob("windows/*/*/*.lr*"), *root.glob("checkpoints/*/*/*.lr*")]
    return {path.name for path in found}


def bytes_on_disk(study) -> int:
    """Return what the results of a study take, files with several names once."""
    files = [path.stat() for path in (study.path / "results").rglob("*") if path.is_file()]
    return sum({file.st_ino: file.st_size for file in files}.values())


def test_tidying_removes_the_candidates_of_finished_cells(wide, tmp_path):
    study = wide.copy(tmp_path / "study")
    unfinished = study.path / "results/smoke/records/tiny__wanda-u50__as_the_paper__seed0.json"
    unfinished.unlink()
    # The copy shares no files; in the study, the cell shares those of the chosen candidate.
    choice = record(study, "searched")["adaptation"]["choice"]["chosen"]
    chosen, shared = (
        next((study.path / CELL.format("windows", name)).rglob("block-000.safetensors"))
        for name in (choice, "searched")
    )
    chosen.unlink()
    chosen.hardlink_to(shared)
    there, size = candidates(study), bytes_on_disk(study)
    assert "Would remove" in study.make("tidy", "DRY_RUN=1").stdout
    assert candidates(study) == there
    said = study.make("tidy").stdout
    assert "of 2 candidate(s) of 1 finished cell(s): " in said
    assert f": {amount(size - bytes_on_disk(study))}." in said
    assert candidates(study) == {name for name in there if name.startswith("as_the_paper")}
    # The rest of the study goes on, and nothing else runs again.
    assert study.planned().keys() == {"collect_records", *SHOWN}
    study.run()
    assert "of 2 candidate(s) of 1 finished cell(s): " in study.make("tidy").stdout
    assert not candidates(study)
    assert "Nothing to remove" in study.make("tidy").stdout
    study.make("verify")
    assert study.planned() == {}


def test_tidying_keeps_the_candidates_of_a_search_that_goes_on(wide, tmp_path):
    study = wide.copy(tmp_path / "study")
    there = candidates(study)
    study.edit("config.yaml", "- 10.0", "- 10.0\n    - 0.001")
    study.make("tidy")
    assert candidates(study) == {name for name in there if name.startswith("as_the_paper")}
    assert study.planned()["reconstruct_window"] == 1
