"""Records as Every Eval Ever files: what they say, and that the format's validator takes them."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from freelunch.audit.every_eval_ever import evaluation_texts
from freelunch.core.files import write_atomically
from freelunch.reporting.derived import audit_files, evaluation_name, hub_name
from freelunch.reporting.whole import files_of_others
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import PERPLEXITIES, make_records, make_study
from repository import ROOT

DENSE, ADAPTED = Cell.parse("tiny/dense/none/seed0"), Cell.parse("tiny/wanda-u50/recon_block/seed0")
HUB = {"source": "hub", "repository": "someone/something", "revision": "b" * 40}
TASK = {
    "accuracy": 0.5,
    "accuracy_standard_error": 0.09,
    "documents": 30,
    "documents_in_all": 3270,
    "version": 2.0,
    "prompts_sha256": "3" * 64,
    "sample_sha256": "4" * 64,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def all_measured() -> tuple[Study, dict[Cell, dict[str, Any]]]:
    """Return a study with a cell that everything was measured on, and one that is not finite."""
    study = make_study()
    broken = "tiny/magnitude-u50/none/seed0"
    records = make_records(study, {**PERPLEXITIES, broken: None})
    record = records[ADAPTED]
    task = {**HUB, "member": "x.jsonl", "format": "jsonl", "documents": 3270}
    record["spec"]["evaluation"]["tasks"] = {"limit": 30, "seed": 0, "tasks": {"boolq": task}}
    record["metrics"]["tasks"] = {"tasks": {"boolq": TASK}}
    held_out = {**record["metrics"]["perplexity"], "perplexity": 48.0, "windows": 4, "length": 256}
    record["metrics"]["drift"] = held_out
    record["provenance"]["environments"]["evaluate_cell"] = {
        "commit": "a" * 40,
        "uncommitted_changes": True,
        "packages": {"torch": "2.13.0+cpu", "lm-eval": "0.4.13", "datasets": None},
    }
    return study, records


def file_of(study: Study, records: dict[Cell, dict[str, Any]], cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        evaluation_texts(study, records)[evaluation_name(study, cell)]
    )
    return found


def by_id(file: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {each["evaluation_result_id"]: each for each in file["evaluation_results"]}


def test_each_cell_has_a_file_where_the_format_looks_for_it() -> None:
    study = make_study()
    names = [evaluation_name(study, cell) for cell in study.cells]
    assert [*evaluation_texts(study, make_records(study, {}))] == names
    assert len(set(names)) == len(study.cells) and set(names) < {*audit_files(study)}
    uuid = "[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
    for cell, name in zip(study.cells, names, strict=True):
        folder, _, file = name.rpartition("/")
        assert folder.endswith(f"/data/free-lunch-in-llm-compression/{hub_name(study, cell)}")
        assert re.fullmatch(rf"{uuid}\.json", file)


def test_scores_and_errors_are_those_of_the_record() -> None:
    study, records = all_measured()
    found, metrics = by_id(file_of(study, records, ADAPTED)), records[ADAPTED]["metrics"]
    assert {*found} == {"perplexity", "held_out_perplexity", "accuracy_boolq"}
    for name, value, error, amount in (
        ("perplexity", *_values(metrics["perplexity"]), 32),
        ("held_out_perplexity", *_values(metrics["drift"]), 4),
        ("accuracy_boolq", 0.5, 0.09, 30),
    ):
        details = found[name]["score_details"]
        assert details["score"] == value
        assert details["uncertainty"]["standard_error"]["value"] == error
        assert details["uncertainty"]["num_samples"] == amount
    assert [each["metric_config"]["lower_is_better"] for each in found.values()] == [1, 1, 0]
    assert found["held_out_perplexity"]["source_data"]["dataset_name"] == "calibration-text"
    assert found["accuracy_boolq"]["source_data"]["hf_repo"] == "someone/something"


def _values(found: dict[str, Any]) -> tuple[float, float]:
    return found["perplexity"], found["perplexity_standard_error"]


def test_what_was_done_to_the_model_and_by_which_program() -> None:
    study, records = all_measured()
    file, record = file_of(study, records, ADAPTED), records[ADAPTED]
    details = file["model_info"]["additional_details"]
    assert (details["pruning_criterion"], details["pruning_pattern"]) == ("wanda", "u50")
    assert json.loads(details["adaptation_settings"]) == record["spec"]["adaptation"]
    assert details["base_model_member"] == "tiny.gguf"
    assert file["eval_library"]["version"] == f"{'a' * 40}-dirty"
    assert file["eval_library"]["additional_details"]["lm-eval"] == "0.4.13"
    assert "datasets" not in file["eval_library"]["additional_details"]
    assert "tasks" in file["eval_library"]["additional_details"]
    assert not file_of(study, records, DENSE)["eval_library"]["additional_details"]
    said = file["source_metadata"]["additional_details"]
    assert (said["record_sha256"], said["cell"]) == (record["sha256"], str(ADAPTED))
    relationships = [
        file_of(study, records, cell)["source_metadata"]["evaluator_relationship"]
        for cell in (DENSE, ADAPTED)
    ]
    assert relationships == ["third_party", "first_party"]


def test_a_dense_model_of_the_hub_has_its_own_name_and_a_pruned_one_another() -> None:
    config = make_study().as_json()
    config["models"]["tiny"] = HUB
    study = Study.check(config, "made-up.yaml")
    assert hub_name(study, DENSE) == "someone/something"
    assert hub_name(study, ADAPTED) == "freelunch/tiny__wanda-u50__recon_block__seed0"


def test_the_only_time_is_the_records() -> None:
    study, records = all_measured()
    file = file_of(study, records, ADAPTED)
    # 2026-09-21T14:13:20 UTC
    assert file["retrieved_timestamp"] == file["evaluation_timestamp"] == "1790000000"
    assert evaluation_texts(study, records) == evaluation_texts(study, records)
    records[ADAPTED]["provenance"]["finished"] = {}
    assert file_of(study, records, ADAPTED)["retrieved_timestamp"] == "unknown"


def test_a_perplexity_that_is_not_finite_is_named_and_no_score() -> None:
    study, records = all_measured()
    file = file_of(study, records, Cell.parse("tiny/magnitude-u50/none/seed0"))
    assert file["evaluation_results"] == []
    said = file["source_metadata"]["additional_details"]
    assert said["not_finite"] == "perplexity on evaluation-text"


def test_no_place_on_a_machine_is_told(tmp_path: Path) -> None:
    own = tmp_path / "mine.txt"
    own.write_text("a text")
    config = make_study().as_json()
    config["texts"]["evaluation-text"] = {"source": "path", "path": str(own), "format": "plain"}
    study = Study.check(config, "made-up.yaml")
    file = file_of(study, make_records(study, {}), ADAPTED)
    source = by_id(file)["perplexity"]["source_data"]
    assert (source["source_type"], source["additional_details"]["file"]) == ("other", "mine.txt")
    assert str(tmp_path) not in json.dumps(file)


def written(study: Study, records: dict[Cell, dict[str, Any]]) -> Path:
    for name, text in evaluation_texts(study, records).items():
        write_atomically(study.paths.root / name, text)
    return study.paths.root


def test_a_file_of_a_cell_that_the_study_no_longer_has_is_told() -> None:
    study = make_study()
    written(study, make_records(study, {}))
    assert not files_of_others(study)
    smaller = make_study(criteria=["wanda"])
    gone = [cell for cell in study.cells if cell not in smaller.cells]
    assert {*files_of_others(smaller)} == {evaluation_name(study, cell) for cell in gone}


@pytest.mark.skipif(
    not (ROOT / ".venv-validators" / ".ready").is_file(),
    reason="no every-eval-ever: make .venv-validators/.ready installs it",
)
def test_the_formats_validator_takes_every_file_and_refuses_a_broken_one() -> None:
    study, records = all_measured()
    root = written(study, records).absolute()
    python = ROOT / ".venv-validators" / "bin" / "python"
    command = [python, ROOT / "tests" / "exports" / "check_evaluations.py", root]
    valid = subprocess.run(command, capture_output=True, text=True, check=False)
    assert valid.returncode == 0, valid.stdout + valid.stderr
    assert "5 Every Eval Ever files are valid" in valid.stdout
    path = root / evaluation_name(study, ADAPTED)
    path.write_text(path.read_text().replace('"score": 0.5', '"score": 1.5'))
    broken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert broken.returncode == 1 and "outside [min_score=0.0, max_score=1.0]" in broken.stdout
