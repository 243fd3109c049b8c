"""Records that somebody altered are refused."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from freelunch.audit.audit import audit_study
from freelunch.audit.integrity import check_records
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.digest import file_digest, sealed
from freelunch.core.errors import UserError
from freelunch.core.files import write_json
from freelunch.evaluation.tasks import answers_bytes
from freelunch.records.read import answers_beside
from freelunch.study.cell import Cell
from freelunch.study.steps import METRICS
from freelunch.study.study import Study
from records_for_tests import (
    CONFIG,
    PERPLEXITIES,
    make_records,
    make_study,
    recorded_study,
)

RECORD = Cell.parse("tiny/wanda-u50/recon_block/seed0")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    return recorded_study()


def altered(study: Study, change: Callable[[dict[str, Any]], object], again: bool) -> None:
    """Alter a record; `again`: by somebody who knows of its digest."""
    path = study.paths.record(RECORD)
    record = json.loads(path.read_text())
    change(record)
    write_json(path, sealed(record) if again else record)


def test_an_audit_of_sound_records(study: Study) -> None:
    audit = audit_study(study)
    json.dumps(audit.as_json(), allow_nan=False)
    assert audit.study == "made-up"
    assert {claim.id for claim in audit.claims} >= {"C1", "C2", "C3", "C4"}
    assert {step.step for step in audit.costs} >= {"prune_model", "reconstruct_window"}
    assert audit_study(study) == audit


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda it: it["metrics"]["perplexity"].update(perplexity=38.0), "perplexity.perplexity"),
        (lambda it: it["metrics"]["perplexity"].update(loss=3.0), "perplexity.loss"),
        (
            lambda it: it["metrics"]["perplexity"]["window_losses"].__setitem__(3, 1.0),
            "perplexity.loss",
        ),
        (lambda it: it["identity"].update(sparsity=0.4), "identity.sparsity"),
        (lambda it: it["identity"].update(zeros=3), "identity.zeros"),
        (lambda it: it["identity"].update(weights=3), "identity.weights"),
        (lambda it: it.update(fingerprint="0" * 64), "fingerprint"),
    ],
)
def test_an_altered_record_is_refused(
    study: Study, change: Callable[[dict[str, Any]], object], key: str
) -> None:
    altered(study, change, again=True)
    with pytest.raises(UserError, match="contradicts itself") as error:
        audit_study(study)
    assert key in str(error.value) and RECORD.record_name in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it["identity"].update(parameters=7 * 10**10),
        lambda it: it["cost"]["reconstruct_window"].update(tokens=1),
        lambda it: it["metrics"]["perplexity"].update(byte_perplexity=1.0),
    ],
)
def test_whatever_is_altered_is_seen(
    study: Study, change: Callable[[dict[str, Any]], object]
) -> None:
    altered(study, change, again=False)
    with pytest.raises(UserError, match="a record is damaged or was altered") as error:
        audit_study(study)
    assert RECORD.record_name in str(error.value)


def test_a_record_that_is_not_what_was_measured_is_refused(study: Study) -> None:
    """All of its numbers agree with each other, but not with the file of the evaluation."""
    measured = json.loads(study.paths.record(RECORD).read_text())["metrics"]["perplexity"]
    folder = study.paths.metrics(RECORD)

    def measure(content: dict[str, Any]) -> None:
        writer = ArtifactWriter(folder, METRICS, "fingerprint")
        writer.add_text("perplexity.json", json.dumps(content))
        writer.finish()

    measure(measured)
    audit_study(study)
    measure(measured | {"token_ids_sha256": "0" * 64})
    with pytest.raises(UserError, match="contradicts itself"):
        audit_study(study)


def test_a_record_whose_held_out_losses_differ_from_the_measured_is_refused(study: Study) -> None:
    path = study.paths.record(RECORD)
    record = json.loads(path.read_text())
    drift = {"loss": 3.0, "perplexity": math.exp(3.0), "window_losses": [2.0, 4.0]}
    record["metrics"]["drift"] = drift
    write_json(path, sealed(record))
    writer = ArtifactWriter(study.paths.metrics(RECORD), METRICS, "fingerprint")
    writer.add_text("perplexity.json", json.dumps(record["metrics"]["perplexity"]))
    writer.add_text("drift.json", json.dumps(drift | {"window_losses": [2.5, 3.5]}))
    writer.finish()
    with pytest.raises(UserError, match="contradicts itself") as error:
        check_records(study, {RECORD: json.loads(path.read_text())}, path.parent)
    assert "metrics.drift.window_losses" in str(error.value)


def test_a_record_of_another_cell_is_refused(study: Study) -> None:
    other = study.paths.record(Cell.parse("tiny/magnitude-u50/recon_block/seed0"))
    study.paths.record(RECORD).write_bytes(other.read_bytes())
    with pytest.raises(UserError, match="the record of another cell") as error:
        audit_study(study)
    assert "tiny/magnitude-u50/recon_block/seed0" in str(error.value)


def test_a_record_of_another_spec_is_refused(study: Study) -> None:
    config = copy.deepcopy(CONFIG)
    config["study"]["calibration"]["samples"] = 64
    with pytest.raises(UserError, match="other settings") as error:
        audit_study(Study.check(config, "made-up.yaml"))
    assert "calibration.samples" in str(error.value)


def test_an_empty_folder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="a record is missing") as error:
        audit_study(make_study())
    assert "make study" in str(error.value)


def accuracy_of_tasks(answers: Path, tasks: dict[str, float], **others: float) -> dict[str, Any]:
    """Return the metrics of tasks with these accuracies, whose answers are in a file."""
    return {
        "tasks": {task: {"accuracy": accuracy} for task, accuracy in tasks.items()},
        "accuracy": fmean(tasks.values()),
        "answers_sha256": file_digest(answers),
        **others,
    }


@pytest.mark.parametrize(
    ("tasks", "others", "key"),
    [
        ({"rte": 0.5, "boolq": 1.0}, {}, None),
        ({"rte": 0.75, "boolq": 1.0}, {}, "metrics.tasks.tasks.rte"),
        ({"rte": 0.5, "boolq": 1.0}, {"accuracy": 0.7}, "metrics.tasks.accuracy"),
        ({"rte": 0.5}, {}, "answers"),
    ],
)
def test_accuracies_follow_from_the_answers(
    tasks: dict[str, float], others: dict[str, float], key: str | None, tmp_path: Path
) -> None:
    study = make_study(adaptations=["none"], criteria=["wanda"])
    records = make_records(study, PERPLEXITIES)
    cell = [*records][1]
    answers = answers_beside(tmp_path / cell.record_name)
    right = {"rte": [{"right": True}, {"right": False}], "boolq": [{"right": True}]}
    answers.write_bytes(answers_bytes(right))
    records[cell]["metrics"]["tasks"] = accuracy_of_tasks(answers, tasks, **others)
    records = {cell: sealed(it) for cell, it in records.items()}
    if key is None:
        check_records(study, records, tmp_path)
        return
    with pytest.raises(UserError, match=f"{key}: a record contradicts itself"):
        check_records(study, records, tmp_path)


def test_answers_that_were_swapped_are_seen(tmp_path: Path) -> None:
    """The accuracy stays what it was; differences from document to document do not."""
    study = make_study()
    records = make_records(study, PERPLEXITIES)
    cell = Cell.parse("tiny/wanda-u50/none/seed0")
    answers = answers_beside(tmp_path / cell.record_name)
    answers.write_bytes(answers_bytes({"rte": [{"right": True}, {"right": False}]}))
    records[cell]["metrics"]["tasks"] = accuracy_of_tasks(answers, {"rte": 0.5})
    records[cell] = sealed(records[cell])
    check_records(study, records, tmp_path)
    for other in ([{"right": False}, {"right": True}], [{"right": True}]):
        answers.write_bytes(answers_bytes({"rte": other}))
        with pytest.raises(UserError, match="contradicts itself") as error:
            check_records(study, records, tmp_path)
        assert "answers_sha256" in str(error.value)


@pytest.mark.parametrize("metric", ["perplexity", "drift"])
def test_losses_that_contradict_each_other_are_refused(metric: str, tmp_path: Path) -> None:
    """By a millionth, and without the file of the evaluation."""
    study = make_study(adaptations=["none"], criteria=["wanda"])
    records = make_records(study, PERPLEXITIES)
    record = [*records.values()][1]
    record["metrics"]["drift"] = {
        "loss": 3.0,
        "perplexity": math.exp(3.0),
        "window_losses": [2.0, 4.0],
    }
    records = {cell: sealed(it) for cell, it in records.items()}
    check_records(study, records, tmp_path)
    record["metrics"][metric]["loss"] *= 1 + 1e-6
    records = {cell: sealed(it) for cell, it in {**records, [*records][1]: record}.items()}
    with pytest.raises(UserError, match=f"metrics.{metric}.loss"):
        check_records(study, records, tmp_path)
