"""The paper's protocol and published numbers beside a run's, and records that were altered."""

import copy
import json
import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from freelunch.core.artifact import ArtifactWriter, write_atomically, write_json
from freelunch.core.digest import file_digest, sealed
from freelunch.core.errors import UserError
from freelunch.evaluation.tasks import answers_bytes
from freelunch.records.read import answers_beside
from freelunch.reporting.audit.audit import audit_study
from freelunch.reporting.audit.evidence import Evidence
from freelunch.reporting.audit.integrity import check_records
from freelunch.reporting.audit.protocol import (
    ABSENT,
    DIFFERENT,
    PARTLY,
    SAME,
    UNKNOWN,
    audit_protocol,
    load_protocol,
    values,
)
from freelunch.reporting.audit.published import (
    AGREES,
    DIFFERS,
    NOT_RUN,
    audit_published,
    contradictions,
    load_meaning,
)
from freelunch.reporting.audit.published_file import COLUMNS, TASKS, load_published
from freelunch.study.cell import Cell
from freelunch.study.steps import METRICS
from freelunch.study.study import Study
from records_for_tests import (
    CONFIG,
    PERPLEXITIES,
    make_records,
    make_study,
    write_records,
)

ROOT = Path(__file__).resolve().parents[2]


# --- Protocol


def setting(**more: Any) -> dict[str, Any]:
    base = {"id": "x", "group": "g", "setting": "s", "paper": "p", "matters": "no", "why": "w"}
    return base | more


@pytest.mark.parametrize(
    ("more", "status", "shown"),
    [
        ({"ours": {"study": "calibration.length"}, "same_as": [256]}, SAME, ["256"]),
        ({"ours": {"study": "calibration.length"}, "same_as": [4096]}, DIFFERENT, ["256"]),
        ({"ours": {"study": "calibration.length"}, "paper": None}, UNKNOWN, ["256"]),
        ({"ours": {"study": "evaluation.tasks.names"}, "same_as": ["rte"]}, ABSENT, []),
        (
            {
                "ours": {"study": "evaluation.perplexity.stride"},
                "same_as": [None],
                "null_reads": "no overlap",
            },
            SAME,
            ["no overlap"],
        ),
        ({"ours": {"text": "so"}, "same": True}, SAME, ["so"]),
        ({"ours": {"text": "so"}, "same": False}, DIFFERENT, ["so"]),
        ({"ours": {"grids": "criteria"}, "same_as": ["wanda"]}, PARTLY, ["magnitude", "wanda"]),
        ({"ours": {"grids": "seeds"}, "same_as": [0]}, SAME, ["0"]),
        ({"ours": {"criteria": "scope"}, "same_as": ["row"]}, PARTLY, ["matrix", "row"]),
        (
            {"ours": {"adaptations": "reconstruction", "key": "train_norms"}, "same_as": [True]},
            SAME,
            ["yes"],
        ),
        (
            {"ours": {"adaptations": "retraining", "key": "method"}, "same_as": ["lora"]},
            ABSENT,
            [],
        ),
        (
            {
                "ours": {"text_source": "calibration"},
                "same_as": ["some-package: c4.utf8"],
            },
            SAME,
            ["some-package: c4.utf8"],
        ),
    ],
)
def test_a_setting_beside_the_papers(more: dict[str, Any], status: str, shown: list[str]) -> None:
    (row,) = audit_protocol(make_study(), [setting(**more)])
    assert (row["status"], row["ours"]) == (status, shown)


def test_only_what_is_used_is_shown() -> None:
    """Registries may hold more than the grids run."""
    more = {"full": {"method": "full", "budget": {"times": 3, "of": "recon_block"}}}
    ours = {"adaptations": "retraining", "key": "samples"}
    assert values(ours, make_study(more)) == []
    assert values(ours, make_study(more, adaptations=["none", "recon_block", "full"])) == [96]


