"""Zero-shot tasks through the workflow: who is asked, what is recorded, what is refused."""

import csv
import gzip
import json

import pytest
import yaml

QUESTIONS = [
    ("Which of these is frozen water", ["ice", "steam", "sand"], "A"),
    ("Which of these shines by day", ["the moon", "the sun"], "B"),
    ("How many legs has a dog", ["two", "three", "four", "six"], "C"),
    ("Who writes the laws", ["Congress", "the army"], "A"),
    ("What is bread made of", ["iron", "flour", "wool", "glass"], "B"),
]
RECORD = "tiny__{}__{}__seed0.json"


def ask(study, limit: int | None) -> None:
    """Let the smoke study ask some questions of ours as if they were arc_easy and openbookqa."""
    config = yaml.safe_load((study.path / "config.yaml").read_text())
    config["tasks"] = {}
    for task, field in (("arc_easy", "question"), ("openbookqa", "question_stem")):
        path = study.path / f"{task}.jsonl"
        documents = [
            {
                field: question,
                "choices": {"text": texts, "label": "ABCD"[: len(texts)]},
                "answerKey": key,
            }
            for question, texts, key in QUESTIONS
        ]
        for document in documents:
            document["choices"]["label"] = list(document["choices"]["label"])
        path.write_text("".join(json.dumps(document) + "\n" for document in documents))
        entry = {
            "source": "path",
            "path": path.name,
            "format": "jsonl",
            "documents": len(QUESTIONS),
        }
        config["tasks"][task] = entry
    config["study"]["evaluation"]["tasks"] = {"names": [*config["tasks"]], "limit": limit}
    grid = config["study"]["grids"][0]
    config["study"]["grids"].append({**grid, "criteria": ["wanda"], "tasks": True})
    (study.path / "config.yaml").write_text(yaml.safe_dump(config))


def stamps(folder, pattern: str) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob(pattern) if path.is_file()}


def record(study, pruning: str, adaptation: str) -> dict:
    path = study.path / "results" / "smoke" / "records" / RECORD.format(pruning, adaptation)
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def asked(finished, tmp_path_factory):
    study = finished.copy(tmp_path_factory.mktemp("tasks") / "study").warm()
    ask(study, limit=3)
    study.planned_first = study.planned()
    study.run()
    return study


def test_only_what_a_grid_asks_is_asked_and_nothing_else_runs_again(asked):
    drawn = ("draw_figure", "audit_study", "all", "total")
    assert {rule: n for rule, n in asked.planned_first.items() if rule not in drawn} == {
        "fetch_tasks": 1,
        # The dense model's is run again, and so are those that wait for it; they measure nothing.
        "evaluate_cell": 5,
        "collect_records": 5,
        "build_tables": 1,
    }
    assert asked.planned() == {}
    assert "tasks" not in record(asked, "magnitude-u50", "none")["metrics"]
    assert "tasks" not in record(asked, "magnitude-u50", "none")["spec"]["evaluation"]


def test_all_cells_are_asked_the_same_documents(asked):
    found = [
        record(asked, *cell)["metrics"]["tasks"]["tasks"]
        for cell in (("dense", "none"), ("wanda-u50", "none"), ("wanda-u50", "recon_block"))
    ]
    for task in ("arc_easy", "openbookqa"):
        assert {each[task]["documents"] for each in found} == {3}
        assert {each[task]["documents_in_all"] for each in found} == {5}
        for key in ("sample_sha256", "prompts_sha256", "task"):
            assert len({each[task][key] for each in found}) == 1


def test_answers_are_beside_the_record_and_add_up(asked):
    found = record(asked, "wanda-u50", "recon_block")
    path = asked.path / "results" / "smoke" / "records" / RECORD.format("wanda-u50", "recon_block")
    answers = json.loads(gzip.decompress(path.with_suffix(".answers.json.gz").read_bytes()))
    assert answers.keys() == {"arc_easy", "openbookqa"}
    accuracies = []
    for task, of_task in answers.items():
        places = [answer["document"] for answer in of_task]
        assert places == sorted(set(places)) and set(places) <= set(range(5))
        for answer in of_task:
            _, texts, key = QUESTIONS[answer["document"]]
            values = answer["log_likelihoods"]
            assert len(values) == len(texts)
            assert answer["right"] == (values.index(max(values)) == "ABCD".index(key))
        accuracies.append(sum(answer["right"] for answer in of_task) / len(of_task))
        metrics = found["metrics"]["tasks"]["tasks"][task]
        assert metrics["accuracy"] == pytest.approx(accuracies[-1])
    assert found["metrics"]["tasks"]["accuracy"] == pytest.approx(sum(accuracies) / 2)
    assert found["cost"]["evaluate_cell"]["flops"] > 0
    assert found["provenance"]["environments"]["evaluate_cell"]["packages"]["lm-eval"]


def test_tables_compare_document_by_document(asked):
    folder = asked.path / "results" / "smoke" / "tables"
    rows = list(csv.DictReader((folder / "tasks.csv").open()))
    assert len(rows) == 3 * 3
    dense, pruned, adapted = [row for row in rows if row["task"] == "mean"]
    assert dense["accuracy_minus_dense"] == pruned["accuracy_minus_unadapted"] == ""
    for row in (pruned, adapted):
        difference = float(row["accuracy"]) - float(dense["accuracy"])
        assert float(row["accuracy_minus_dense"]) == pytest.approx(difference)
    assert "Zero-shot accuracy" in (folder / "summary.md").read_text()


def test_another_sample_asks_again_and_prunes_nothing(asked, tmp_path):
    study = asked.copy(tmp_path / "study")
    study.edit("config.yaml", "limit: 3", "limit: 4")
    planned = study.planned()
    assert planned["evaluate_cell"] == 5
    assert "prune_model" not in planned and "fetch_tasks" not in planned
    results = study.path / "results" / "smoke"
    shards = results / "checkpoints" / "tiny" / "wanda-u50" / "none" / "seed0"
    before = stamps(results / "metrics", "*") | stamps(shards, "block-*")
    # The dense model's come with it.
    study.run("results/smoke/metrics/tiny/wanda-u50/none/seed0/manifest.json")
    after = stamps(results / "metrics", "*") | stamps(shards, "block-*")
    again = {path for path in after if after[path] != before.get(path)}
    beside = {"manifest.json", "run.json", "kept.json", ".seed0.checked"}
    measured = {path.name for path in again} - beside
    assert measured == {"tasks.json", "answers.json.gz"}
    assert sum(path.name == "tasks.json" for path in again) == 2
