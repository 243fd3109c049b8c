"""What the RO-Crate says of a study, and how it is written."""

import json
import re
import socket
from pathlib import Path

import pytest
import yaml

from crates import ENVIRONMENT, Crate, described, identifiers, made_up, types, written
from freelunch.audit.crate import CONFIG, METADATA, SNAKEFILE, write_crate
from freelunch.core.errors import UserError
from freelunch.study.study import Study
from records_for_tests import make_records, make_study


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_results_are_the_studys_files_and_no_others() -> None:
    crate = described()
    folders = ("records", "tables", "figures", "audit")
    there = {
        path for folder in folders for path in (crate.root / folder).rglob("*") if path.is_file()
    }
    results = {crate.path(entity) for entity in crate.all(crate.run, "result")}
    assert there - results == {
        crate.root / SNAKEFILE,
        crate.root / CONFIG,
        crate.root / "tables" / "another.md",
        crate.root / "tables" / ".summary.csv.part",
    }
    assert results < there


def test_inputs_by_origin_digest_and_licence() -> None:
    crate = described()
    model, calibration, evaluation = crate.all(crate.run, "object")[1:]
    assert (model["@id"], model["license"]) == ("#models/tiny", "Apache-2.0")
    assert model["identifier"] == f"pkg:pypi/some-package@1.2.3?checksum=sha256:{'0' * 64}"
    assert model["url"] == "https://pypi.org/project/some-package/1.2.3/"
    file = crate.one(model, "hasPart")
    assert (file["name"], file["sha256"]) == ("tiny.gguf", "1" * 64)
    assert calibration["license"] == "package MIT; C4 ODC-BY"
    assert crate.one(calibration, "hasPart")["sha256"] == "2" * 64
    assert (evaluation["name"], evaluation["license"]) == ("evaluation-text", "not stated")
    assert "hasPart" not in evaluation


def test_inputs_from_other_sources() -> None:
    revision = "b" * 40
    own = Path("my texts/it.txt")
    own.parent.mkdir()
    own.write_text("a text")
    hub = {"source": "hub", "repository": "c/d", "revision": revision, "member": "x.jsonl"}
    study, records = made_up(
        models={"tiny": {"source": "hub", "repository": "a/b", "revision": revision}},
        texts={
            "calibration-text": {**hub, "format": "jsonl"},
            "evaluation-text": {"source": "path", "path": str(own), "format": "plain"},
        },
    )
    root = written(study, records)
    write_crate(study, records, root)
    crate = Crate(root)
    model, calibration, evaluation = crate.all(crate.run, "object")[1:]
    assert model["url"] == f"https://huggingface.co/a/b/tree/{revision}"
    assert calibration["url"] == f"https://huggingface.co/datasets/c/d/tree/{revision}"
    assert model["version"] == calibration["version"] == revision
    assert evaluation["alternateName"] == "my texts/it.txt"


def test_tasks_are_inputs_where_a_cell_is_asked_them() -> None:
    source = make_study().as_json()["models"]["tiny"]
    task = {**source, "format": "boolq_requests", "documents": 3270}
    study, records = made_up(tasks={"boolq": task})
    record = next(iter(records.values()))
    record["spec"]["evaluation"]["tasks"] = {"tasks": {"boolq": {}}}
    record["provenance"]["task_origins"] = {"boolq": {"files": {"b.jsonl": "3" * 64}}}
    root = written(study, records)
    write_crate(study, records, root)
    crate = Crate(root)
    described = crate.entities["#tasks/boolq"]
    assert described in crate.all(crate.run, "object")
    assert crate.one(described, "hasPart")["sha256"] == "3" * 64


