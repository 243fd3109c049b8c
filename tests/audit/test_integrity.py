"""Records that somebody altered are refused, also by somebody who knows of their digests."""

import json
import math

import pytest

from freelunch.audit.audit import audit_study
from freelunch.audit.integrity import check_records
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.digest import file_digest, sealed
from freelunch.evaluation.tasks import answers_bytes
from freelunch.records.read import answers_beside
from freelunch.study.cell import Cell
from freelunch.study.steps import METRICS
from records_for_tests import PERPLEXITIES, make_records, recorded_study
from refusals import refused

RECORD = Cell.parse("tiny/wanda-u50/recon_block/seed0")
ANSWERS = {"rte": [{"right": True}, {"right": False}], "boolq": [{"right": True}]}


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return recorded_study()


@pytest.fixture
def record(study):
    """A record with all that can be measured; its answers are in the folder of the records."""
    record = make_records(study, PERPLEXITIES)[RECORD]
    answers = answers_beside(study.paths.record(RECORD))
    answers.write_bytes(answers_bytes(ANSWERS))
    record["metrics"] |= {
        "drift": {"loss": 3.0, "perplexity": math.exp(3.0), "window_losses": [2.0, 4.0]},
        "tasks": {
            "tasks": {"rte": {"accuracy": 0.5}, "boolq": {"accuracy": 1.0}},
            "accuracy": 0.75,
            "answers_sha256": file_digest(answers),
        },
    }
    return record


def check(study, record):
    check_records(study, {RECORD: sealed(record)}, study.paths.records)


def test_an_audit_of_sound_records(study):
    audit = audit_study(study)
    json.dumps(audit.as_json(), allow_nan=False)
    assert {claim.id for claim in audit.claims} >= {"C1", "C2", "C3", "C4"}
    assert {step.step for step in audit.costs} >= {"prune_model", "reconstruct_window"}
    assert audit_study(study) == audit


@pytest.mark.parametrize(
    ("key", "place", "value"),
    [
        ("metrics.perplexity.perplexity", "metrics.perplexity.perplexity", 38.0),
        ("metrics.perplexity.loss", "metrics.perplexity.window_losses.3", 1.0),
        # By a millionth.
        ("metrics.drift.loss", "metrics.drift.loss", 3.000003),
        ("identity.sparsity", "identity.sparsity", 0.4),
        ("identity.zeros", "identity.zeros", 3),
        ("identity.weights", "identity.weights", 3),
        ("fingerprint", "fingerprint", "0" * 64),
        ("cell", "cell", "tiny/wanda-u50/none/seed0"),
        ("metrics.tasks.tasks.rte", "metrics.tasks.tasks.rte.accuracy", 0.75),
        ("metrics.tasks.accuracy", "metrics.tasks.accuracy", 0.7),
        ("answers", "metrics.tasks.tasks.other", {"accuracy": 0.5}),
    ],
)
def test_an_altered_record_is_refused_by_the_key_that_contradicts_others(
    study, record, key, place, value
):
    check(study, record)
    *keys, last = place.split(".")
    entry = record
    for name in keys:
        entry = entry[name]
    entry[int(last) if isinstance(entry, list) else last] = value
    with refused(where=f"{RECORD.record_name}: {key}", todo="make repair"):
        check(study, record)


def test_answers_that_were_swapped_are_refused(study, record):
    """The accuracy stays what it was; differences from document to document do not."""
    swapped = ANSWERS | {"rte": ANSWERS["rte"][::-1]}
    answers_beside(study.paths.record(RECORD)).write_bytes(answers_bytes(swapped))
    with refused(where="answers_sha256"):
        check(study, record)


@pytest.mark.parametrize(
    ("metric", "key", "value"),
    [
        ("perplexity", "token_ids_sha256", "0" * 64),
        ("drift", "window_losses", [2.5, 3.5]),
    ],
)
def test_a_record_that_is_not_what_was_measured_is_refused(study, record, metric, key, value):
    """All of its numbers agree with each other, but not with the files of the evaluation."""
    for changes in ({}, {key: value}):
        writer = ArtifactWriter(study.paths.metrics(RECORD), METRICS, "fingerprint")
        for name, content in record["metrics"].items():
            own = changes if name == metric else {}
            writer.add_text(f"{name}.json", json.dumps({**content, **own}))
        writer.finish()
        if not changes:
            check(study, record)
    with refused(where=f"metrics.{metric}.{key}", expected=value):
        check(study, record)