def test_the_protocol_of_the_paper() -> None:
    rows = audit_protocol(Study.load(Path("studies/full.yaml"), ROOT), load_protocol())
    status = {row["id"]: row["status"] for row in rows}
    assert len(status) == len(rows), "an id is there twice"
    assert status["calibration_samples"] == status["models"] == DIFFERENT
    assert status["retraining_budgets"] == status["sparsity"] == UNKNOWN
    assert status["damping"] == SAME
    assert all(row["why"] and row["setting"] for row in rows)


MATRIX = {"method": "reconstruction", "window": "matrix", "train_norms": False}
BEHIND = {**MATRIX, "targets": "behind_sparse"}


@pytest.mark.parametrize(
    ("adaptation", "expected"),
    [
        ({"method": "reconstruction"}, {"dropout": (DIFFERENT, ["no"])}),
        ({"method": "reconstruction", "model_dropout": True}, {"dropout": (SAME, ["yes"])}),
        ({"method": "reconstruction", "window": "attention_mlp"}, {}),
        (
            MATRIX,
            {"matrix_targets": (DIFFERENT, ["dense"]), "lost_residual": (DIFFERENT, ["no"])},
        ),
        (
            {**BEHIND, "lost_residual": True},
            {"matrix_targets": (SAME, ["behind_sparse"]), "lost_residual": (SAME, ["yes"])},
        ),
        (
            {"method": "least_squares", "targets": "behind_sparse"},
            {"matrix_targets": (SAME, ["behind_sparse"]), "lost_residual": (DIFFERENT, ["no"])},
        ),
        (
            {**MATRIX, "inputs": "sparse", "targets": "local"},
            {"matrix_targets": (SAME, ["local"]), "lost_residual": (ABSENT, [])},
        ),
        (
            {"method": "reconstruction", "learning_rate": [0.1, 0.2], "select_on": "evaluation"},
            {"selection": (SAME, ["evaluation"]), "dropout": (DIFFERENT, ["no"])},
        ),
    ],
    ids=str,
)
def test_quirks_of_the_papers_code(
    adaptation: dict[str, Any], expected: dict[str, tuple[str, list[str]]]
) -> None:
    """What a run switches on is the paper's, and only settings of its own windows count."""
    rows = audit_protocol(make_study({"x": adaptation}, adaptations=["x"]), load_protocol())
    found = {row["id"]: (row["status"], row["ours"]) for row in rows}
    names = ("dropout", "matrix_targets", "lost_residual", "selection")
    assert {name: found[name] for name in names} == {
        **dict.fromkeys(names, (ABSENT, [])),
        **expected,
    }


def test_masks_behind_unreconstructed_blocks_are_the_papers_too() -> None:
    for statistics in ("dense", "sparse"):
        more = {"y": {"score": "wanda", "statistics": statistics}}
        study = make_study(more_criteria=more, criteria=["y"])
        rows = {row["id"]: row for row in audit_protocol(study, load_protocol())}
        assert rows["mask_statistics"]["status"] == SAME
        assert rows["mask_statistics"]["ours"] == [statistics]


def test_a_setting_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "protocol.yaml"
    write_json(path, {"settings": [setting(ours={"study": "name"})]})
    with pytest.raises(UserError, match="does not say which of ours") as error:
        load_protocol(path)
    assert f"{path}: x" in str(error.value)


# --- Published numbers


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


def wikitext(**perplexity: Any) -> Study:
    """Return a study that measures on WikiText-2."""
    config = copy.deepcopy(CONFIG)
    config["texts"]["evaluation-text"] = {
        "source": "hub",
        "repository": "Salesforce/wikitext",
        "revision": "0" * 40,
        "member": "wikitext-2-raw-v1/test-00000-of-00001.parquet",
        "format": "parquet_rows",
    }
    config["study"]["evaluation"]["perplexity"] |= {
        "windows": None,
        "cut": "joined",
        **perplexity,
    }
    return Study.check(config, "made-up.yaml")


