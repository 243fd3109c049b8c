"""Every kind of criterion, adaptation and measurement through the workflow, in one study.

It has criteria and patterns, windows, inputs, retraining, searches, drift and zero-shot tasks: what
is recorded and shown of each, and what an edit of the study runs again.
"""

import csv
import gzip
import json
import shutil

import pytest
import yaml
from transformers import AutoModelForCausalLM

from study_folder import SHOWN

CRITERIA = {
    "random": {"score": "random"},
    "alps_owl": {"score": "alps", "allocation": {"by": "owl", "spread": 0.1}},
    "wanda_swaps": {"score": "wanda", "swaps": 3},
    "sparsegpt_sparse": {"score": "sparsegpt", "statistics": "sparse"},
    "flap": {"score": "flap"},
}
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
QUESTIONS = [
    ("Which of these is frozen water", ["ice", "steam", "sand"], "A"),
    ("Which of these shines by day", ["the moon", "the sun"], "B"),
    ("How many legs has a dog", ["two", "three", "four", "six"], "C"),
    ("Who writes the laws", ["Congress", "the army"], "A"),
    ("What is bread made of", ["iron", "flour", "wool", "glass"], "B"),
]
ASKED = (("dense", "none"), ("wanda-u50", "none"), ("wanda-u50", "recon_block"))
CELL = "results/smoke/{}/tiny/wanda-u50/{}/seed0"


def add_questions(study, config: dict) -> None:
    """Let the study ask some questions of ours as if they were arc_easy and openbookqa."""
    config["tasks"] = {}
    for task, field in (("arc_easy", "question"), ("openbookqa", "question_stem")):
        with (study.path / f"{task}.jsonl").open("w") as file:
            for question, texts, key in QUESTIONS:
                choices = {"text": texts, "label": [*"ABCD"[: len(texts)]]}
                line = {field: question, "choices": choices, "answerKey": key}
                file.write(json.dumps(line) + "\n")
        place = {"source": "path", "path": f"{task}.jsonl", "format": "jsonl"}
        config["tasks"][task] = {**place, "documents": len(QUESTIONS)}
    config["study"]["evaluation"]["tasks"] = {"names": [*config["tasks"]], "limit": 3}
    config["study"]["grids"][0]["criteria"] = ["wanda"]
    config["study"]["grids"].append({**config["study"]["grids"][0], "tasks": True})


@pytest.fixture(scope="module")
def wide(finished, tmp_path_factory):
    """The smoke study with all of this; held-out text needs more than its four documents."""
    study = finished.copy(tmp_path_factory.mktemp("wide") / "study").warm()
    path = study.path / "tests" / "fixtures" / "speeches.jsonl"
    speeches = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    pieces = [text[at : at + 500] for text in speeches for at in range(0, len(text), 500)]
    path.write_text("".join(json.dumps({"text": piece}) + "\n" for piece in pieces))
    path = study.path / "config.yaml"
    config = yaml.safe_load(path.read_text())
    add_questions(study, config)
    config["criteria"] |= CRITERIA
    for name, settings in ADAPTATIONS.items():
        config["adaptations"][name] = {"method": "reconstruction", **settings}
    config["adaptations"]["recon_matrix_exact"] = {"method": "least_squares"}
    config["study"]["keep_hidden_states"] = "every_2"
    config["study"]["selection"] = {"samples": 4}
    config["study"]["evaluation"]["drift"] = {"samples": 2}
    first, _ = grids = config["study"]["grids"]
    first["adaptations"] = [*first["adaptations"], *ADAPTATIONS, "recon_matrix_exact"]
    for names, pattern, adaptation in (
        (["random", "alps_owl"], "u50", "none"),
        (["wanda_swaps"], "2of4", "none"),
        (["sparsegpt_sparse"], "4of8", "recon_block"),
        (["flap"], "s50", "recon_block"),
    ):
        grid = {"criteria": names, "patterns": [pattern], "adaptations": [adaptation]}
        grids.append({"models": ["tiny"], "seeds": [0], **grid})
    path.write_text(yaml.safe_dump(config))
    study.planned_first = study.planned()
    study.planned_in_groups = study.planned("--set-scatter", "windows=2")
    study.run()
    return study


def record(study, adaptation: str, pruning: str = "wanda-u50") -> dict:
    name = f"tiny__{pruning}__{adaptation}__seed0.json"
    return json.loads((study.path / "results" / "smoke" / "records" / name).read_text())


