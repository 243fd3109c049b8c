"""Records that somebody altered are refused."""

import json
import math
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from freelunch.audit.audit import audit_study
from freelunch.audit.integrity import check_records
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.digest import file_digest, sealed
from freelunch.core.files import write_json
from freelunch.evaluation.tasks import answers_bytes
from freelunch.records.read import answers_beside
from freelunch.study.cell import Cell
from freelunch.study.steps import METRICS
from freelunch.study.study import Study
from records_for_tests import PERPLEXITIES, make_records, make_study, recorded_study
from refusals import refused

RECORD = Cell.parse("tiny/wanda-u50/recon_block/seed0")
DRIFT = {"loss": 3.0, "perplexity": math.exp(3.0), "window_losses": [2.0, 4.0]}
Record = dict[str, Any]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return recorded_study()


def altered(study, change, again):
    """Alter a record; `again`: by somebody who knows of its digest."""
    path = study.paths.record(RECORD)
    record = json.loads(path.read_text())
    change(record)
    record = sealed(record) if again else record
    write_json(path, record)
    return record


def test_an_audit_of_sound_records(study):
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
def test_an_altered_record_is_refused(study, change, key):
    """By the key that contradicts others, or by its digest."""
    altered(study, change, again=True)
    with refused(where=key, todo="make repair") as caught:
        audit_study(study)
    assert RECORD.record_name in str(caught.value.where)
    altered(study, change, again=False)
    with refused(where=RECORD.record_name, todo="make repair"):
        audit_study(study)


def test_a_record_that_is_not_what_was_measured_is_refused(study):
    """All of its numbers agree with each other, but not with the files of the evaluation."""
    record = altered(study, lambda it: it["metrics"].update(drift=DRIFT), again=True)

    def check_against(**measured):
        writer = ArtifactWriter(study.paths.metrics(RECORD), METRICS, "fingerprint")
        for name, content in {**record["metrics"], **measured}.items():
            writer.add_text(f"{name}.json", json.dumps(content))
        writer.finish()
        check_records(study, {RECORD: record}, study.paths.records)

    check_against()
    other = {**record["metrics"]["perplexity"], "token_ids_sha256": "0" * 64}
    with refused(where="metrics.perplexity.token_ids_sha256", expected="0" * 64):
        check_against(perplexity=other)
    with refused(where="metrics.drift.window_losses", expected=[2.5, 3.5]):
        check_against(drift={**DRIFT, "window_losses": [2.5, 3.5]})


def test_records_of_another_cell_or_spec_or_none_are_refused(study):
    config = study.as_json()
    config["study"]["calibration"]["samples"] = 64
    with refused(found="calibration.samples = 32", expected="calibration.samples = 64"):
        audit_study(Study.check(config, "made-up.yaml"))
    other = study.paths.record(Cell.parse("tiny/magnitude-u50/recon_block/seed0"))
    study.paths.record(RECORD).write_bytes(other.read_bytes())
    with refused(where=RECORD.record_name, found="magnitude", expected=RECORD):
        audit_study(study)
    with refused(where="nowhere", todo="make study"):
        audit_study(study, Path("nowhere"))


@pytest.mark.parametrize(
    ("tasks", "others", "key"),
    [
        ({"rte": 0.5, "boolq": 1.0}, {}, None),
        ({"rte": 0.75, "boolq": 1.0}, {}, "metrics.tasks.tasks.rte"),
        ({"rte": 0.5, "boolq": 1.0}, {"accuracy": 0.7}, "metrics.tasks.accuracy"),
        ({"rte": 0.5}, {}, "answers"),
    ],
)
def test_accuracies_follow_from_the_answers(tasks, others, key, tmp_path):
    study = make_study(adaptations=["none"], criteria=["wanda"])
    cell, record = [*make_records(study, PERPLEXITIES).items()][1]
    answers = answers_beside(tmp_path / cell.record_name)
    right = {"rte": [{"right": True}, {"right": False}], "boolq": [{"right": True}]}
    answers.write_bytes(answers_bytes(right))
    record["metrics"]["tasks"] = {
        "tasks": {task: {"accuracy": accuracy} for task, accuracy in tasks.items()},
        "accuracy": fmean(tasks.values()),
        "answers_sha256": file_digest(answers),
        **others,
    }
    records: Any = {cell: sealed(record)}
    if key:
        with refused(where=f"{cell.record_name}: {key}"):
            check_records(study, records, tmp_path)
        return
    check_records(study, records, tmp_path)
    # The accuracy stays what it was; differences from document to document do not.
    answers.write_bytes(answers_bytes(right | {"rte": right["rte"][::-1]}))
    with refused(where="answers_sha256"):
        check_records(study, records, tmp_path)


@pytest.mark.parametrize("metric", ["perplexity", "drift"])
def test_losses_that_contradict_each_other_are_refused(metric, tmp_path):
    """By a millionth, and without the file of the evaluation."""
    study = make_study(adaptations=["none"], criteria=["wanda"])
    cell, record = [*make_records(study, PERPLEXITIES).items()][1]
    record["metrics"]["drift"] = {**DRIFT}
    records: Any = {cell: sealed(record)}
    check_records(study, records, tmp_path)
    record["metrics"][metric]["loss"] *= 1 + 1e-6
    with refused(where=f"metrics.{metric}.loss"):
        check_records(study, {cell: sealed(record)}, tmp_path)