def test_every_version_and_commit_that_a_step_had() -> None:
    study, records = made_up()
    (first, *_) = records.values()
    first["provenance"]["environments"]["prune_model"] = {
        **ENVIRONMENT,
        "uncommitted_changes": True,
        "packages": {"torch": "2.13.0+cu126", "snakemake": "9.27.1"},
        "device": "cuda",
        "device_name": "Some GPU",
    }
    root = written(study, records)
    write_crate(study, records, root)
    crate = Crate(root)
    assert crate.workflow["version"] == ["a" * 40, "a" * 40 + "-dirty"]
    assert identifiers(crate.workflow, "softwareRequirements") == [
        "pkg:pypi/snakemake@9.27.1",
        "pkg:pypi/torch@2.13.0%2Bcpu",
        "pkg:pypi/torch@2.13.0%2Bcu126",
    ]
    assert "Some GPU, cuda, AMD EPYC" in crate.run["description"]


def test_what_records_do_not_say_is_left_out() -> None:
    study = make_study()
    records = make_records(study, {})
    root = written(study, records)
    write_crate(study, records, root)
    crate = Crate(root)
    assert not {"version", "runtimePlatform", "softwareRequirements"} & crate.workflow.keys()
    assert not crate.of_type("OrganizeAction")
    assert "an unknown machine" in crate.run["description"]
    assert len(crate.all(crate.run, "object")) == 4


def test_citation() -> None:
    crate = described()
    paper = crate.one(crate.dataset, "citation")
    assert paper["@id"] == "https://arxiv.org/abs/2510.14444"
    assert types(paper) == ["ScholarlyArticle"] and paper["name"].startswith("A Free Lunch")


def test_dates_are_the_newest_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rocrate.model.root_dataset.iso_now", lambda: "today")
    crate = described()
    assert crate.run["endTime"] == "2026-09-21T14:13:20+00:00"
    assert crate.dataset["datePublished"] == crate.run["endTime"]
    assert "today" not in json.dumps(crate.document)


# --- The config in the crate


def config_in(root: Path) -> bytes:
    return (root / CONFIG).read_bytes()


def test_config_is_complete_whatever_became_of_the_studys_files() -> None:
    """With what the study took from its base, and with all defaults."""
    config = make_study().as_json()
    base, source = Path("base.yaml"), Path("study.yaml")
    base.write_text(yaml.safe_dump({key: value for key, value in config.items() if key != "study"}))
    source.write_text(yaml.safe_dump({"base": str(base), "study": config["study"]}))
    study = Study.load(source)
    records = make_records(study, {})
    root = written(study, records)
    for file in (base, source):
        file.unlink()
    write_crate(study, records, root)
    assert Crate(root).entities[CONFIG]["alternateName"] == "study.yaml"
    in_crate = yaml.safe_load(config_in(root))
    assert in_crate == study.as_json()
    assert Study.check(in_crate, "crate").config == study.config


# --- Writing


def test_same_records_give_the_same_bytes() -> None:
    study, records = made_up()
    root = written(study, records)
    first = write_crate(study, records, root).read_bytes()
    assert write_crate(study, records, root).read_bytes() == first
    backwards = dict(reversed(records.items()))
    assert write_crate(study, backwards, root).read_bytes() == first

    next(iter(records.values()))["cost"]["evaluate_cell"]["wall_s"] = 99.0
    other = write_crate(study, records, root).read_bytes()
    assert re.findall(rb"#run-\w+", other)[0] != re.findall(rb"#run-\w+", first)[0]


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    described()


def test_an_interrupted_write_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    study, records = made_up()
    root = written(study, records)
    before = write_crate(study, records, root).read_bytes()
    (root / "tables" / "more.csv").write_text("more")
    replace = Path.replace

    def interrupted(self: Path, target: Path) -> Path:
        if target.name == METADATA:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_crate(study, records, root)
    assert (root / METADATA).read_bytes() == before
    assert not list(root.glob(".*.part"))


def test_a_record_that_is_not_in_the_folder_is_named() -> None:
    study, records = made_up()
    root = written(study, records)
    missing = study.paths.record(next(iter(records)))
    missing.unlink()
    with pytest.raises(UserError, match=re.escape(str(missing))):
        write_crate(study, records, root)
    assert not (root / METADATA).exists()