def test_each_criterion_adaptation_and_candidate_has_its_jobs(wide):
    first = wide.planned_first
    assert wide.planned() == {}
    # `wanda_swaps` needs Gram matrices, so the dense pass is made again.
    assert first["capture_dense"] == 1
    assert first["prune_model"] == 1 + len(CRITERIA) and first["fetch_tasks"] == 1
    # Wanda's five, two candidates, and two of other criteria.
    assert first["reconstruct_window"] == 5 + 2 + 2
    assert (first["retrain_model"], first["extend_calibration"]) == (2, 1)
    # The dense model, Wanda's two of before and the new ones, four candidates, other criteria.
    assert first["evaluate_cell"] == 1 + 2 + len(ADAPTATIONS) + 1 + 4 + len(CRITERIA)
    assert first["choose_candidate"] == 2
    # Two each of six blocks, matrix, exact and auto; one sparse; two each of the candidates.
    assert wide.planned_in_groups["reconstruct_window"] == 2 * 6 + 1 + 2 * 2


# --- Criteria


def test_a_criterions_zeros_notes_and_costs_are_recorded(wide):
    found = {
        "random": record(wide, "none", "random-u50"),
        "swapped": record(wide, "none", "wanda_swaps-2of4"),
        "sparse": record(wide, "recon_block", "sparsegpt_sparse-4of8"),
    }
    for name, each in found.items():
        for matrix, counts in each["identity"]["matrices"].items():
            assert counts["zeros"] == counts["rows"] * counts["columns"] / 2, (name, matrix)
    owl = record(wide, "none", "alps_owl-u50")
    assert owl["identity"]["sparsity"] == 0.5
    assert owl["spec"]["criterion"]["allocation"]["by"] == "owl"
    of_blocks = {}
    for matrix, counts in owl["identity"]["matrices"].items():
        block = matrix.split(".")[2]
        of_blocks[block] = of_blocks.get(block, 0) + counts["zeros"]
    assert len(set(of_blocks.values())) > 1
    flap = record(wide, "recon_block", "flap-s50")["identity"]
    # All units together lose no more than asked for, and at most one unit less.
    assert 0.4 < flap["sparsity"] <= 0.5
    assert len({counts["zeros"] for counts in flap["matrices"].values()}) > 2
    notes = found["swapped"]["pruning"]["notes"]
    assert all(note["error_after"] <= note["error_before"] for note in notes.values())
    assert sum(note["swaps"] for note in notes.values()) > 0
    assert found["random"]["pruning"] == {"notes": {}}
    assert record(wide, "none", "dense")["pruning"] is None
    spec = found["sparse"]["spec"]
    assert spec["criterion"]["statistics"] == "sparse" and spec["criterion"]["damping"] == 0.01
    costs = {name: each["cost"]["prune_model"] for name, each in found.items()}
    # Once for the statistics, and once pruned.
    sample = spec["calibration"]
    assert costs["sparse"]["tokens"] == 2 * sample["samples"] * sample["length"]
    assert costs["sparse"]["flops"] > costs["swapped"]["flops"] > costs["random"]["flops"] == 0
    assert "tokens" not in costs["random"]
    # Its masks waited for no dense pass; its windows did, and say what that cost.
    assert found["sparse"]["cost"]["capture_dense"] == found["random"]["cost"]["capture_dense"]
    folder = wide.path / "results/smoke/checkpoints/tiny/flap-s50/recon_block/seed0"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert any(layer.mlp.down_proj.bias.abs().sum() > 0 for layer in model.model.layers)


# --- Adaptations


def test_drift_is_measured_of_every_pruned_cell(wide):
    found = record(wide, "recon_matrix")
    metrics = found["metrics"]["drift"]
    assert len(metrics["drift"]["accumulated"]) == len(metrics["drift"]["local"]) == 4
    assert metrics["drift"]["local"][0] == metrics["drift"]["accumulated"][0]
    assert found["spec"]["evaluation"]["drift"] == {"samples": 2}
    assert found["spec"]["selection"] == {"samples": 4}
    # All cells are measured on the same tokens.
    tokens = {record(wide, name)["metrics"]["drift"]["token_ids_sha256"] for name in ADAPTATIONS}
    assert tokens == {metrics["token_ids_sha256"]}
    dense = record(wide, "recon_auto")["metrics"]["drift"]["dense"]
    assert dense == metrics["dense"] and dense["loss"] != metrics["loss"]
    folder = wide.path / "results" / "smoke"
    assert (folder / "figures" / "windows.png").stat().st_size > 10_000
    assert "held out" in (folder / "tables" / "summary.md").read_text()


