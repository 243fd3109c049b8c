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
        for key, found, expected in _contradictions(study, cell, record, folder):
            raise UserError(
                "a record contradicts itself: it was altered after it was collected",
                where=f"{folder / cell.record_name}: {key}",
                found=found,
                expected=expected,
                todo=mend(),
            )


def _contradictions(
    study: Study, cell: Cell, record: Mapping[str, Any], folder: Path
) -> Iterator[tuple[str, Any, Any]]:
    """Yield each contradiction in a record: the key, the value found, the value that follows."""
    metrics, identity = record["metrics"], record["identity"]
    yield from _unequal("cell", record["cell"], str(cell))
    yield from _unequal("sha256", record["sha256"], content_digest(record))
    yield from _unequal("fingerprint", record["fingerprint"], json_digest(record["spec"]))
    for name in ("perplexity", "drift"):
        if found := metrics.get(name):
            yield from _of_losses(f"metrics.{name}", found)
    zeros = sum(counts["zeros"] for counts in identity["matrices"].values())
    weights = sum(counts["rows"] * counts["columns"] for counts in identity["matrices"].values())
    yield from _unequal("identity.zeros", identity["zeros"], zeros)
    yield from _unequal("identity.weights", identity["weights"], weights)
    yield from _unequal("identity.sparsity", identity["sparsity"], zeros / weights)
    if tasks := metrics.get("tasks"):
        answers = load_answers(folder / cell.record_name)
        digest = file_digest(answers_beside(folder / cell.record_name))
        yield from _unequal("metrics.tasks.answers_sha256", digest, tasks["answers_sha256"])
        yield from _unequal("answers", sorted(answers), sorted(tasks["tasks"]))
        for task, facts in tasks["tasks"].items():
            right = fmean(answer["right"] for answer in answers[task])
            yield from _unequal(f"metrics.tasks.tasks.{task}", facts["accuracy"], right)
        mean = fmean(facts["accuracy"] for facts in tasks["tasks"].values())
        yield from _unequal("metrics.tasks.accuracy", tasks["accuracy"], mean)
    measured = study.paths.metrics(cell)
    if folder == study.paths.records and (measured / MANIFEST).is_file():
        artifact = Artifact(measured, METRICS)
        for name, found in metrics.items():
            as_measured = json.loads(artifact.path(metrics_file(name)).read_text())
            for key, value in as_measured.items():
                yield from _unequal(f"metrics.{name}.{key}", found.get(key), value)


def _of_losses(key: str, metrics: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    losses = metrics["window_losses"]
    if None not in losses and metrics["loss"] is not None:
        yield from _unequal(f"{key}.loss", metrics["loss"], fmean(losses))
        if metrics["perplexity"] is not None:
            expected = math.exp(metrics["loss"])
            yield from _unequal(f"{key}.perplexity", metrics["perplexity"], expected)


def _unequal(key: str, found: Any, expected: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(found, float) and isinstance(expected, int | float):
        if not math.isclose(found, expected, rel_tol=CLOSE):
            yield key, found, expected
    elif found != expected:
        yield key, found, expected