def meaning() -> Study:
    """Return what the names of the made-up rows mean."""
    config = wikitext().as_json()
    config["texts"]["wikitext2"] = dict(config["texts"]["evaluation-text"])
    config["criteria"]["ria"] = {"score": "ria"}
    config["models"]["other"] = dict(config["models"]["tiny"])
    config["adaptations"]["recon_all"] = {"method": "reconstruction", "window": "all"}
    return Study.check(config, "studies/made-up.yaml")


def beside(study: Study, records: dict[Cell, dict[str, Any]], path: Path) -> dict[str, Any]:
    evidence = Evidence(study, records, path.parent)
    (row,) = audit_published(evidence, load_published(path), meaning())
    return row


def joined(study: Study, path: Path) -> dict[str, Any]:
    return beside(study, make_records(study, PERPLEXITIES), path)


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
    assert row["verdict"] == verdict
    assert row["ours"] == pytest.approx(46.0)
    assert row["difference"] == pytest.approx(46.0 - float(value))
    assert row["cells"] == ["tiny/wanda-u50/none/seed0"]
    assert "tiny__wanda-u50__none__seed0.json" in row["command"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "other"}, "no such cell"),
        ({"criterion": "ria"}, "no such cell"),
        ({"pattern": "2of4"}, "no such cell"),
        ({"adaptation": "recon_all"}, "no such cell"),
        ({"seqlen": "2048"}, "windows of 512 tokens, not of 2048"),
    ],
)
def test_a_number_without_a_cell_is_not_run(
    tmp_path: Path, changes: dict[str, str], reason: str
) -> None:
    row = joined(wikitext(), published(tmp_path, **changes))
    assert (row["verdict"], row["ours"]) == (NOT_RUN, None)
    assert reason in row["reason"]
    assert "snakemake --cores all" in row["command"]


@pytest.mark.parametrize(
    ("changes", "name"),
    [({"model": "lama"}, "lama"), ({"criterion": "wandda"}, "wandda"), ({"adaptation": "x"}, "x")],
)
def test_a_name_that_nobody_knows_is_said(
    tmp_path: Path, changes: dict[str, str], name: str
) -> None:
    row = joined(wikitext(), published(tmp_path, **changes))
    assert row["verdict"] == NOT_RUN
    assert f"studies/made-up.yaml has no {name} among its" in row["reason"]
    assert row["command"] == "describe it in studies/made-up.yaml first"


def test_the_command_of_a_number_that_was_not_run(tmp_path: Path) -> None:
    """That of the study of published numbers, and of one like it with other windows."""
    (row,) = audit_published(
        Evidence(wikitext(), make_records(wikitext(), {}), tmp_path),
        load_published(published(tmp_path, model="llama-2-7b", seqlen="4096")),
        load_meaning(),
    )
    pin, run = row["command"].split(" && ")
    assert pin == "make pin STUDY=studies/paper.yaml MODELS=llama-2-7b"
    assert run.endswith(
        "--config study=studies/paper.yaml models=llama-2-7b -- "
        "results/paper/records/llama-2-7b__wanda-u50__none__seed0.json"
    )
    (row,) = audit_published(
        Evidence(wikitext(), make_records(wikitext(), {}), tmp_path),
        load_published(published(tmp_path, model="llama-2-7b", seqlen="2048")),
        load_meaning(),
    )
    sed, pin, run = row["command"].split(" && ")
    assert pin == "make pin STUDY=studies/paper_2048.yaml MODELS=llama-2-7b"
    assert "study=studies/paper_2048.yaml models=llama-2-7b -- results/paper_2048/records/" in run
    sed = sed.replace("> studies/paper_2048.yaml", "").replace("studies/", f"{ROOT}/studies/")
    config = yaml.safe_load(subprocess.check_output(sed, shell=True, text=True))
    study = Study.check(config, "paper_2048.yaml", ROOT)
    assert (study.name, study.perplexity.length) == ("paper_2048", 2048)
    assert study.calibration.length == 2048, "as in the sources"