def test_what_an_adaptation_saw_and_trained_is_recorded(wide):
    """In the same units for retraining and reconstruction."""
    records = {name: record(wide, name) for name in [*ADAPTATIONS, "recon_block"]}
    found = {name: each["adaptation"] for name, each in records.items()}
    assert {name: (facts["window"], facts["windows"]) for name, facts in found.items()} == {
        "recon_matrix": ("matrix", 28),
        "recon_auto": ("all", 1),
        "recon_sparse": (1, 4),
        "searched": ("model", 1),
        "as_the_paper": (1, 4),
        "recon_block": (1, 4),
    }
    assert next(iter(found["recon_matrix"]["losses"])) == "0.mlp.down_proj"
    retrained, local = found["searched"], found["recon_block"]
    # A budget of four times the 8 sequences of 32 tokens, in two epochs.
    assert (local["samples"], retrained["samples"]) == (8, 16)
    assert records["searched"]["cost"]["retrain_model"]["tokens"] == 4 * 8 * 32
    assert records["recon_block"]["cost"]["reconstruct_window"]["tokens"] == 8 * 32
    assert (local["steps"], retrained["steps"]) == (4, 16)
    assert local["distinct_tokens"] <= 8 * 32 < retrained["distinct_tokens"] <= 16 * 32
    assert 0 < retrained["trained_parameters"] < local["trained_parameters"]
    assert len(retrained["training_losses"]) == 16
    assert "extend_calibration" in records["searched"]["cost"]
    root = wide.path / "results" / "smoke"
    with (root / "figures" / "budgets.csv").open() as file:
        assert "masklora, distilled" in {row["series"] for row in csv.DictReader(file)}
    assert (root / "figures" / "budgets.png").stat().st_size > 10_000


def test_the_best_candidate_is_the_result(wide):
    facts = record(wide, "searched")
    choice, cost = facts["adaptation"]["choice"], facts["cost"]
    assert choice["selected_on"] == "calibration" and len(choice["candidates"]) == 2
    best = min(choice["candidates"], key=lambda name: choice["candidates"][name]["perplexity"])
    assert choice["chosen"] == best
    chosen = choice["candidates"][best]
    assert f"lr{chosen['learning_rate']}.epochs{chosen['epochs']}" in best
    # What the dense model passed, so that there is something to learn from, is counted beside it.
    assert 0 < cost["retrain_model"]["dense_flops"] < cost["retrain_model"]["flops"]
    # The search is the other one, and measuring both.
    assert cost["search"]["flops"] > cost["retrain_model"]["flops"]
    assert cost["search"]["jobs"] == 1 + 2
    assert facts["spec"]["adaptation"]["learning_rate"] == SEARCHED["learning_rate"]


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
    lines = [
        line for line in summary.splitlines() if line.startswith("| ") and "as_the_paper" in line
    ]
    assert lines and all("chosen on the evaluation text" in line for line in lines)
    with (tables / "summary.csv").open() as file:
        selected = {row["adaptation"]: row["selected_on"] for row in csv.DictReader(file)}
    assert (selected["as_the_paper"], selected["searched"]) == ("evaluation", "calibration")


# --- Zero-shot tasks


def test_all_cells_that_a_grid_asks_answer_the_same_documents(wide):
    assert "tasks" not in record(wide, "none", "alps_owl-u50")["metrics"]
    assert "tasks" not in record(wide, "none", "alps_owl-u50")["spec"]["evaluation"]
    found = [
        record(wide, adaptation, pruning)["metrics"]["tasks"]["tasks"]
        for pruning, adaptation in ASKED
    ]
    for task in ("arc_easy", "openbookqa"):
        counts = {(each[task]["documents"], each[task]["documents_in_all"]) for each in found}
        assert counts == {(3, 5)}
        for key in ("sample_sha256", "prompts_sha256", "task"):
            assert len({each[task][key] for each in found}) == 1
    folder = wide.path / "results" / "smoke" / "tables"
    rows = list(csv.DictReader((folder / "tasks.csv").open()))
    assert len(rows) == 3 * 3
    assert "Zero-shot accuracy" in (folder / "summary.md").read_text()


