"""Check that records agree with themselves and, where they still exist, with the measurements."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from freelunch.analysis.pairing import Records
from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.digest import content_digest, file_digest, json_digest
from freelunch.core.errors import UserError, mend
from freelunch.records.read import answers_beside, load_answers
from freelunch.records.record import Record
from freelunch.study.cell import Cell
from freelunch.study.steps import METRICS, metrics_file
from freelunch.study.study import Study

# The relative difference that rounding a sum may cause.
CLOSE = 1e-9


def check_records(study: Study, records: Records, folder: Path) -> None:
    """Refuse altered records: the numbers of a record must agree with each other.

    Raises:
        UserError: A record's numbers contradict each other, its answers, or the file that its step
            wrote.
    """
    for cell, record in records.items():
        for key, found, expected in _values(study, cell, record, folder):
            agree = found == expected
            if isinstance(found, float) and isinstance(expected, int | float):
                agree = math.isclose(found, expected, rel_tol=CLOSE)
            if not agree:
                raise UserError(
                    "a record contradicts itself: it was altered after it was collected",
                    where=f"{folder / cell.record_name}: {key}",
                    found=found,
                    expected=expected,
                    todo=mend(),
                )


def _values(
    study: Study, cell: Cell, record: Record, folder: Path
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what can be checked in a record: the key, the value found, the value that follows."""
    identity = record["identity"]
    metrics: Mapping[str, Any] = record["metrics"]
    yield "cell", record["cell"], str(cell)
    yield "sha256", record["sha256"], content_digest(record)
    yield "fingerprint", record["fingerprint"], json_digest(record["spec"])
    for name in ("perplexity", "drift"):
        measured = metrics.get(name, {"loss": None})
        if measured["loss"] is not None and None not in measured["window_losses"]:
            yield f"metrics.{name}.loss", measured["loss"], fmean(measured["window_losses"])
            if measured["perplexity"] is not None:
                expected = math.exp(measured["loss"])
                yield f"metrics.{name}.perplexity", measured["perplexity"], expected
    zeros = sum(counts["zeros"] for counts in identity["matrices"].values())
    weights = sum(counts["rows"] * counts["columns"] for counts in identity["matrices"].values())
    yield "identity.zeros", identity["zeros"], zeros
    yield "identity.weights", identity["weights"], weights
    yield "identity.sparsity", identity["sparsity"], zeros / weights
    if tasks := metrics.get("tasks"):
        answers = load_answers(folder / cell.record_name)
        digest = file_digest(answers_beside(folder / cell.record_name))
        yield "metrics.tasks.answers_sha256", digest, tasks["answers_sha256"]
        yield "answers", sorted(answers), sorted(tasks["tasks"])
        for task, facts in tasks["tasks"].items():
            right = fmean(answer["right"] for answer in answers[task])
            yield f"metrics.tasks.tasks.{task}", facts["accuracy"], right
        mean = fmean(facts["accuracy"] for facts in tasks["tasks"].values())
        yield "metrics.tasks.accuracy", tasks["accuracy"], mean
    folder_of_metrics = study.paths.metrics(cell)
    if folder == study.paths.records and (folder_of_metrics / MANIFEST).is_file():
        artifact = Artifact(folder_of_metrics, METRICS)
        for name, found in metrics.items():
            as_measured = json.loads(artifact.path(metrics_file(name)).read_text())
            for key, value in as_measured.items():
                yield f"metrics.{name}.{key}", found.get(key), value