def test_the_length_of_a_published_number_is_that_of_its_model(tmp_path: Path) -> None:
    """OPT has windows of 2048 tokens in the paper's study, and needs no other one."""
    (row,) = audit_published(
        Evidence(wikitext(), make_records(wikitext(), {}), tmp_path),
        load_published(published(tmp_path, model="opt-125m", seqlen="2048")),
        load_meaning(),
    )
    assert "study=studies/paper.yaml models=opt-125m -- results/paper/records/" in row["command"]


def asked(study: Study, documents: int = 277, **accuracies: float) -> dict[Cell, dict[str, Any]]:
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
    row = beside(study, asked(study, rte=0.52), path)
    assert (row["verdict"], row["seqlen"]) == (AGREES, None)
    assert (row["ours"], row["ours_standard_error"]) == (pytest.approx(52), pytest.approx(3))
    assert "--forcerun evaluate_cell" in row["command"] and len(row["cells"]) == 2
    seven = dict.fromkeys(TASKS, 0.5) | {"boolq": 0.64}
    path = published(tmp_path, metric="accuracy_mean_of_seven", seqlen="", value="60")
    row = beside(study, asked(study, **seven), path)
    assert row["verdict"] == DIFFERS and row["ours"] == pytest.approx(52)
    assert row["ours_standard_error"] == pytest.approx(3 / math.sqrt(7))


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
    row = beside(study, asked(study, documents, **accuracies), path)
    assert row["verdict"] == NOT_RUN and reason in row["reason"]
    assert "studies/zero_shot.yaml" in row["command"]


def test_numbers_of_other_texts_are_never_joined(tmp_path: Path) -> None:
    row = joined(make_study(), published(tmp_path))
    assert row["verdict"] == NOT_RUN
    for perplexity, reason in (({"windows": 40}, "not the whole"), ({"stride": 9}, "overlap")):
        row = joined(wikitext(**perplexity), published(tmp_path))
        assert row["verdict"] == NOT_RUN and reason in row["reason"]
    config = make_study().as_json()
    config["study"]["evaluation"]["perplexity"] |= {"windows": None, "cut": "joined"}
    row = joined(Study.check(config, "made-up.yaml"), published(tmp_path))
    assert "measured on `evaluation-text`" in row["reason"]
    assert "not on Salesforce/wikitext" in row["reason"]
    for key, value in (("member", "wikitext-2-raw-v1/test-small.txt"), ("format", "plain")):
        config = wikitext().as_json()
        config["texts"]["evaluation-text"][key] = value
        row = joined(Study.check(config, "made-up.yaml"), published(tmp_path))
        assert row["verdict"] == NOT_RUN and "measured on" in row["reason"]


def test_another_criterion_of_that_name_is_not_joined(tmp_path: Path) -> None:
    study = wikitext()
    config = study.as_json()
    config["criteria"]["wanda"] = {"score": "magnitude"}
    row = joined(Study.check(config, "made-up.yaml"), published(tmp_path))
    assert row["verdict"] == NOT_RUN and "wanda means something else here" in row["reason"]