def test_answers_are_beside_the_record_and_add_up(wide):
    found = record(wide, "recon_block")
    name = "results/smoke/records/tiny__wanda-u50__recon_block__seed0.answers.json.gz"
    answers = json.loads(gzip.decompress((wide.path / name).read_bytes()))
    assert answers.keys() == {"arc_easy", "openbookqa"}
    for task, of_task in answers.items():
        for answer in of_task:
            _, texts, key = QUESTIONS[answer["document"]]
            values = answer["log_likelihoods"]
            assert len(values) == len(texts)
            assert answer["right"] == (values.index(max(values)) == "ABCD".index(key))
        accuracy = sum(answer["right"] for answer in of_task) / len(of_task)
        assert found["metrics"]["tasks"]["tasks"][task]["accuracy"] == pytest.approx(accuracy)
    assert found["provenance"]["environments"]["evaluate_cell"]["packages"]["lm-eval"]


# --- What an edit runs again


def stamps(study) -> dict:
    shards = study.path / CELL.format("checkpoints", "none")
    paths = [*(study.path / "results/smoke/metrics").rglob("*.*"), *shards.glob("block-*")]
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def test_another_sample_of_tasks_asks_again_and_measures_nothing_else(wide, tmp_path):
    study = wide.copy(tmp_path / "study")
    study.edit("config.yaml", "limit: 3", "limit: 4")
    planned = study.planned()
    assert "prune_model" not in planned and "fetch_tasks" not in planned
    before = stamps(study)
    # The dense model's come with it.
    study.run(f"{CELL.format('metrics', 'none')}/manifest.json")
    again = [path.name for path, at in stamps(study).items() if before.get(path) != at]
    beside = {"manifest.json", "run.json", "kept.json", ".seed0.checked"}
    assert set(again) - beside == {"tasks.json", "answers.json.gz"}
    assert again.count("tasks.json") == 2


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


def test_another_grid_or_formula_trains_again_only_what_it_decides_otherwise(wide, tmp_path):
    study = wide.copy(tmp_path / "study")
    path = study.path / "config.yaml"
    before = path.read_text()
    config = yaml.safe_load(before)
    config["adaptations"]["searched"]["learning_rate"] = [1.0e-3, 1.0e-2]
    path.write_text(yaml.safe_dump(config))
    planned = study.planned()
    assert "reconstruct_window" not in planned and "extend_calibration" not in planned
    # The new candidate, and the cell, if another is chosen.
    names = ("retrain_model", "evaluate_cell", "choose_candidate", "collect_records")
    assert [planned[name] for name in names] == [1, 2, 1, 1]
    path.write_text(before)
    costs = "workflow/scripts/freelunch/costs/window_costs.py"
    study.edit(costs, "BESIDE_BYTES = 80_000_000", "BESIDE_BYTES = 81_000_000")
    computing = {"reconstruct_window", "retrain_model", "evaluate_cell", "prune_model"}
    assert not computing & study.planned().keys()
    # With this much beside, no window but the least fits into the budget.
    study.edit(costs, "BESIDE_BYTES = 81_000_000", "BESIDE_BYTES = 3_614_500_000")
    assert study.planned()["reconstruct_window"] == 1


def candidates(study) -> set[str]:
    """Return the candidates whose adapted blocks or checkpoints are on disk."""
    root = study.path / "results" / "smoke"
    found = [*root.glob("windows/*/*/*.lr*/seed0"), *root.glob("checkpoints/*/*/*.lr*/seed0")]
    return {path.parent.name for path in found}


def test_tidying_removes_the_candidates_of_finished_cells(wide, tmp_path):
    study = wide.copy(tmp_path / "study")
    (study.path / "results/smoke/records/tiny__wanda-u50__as_the_paper__seed0.json").unlink()
    there = candidates(study)
    assert " of 2 candidate(s)" in study.make("tidy").stdout
    assert candidates(study) == {name for name in there if name.startswith("as_the_paper")}
    # The rest of the study goes on, and nothing else runs again.
    assert study.planned().keys() == {"collect_records", *SHOWN}
    # The candidates of a search that goes on stay.
    study.edit("config.yaml", "- 10.0", "- 10.0\n    - 0.001")
    study.make("tidy")
    assert len(candidates(study)) == 2 and study.planned()["reconstruct_window"] == 1
    study.edit("config.yaml", "- 10.0\n    - 0.001", "- 10.0")
    study.run()
    assert " of 2 candidate(s)" in study.make("tidy").stdout
    assert not candidates(study)
    study.make("verify")
    assert study.planned() == {}
