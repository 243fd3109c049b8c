"""The RO-Crate of a study: what Workflow RO-Crate 1.0 asks for, and how it is written.

The package roc-validator checks it too, in an environment of its own: it cannot be installed beside
import-linter, since it wants rich below 14.
"""

import json
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rocrate.rocrate import ROCrate

from freelunch.audit.crate import CONFIG, METADATA, SNAKEFILE, write_crate
from freelunch.core.digest import file_digest
from freelunch.study.study import Study
from records_for_tests import make_records, make_study, write_records
from repository import ROOT

ENVIRONMENT = {
    "commit": "a" * 40,
    "uncommitted_changes": False,
    "python": "3.11.7",
    "packages": {"snakemake": "9.27.1"},
    "threads": 1,
}
Entities = dict[str, dict[str, Any]]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("the network was asked for")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def made_up(study=None):
    """Return a study, its records, and the folder in which these and some results are."""
    study = study or make_study()
    records = make_records(study, {})
    for record in records.values():
        record["provenance"]["environments"] = {"evaluate_cell": ENVIRONMENT}
    write_records(study, records)
    root = study.paths.root
    for name in ("tables/summary.csv", "figures/criteria.png", "audit/audit.json", "logs/a.log"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return study, records, root


def entities(root):
    """Return what a crate describes, by its identifier."""
    graph = json.loads((root / METADATA).read_text())["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph)
    return found


def described():
    study, records, root = made_up()
    assert write_crate(study, records, root) == root / METADATA
    return root, entities(root)


def test_the_crate_is_a_workflow_crate_of_this_project():
    root, found = described()
    dataset, workflow = found["./"], found[SNAKEFILE]
    assert dataset["mainEntity"] == {"@id": SNAKEFILE}
    assert dataset["datePublished"] == "2026-09-21T14:13:20+00:00", "the end of the last step"
    assert {"File", "SoftwareSourceCode", "ComputationalWorkflow"} <= {*workflow["@type"]}
    assert workflow["version"] == "a" * 40
    assert workflow["license"] == dataset["license"]
    for one, address in {
        workflow["programmingLanguage"]["@id"]: "workflowhub/workflow-ro-crate#snakemake",
        dataset["conformsTo"]["@id"]: "workflowhub/workflow-ro-crate/1.0",
        dataset["license"]["@id"]: "spdx.org/licenses/Apache-2.0",
        dataset["citation"]["@id"]: "arxiv.org/abs/2510.14444",
    }.items():
        assert one.endswith(address) and one in found
    read = ROCrate(root)
    assert read.mainEntity.id == SNAKEFILE
    assert {entity.id for entity in read.get_entities()} == found.keys()
    assert (root / SNAKEFILE).read_bytes() == (ROOT / "workflow" / "Snakefile").read_bytes()


def test_every_result_is_a_part_with_its_digest_and_nothing_else_is():
    root, found = described()
    files = {name for name, entity in found.items() if "File" in entity["@type"]}
    assert files == {part["@id"] for part in found["./"]["hasPart"]}
    records = {f"records/{path.name}" for path in (root / "records").glob("*.json")}
    results = {"tables/summary.csv", "figures/criteria.png", "audit/audit.json"}
    assert files == {*records, *results, SNAKEFILE, CONFIG}
    for name in files:
        assert found[name]["sha256"] == file_digest(root / name)
        assert found[name]["contentSize"] == str((root / name).stat().st_size)


def test_same_records_give_the_same_bytes_and_every_commit_is_a_version():
    study, records, root = made_up()
    before = write_crate(study, records, root).read_bytes()
    assert write_crate(study, dict(reversed(records.items())), root).read_bytes() == before
    (first, *_) = records.values()
    changed = {**ENVIRONMENT, "uncommitted_changes": True}
    first["provenance"]["environments"]["prune_model"] = changed
    write_crate(study, records, root)
    assert entities(root)[SNAKEFILE]["version"] == ["a" * 40, "a" * 40 + "-dirty"]


def test_config_is_complete_whatever_became_of_the_studys_files():
    """With what the study took from its base, and with all defaults."""
    config = make_study().as_json()
    base, source = Path("base.yaml"), Path("study.yaml")
    base.write_text(yaml.safe_dump({key: value for key, value in config.items() if key != "study"}))
    source.write_text(yaml.safe_dump({"base": str(base), "study": config["study"]}))
    study, records, root = made_up(Study.load(source))
    for file in (base, source):
        file.unlink()
    write_crate(study, records, root)
    assert entities(root)[CONFIG]["alternateName"] == "study.yaml"
    in_crate = yaml.safe_load((root / CONFIG).read_bytes())
    assert in_crate == study.as_json()
    assert Study.check(in_crate, "crate").config == study.config


@pytest.mark.skipif(
    not (ROOT / ".venv-validators" / ".ready").is_file(),
    reason="no roc-validator: make .venv-validators/.ready installs it",
)
def test_roc_validator_finds_nothing_in_a_crate_but_finds_what_is_missing():
    root, _ = described()
    python = ROOT / ".venv-validators" / "bin" / "python"
    command = [python, ROOT / "tests" / "exports" / "check_crate.py", root]
    valid = subprocess.run(command, capture_output=True, text=True, check=False)
    assert valid.returncode == 0, valid.stdout + valid.stderr
    document = json.loads((root / METADATA).read_text())
    for entity in document["@graph"]:
        entity.pop("mainEntity", None)
    (root / METADATA).write_text(json.dumps(document))
    broken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert broken.returncode == 1 and "mainEntity" in broken.stdout
