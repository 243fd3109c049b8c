"""Published numbers beside those of a study."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from freelunch.audit.evidence import Evidence
from freelunch.audit.published import (
    AGREES,
    COLUMNS,
    DIFFERS,
    NOT_RUN,
    SUSPECT,
    TASKS,
    ComparedNumber,
    audit_published,
    load_meaning,
    load_published,
)
from freelunch.core.files import write_atomically
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import PERPLEXITIES, make_records, make_study
from refusals import refused

WIKITEXT = {
    "source": "hub",
    "repository": "Salesforce/wikitext",
    "revision": "0" * 40,
    "member": "wikitext-2-raw-v1/test-00000-of-00001.parquet",
    "format": "parquet_rows",
}
# Papers whose models and methods studies/paper.yaml does not run.
MORE = ("OPTIMA, thesis", "SLiM, thesis", "PATCH, thesis")
WHOLE = {"windows": None, "cut": "joined"}


def published(tmp_path: Path, **changes: str) -> Path:
    row = {
        "source": "some README",
        "reference": "arXiv 0000.00000",
        "model": "tiny",
        "criterion": "wanda",
        "pattern": "u50",
        "adaptation": "none",
        "metric": "wikitext2_perplexity",
        "seqlen": "512",
        "value": "46.0",
        "trust": "primary",
        "note": "",
    } | changes
    path = tmp_path / "published_results.csv"
    write_atomically(path, ",".join(COLUMNS) + "\n" + ",".join(row[key] for key in COLUMNS) + "\n")
    return path


def wikitext(changes: Mapping[str, Mapping[str, Any]] | None = None, **perplexity: Any) -> Study:
    """Return a study that measures on WikiText-2, with changes to its registries."""
    config = make_study().as_json()
    config["texts"]["evaluation-text"] = dict(WIKITEXT)
    for registry, entries in (changes or {}).items():
        config[registry] |= entries
    config["study"]["evaluation"]["perplexity"] |= {**WHOLE, **perplexity}
    return Study.check(config, "made-up.yaml")


def meaning() -> Study:
    """Return what the names of the made-up rows mean."""
    config = wikitext().as_json()
    config["texts"]["wikitext2"] = dict(WIKITEXT)
    config["criteria"]["ria"] = {"score": "ria"}
    config["models"]["other"] = dict(config["models"]["tiny"])
    config["adaptations"]["recon_all"] = {"method": "reconstruction", "window": "all"}
    return Study.check(config, "studies/made-up.yaml")


def joined(
    study: Study,
    path: Path,
    records: dict[Cell, dict[str, Any]] | None = None,
    names: Study | None = None,
) -> ComparedNumber:
    """Return the number of a file beside that of a study."""
    evidence = Evidence(study, records or make_records(study, PERPLEXITIES), path.parent)
    (row,) = audit_published(evidence, load_published(path), names or meaning())
    return row


@pytest.mark.parametrize(
    ("value", "trust", "verdict"),
    [
        ("46.0", "primary", AGREES),
        ("45.1", "primary", AGREES),
        ("45.0", "primary", DIFFERS),
        ("45.0", "third-party", AGREES),
        ("30", "third-party", DIFFERS),
    ],
)
def test_a_number_that_can_be_compared(
    tmp_path: Path, value: str, trust: str, verdict: str
) -> None:
    row = joined(wikitext(), published(tmp_path, value=value, trust=trust))
    assert (row.verdict, row.cells) == (verdict, ["tiny/wanda-u50/none/seed0"])
    assert (row.ours, row.difference) == pytest.approx((46.0, 46.0 - float(value)))
    assert row.command and "tiny__wanda-u50__none__seed0.json" in row.command


FIVE = {"recon_block": {"method": "reconstruction", "window": 5}}
EXACT = {"recon_block": {"method": "least_squares"}}
OTHER = {"adaptation": "recon_block", "value": "39"}


@pytest.mark.parametrize(
    ("changes", "study", "reason"),
    [
        ({"model": "other"}, {}, "no such cell"),
        ({"criterion": "ria"}, {}, "no such cell"),
        ({"pattern": "2of4"}, {}, "no such cell"),
        ({"adaptation": "recon_all"}, {}, "no such cell"),
        ({"seqlen": "2048"}, {}, "windows of 512 tokens, not of 2048"),
        ({}, {"windows": 40}, "not the whole text"),
        ({}, {"stride": 9}, "windows overlap"),
        (
            *({}, {"changes": {"texts": {"evaluation-text": {**WIKITEXT, "member": "small.txt"}}}}),
            "measured on `evaluation-text` (Salesforce/wikitext: small.txt), not on Salesforce/",
        ),
        (
            *({}, {"changes": {"texts": {"evaluation-text": {**WIKITEXT, "format": "plain"}}}}),
            "measured on `evaluation-text`",
        ),
        # Another criterion or adaptation of that name.
        ({}, {"changes": {"criteria": {"wanda": {"score": "magnitude"}}}}, "wanda means something"),
        (OTHER, {"changes": {"adaptations": EXACT}}, "recon_block means something else here"),
        (OTHER, {"changes": {"adaptations": FIVE}}, "recon_block means something else here"),
        # Names that nobody knows.
        ({"model": "lama"}, {}, "studies/made-up.yaml has no lama among its models"),
        ({"criterion": "wandda"}, {}, "studies/made-up.yaml has no wandda among its criteria"),
        ({"adaptation": "x"}, {}, "studies/made-up.yaml has no x among its adaptations"),
    ],
)
def test_a_number_without_a_cell_like_it_is_not_run(
    tmp_path: Path, changes: dict[str, str], study: dict[str, Any], reason: str
) -> None:
    row = joined(wikitext(**study), published(tmp_path, **changes))
    assert (row.verdict, row.ours) == (NOT_RUN, None)
    assert reason in row.reason


def answered(study: Study, documents: int = 277, **accuracies: float) -> dict[Cell, dict[str, Any]]:
    """Return records of a study whose cells were all asked some documents of tasks of 277."""
    records = make_records(study, PERPLEXITIES)
    for record in records.values():
        record["metrics"]["tasks"] = {
            "tasks": {
                task: {
                    "accuracy": accuracy,
                    "accuracy_standard_error": 0.03,
                    "documents": documents,
                    "documents_in_all": 277,
                }
                for task, accuracy in accuracies.items()
            }
        }
    return records


def test_a_published_accuracy(tmp_path: Path) -> None:
    study = make_study(seeds=[0, 1])
    path = published(tmp_path, metric="accuracy_rte", seqlen="", value="51")
    row = joined(study, path, answered(study, rte=0.52))
    assert (row.verdict, row.seqlen, len(row.cells)) == (AGREES, None, 2)
    assert (row.ours, row.ours_standard_error) == pytest.approx((52, 3))
    assert row.command and "--forcerun evaluate_cell" in row.command
    seven = dict.fromkeys(TASKS, 0.5) | {"boolq": 0.64}
    path = published(tmp_path, metric="accuracy_mean_of_seven", seqlen="", value="60")
    row = joined(study, path, answered(study, **seven))
    assert row.verdict == DIFFERS
    assert (row.ours, row.ours_standard_error) == pytest.approx((52, 3 / math.sqrt(7)))


@pytest.mark.parametrize(
    ("metric", "documents", "accuracies", "reason"),
    [
        ("accuracy_rte", 277, {"boolq": 0.5}, "not asked: rte"),
        ("accuracy_rte", 50, {"rte": 0.5}, "50 documents of rte, not all 277"),
        ("accuracy_mean_of_seven", 277, {"rte": 0.5}, "not asked: boolq, hellaswag"),
    ],
)
def test_an_accuracy_of_other_documents_is_never_joined(
    tmp_path: Path, metric: str, documents: int, accuracies: dict[str, float], reason: str
) -> None:
    study = make_study()
    path = published(tmp_path, metric=metric, seqlen="", value="50")
    row = joined(study, path, answered(study, documents, **accuracies))
    assert row.verdict == NOT_RUN and reason in row.reason


def test_a_number_twice_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path)
    path.write_text(path.read_text() + path.read_text().splitlines()[1].replace("46.0", "9") + "\n")
    with refused(where=path, found="some README"):
        load_published(path)


def test_a_file_that_a_spreadsheet_wrote(tmp_path: Path) -> None:
    path = published(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_published(path)) == 1


def test_all_published_numbers_are_sound() -> None:
    """Each can be run with studies/paper.yaml, but for models and methods that it says are
    nowhere to be had.
    """
    rows = [row for row in load_published() if not row.source.startswith(MORE)]
    assert len(rows) == 284
    study = load_meaning()
    cells = {(it.model, it.criterion, it.pattern, it.adaptation) for it in study.cells}
    unnamed: dict[str, set[str]] = {"models": set(), "criteria": set(), "adaptations": set()}
    for row in rows:
        names = (row.model, row.criterion, row.adaptation)
        unknown = [
            (registry, name)
            for registry, name in zip(unnamed, names, strict=True)
            if name not in (*getattr(study.config, registry), "dense", "none")
        ]
        for registry, name in unknown:
            unnamed[registry].add(name)
        assert unknown or (row.model, row.criterion, row.pattern, row.adaptation) in cells, row
    assert unnamed == {
        "models": {"mistral-7b", "opt-175b"},
        "criteria": {"adaprune", "maskllm"},
        "adaptations": {"recon_2_overlapping", "sparsefw"},
    }


def test_published_means_name_their_tasks_and_patterns_may_be_of_one_part() -> None:
    rows = [row for row in load_published() if row.source.startswith(MORE)]
    assert len(rows) == 539 and sum(SUSPECT in row.note for row in rows) == 31
    means = {row.tasks for row in rows if row.metric == "accuracy_mean"}
    assert sorted(map(len, means)) == [6, 8]
    assert all("arc_easy" in tasks and "mmlu" in tasks for tasks in means)
    assert {row.pattern for row in rows} == {"none", "u50", "u60", "2of4", "2of4_mlp_only"}
    unknown = {row.model for row in rows if not row.tasks and row.seqlen is None}
    assert unknown == {"llama-3.1-8b-base"}


@pytest.mark.parametrize(
    ("changes", "column"),
    [
        ({"metric": "accuracy_mean", "seqlen": "", "note": "mean of six"}, "note"),
        ({"pattern": "u50_attention_only"}, "pattern"),
        ({"value": "many"}, "value"),
        ({"value": "-1"}, "value"),
        ({"value": "nan"}, "value"),
        ({"seqlen": "2048.0"}, "seqlen"),
        ({"metric": "wikitext_perplexity"}, "metric"),
        ({"metric": "accuracy_mmlu"}, "metric"),
        ({"metric": "rte"}, "metric"),
        ({"metric": "accuracy_rte"}, "seqlen"),
        ({"trust": "high"}, "trust"),
        ({"pattern": "50%"}, "pattern"),
        ({"criterion": "dense"}, "pattern"),
        ({"model": " "}, "model"),
        ({"trust": "primary,more"}, "(row)"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, changes: dict[str, str], column: str) -> None:
    path = published(tmp_path, **changes)
    with refused(where=f"{path}: line 2: {column}"):
        load_published(path)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "published_results.csv"
    write_atomically(path, "source,model\na,b\n")
    with refused(where=path, found="source, model", expected="source, reference"):
        load_published(path)