@pytest.mark.parametrize(
    "settings", [{"method": "least_squares"}, {"method": "reconstruction", "window": 5}]
)
def test_another_adaptation_of_that_name_is_not_joined(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    config = wikitext().as_json()
    config["adaptations"]["recon_block"] = settings
    path = published(tmp_path, adaptation="recon_block", value="39")
    row = joined(Study.check(config, "made-up.yaml"), path)
    assert row["verdict"] == NOT_RUN and "recon_block means something else here" in row["reason"]


def test_what_a_cell_was_calibrated_on_is_said_beside_the_number(tmp_path: Path) -> None:
    row = joined(wikitext(), published(tmp_path))
    assert "calibrated on 32 sequences of 256 tokens of some-package: c4.utf8" in row["reason"]


def test_a_number_twice_is_refused(tmp_path: Path) -> None:
    path = published(tmp_path)
    path.write_text(path.read_text() + path.read_text().splitlines()[1].replace("46.0", "9") + "\n")
    with pytest.raises(UserError, match="published twice"):
        load_published(path)


def test_a_file_that_a_spreadsheet_wrote(tmp_path: Path) -> None:
    path = published(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(load_published(path)) == 1


def test_the_papers_own_cells_are_rows_like_others(tmp_path: Path) -> None:
    path = published(tmp_path, adaptation="recon_block", source="the paper", value="39")
    assert joined(wikitext(), path)["verdict"] == AGREES


def test_all_published_numbers_are_sound() -> None:
    """Each can be run with studies/paper.yaml, but for models and methods that it says are
    nowhere to be had.
    """
    rows = load_published()
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


def test_sources_that_contradict_each_other_are_named() -> None:
    found = {
        (row["model"], row["criterion"], row["pattern"]): {
            number["source"]: number["value"] for number in row["numbers"]
        }
        for row in contradictions(load_published())
    }
    ria, rotator = "RIA README", "DenoiseRotator table 1"
    assert found == {
        ("llama-3-8b", "magnitude", "u50"): {ria: 2499.39, rotator: 30.39},
        ("llama-3-8b", "sparsegpt", "2of4"): {ria: 16.26, rotator: 17.67},
        ("llama-3-70b", "magnitude", "u50"): {ria: 19.11, rotator: 10.58},
    }


@pytest.mark.parametrize(
    ("changes", "column"),
    [
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
        ({"trust": "primary,more"}, "row"),
    ],
)
def test_a_malformed_row_is_named(tmp_path: Path, changes: dict[str, str], column: str) -> None:
    path = published(tmp_path, **changes)
    with pytest.raises(UserError, match="malformed") as error:
        load_published(path)
    assert re.search(rf"line 2: \(?{column}", str(error.value))


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "published_results.csv"
    write_atomically(path, "source,model\na,b\n")
    with pytest.raises(UserError, match="columns of the published numbers"):
        load_published(path)


# --- Records that somebody altered

RECORD = Cell.parse("tiny/wanda-u50/recon_block/seed0")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.chdir(tmp_path)
    study = make_study()
    write_records(study, make_records(study, PERPLEXITIES))
    return study


def altered(study: Study, change: Callable[[dict[str, Any]], object], again: bool) -> None:
    """Alter a record; `again`: by somebody who knows of its digest."""
    path = study.paths.record(RECORD)
    record = json.loads(path.read_text())
    change(record)
    write_json(path, sealed(record) if again else record)


def test_an_audit_of_sound_records(study: Study) -> None:
    audit = audit_study(study)
    json.dumps(audit, allow_nan=False)
    assert audit["study"] == "made-up"
    assert {claim["id"] for claim in audit["claims"]} >= {"C1", "C2", "C3", "C4"}
    assert {row["step"] for row in audit["costs"]} >= {"prune_model", "reconstruct_window"}
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


def test_answers_that_were_swapped_are_seen(tmp_path: Path) -> None:
    """The accuracy stays what it was; differences from document to document do not."""
    study = make_study()
    records = make_records(study, PERPLEXITIES)
    cell = Cell.parse("tiny/wanda-u50/none/seed0")
    answers = answers_beside(tmp_path / cell.record_name)
    answers.write_bytes(answers_bytes({"rte": [{"right": True}, {"right": False}]}))
    of_task = {"accuracy": 0.5, "documents": 2, "documents_in_all": 2}
    records[cell]["metrics"]["tasks"] = {
        "tasks": {"rte": of_task},
        "accuracy": 0.5,
        "answers_sha256": file_digest(answers),
    }
    records[cell] = sealed(records[cell])
    check_records(study, records, tmp_path)
    for other in ([{"right": False}, {"right": True}], [{"right": True}]):
        answers.write_bytes(answers_bytes({"rte": other}))
        with pytest.raises(UserError, match="contradicts itself") as error:
            check_records(study, records, tmp_path)
        assert "answers_sha256" in str(error.value)
