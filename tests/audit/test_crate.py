"""The RO-Crate of a study: what Workflow RO-Crate 1.0 asks for, and how it is written.

The package roc-validator checks it too, in an environment of its own: it cannot be installed beside
import-linter, since it wants rich below 14.
"""

import json
import socket
import subprocess
from pathlib import Path

import pytest
import yaml
from rocrate.rocrate import ROCrate

from audits_for_tests import ENVIRONMENT
from freelunch.audit.crate import CONFIG, METADATA, SNAKEFILE, write_crate
from freelunch.core.digest import file_digest
from freelunch.study.study import Study
from records_for_tests import make_records, make_study, write_records
from repository import ROOT

CLEAN = ENVIRONMENT | {"uncommitted_changes": False}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    def refuse(*arguments, **settings):
        raise AssertionError("the network was asked for")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def described(study=None):
    """Return a study, its records, the folder of its results, and what its crate describes."""
    study = study or make_study()
    records, root = make_records(study, {}), study.paths.root
    for record in records.values():
        record["provenance"]["environments"] = {"evaluate_cell": CLEAN}
    write_records(study, records)
    for name in ("tables/summary.csv", "figures/criteria.png", "audit/audit.json", "logs/a.log"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    assert write_crate(study, records, root) == root / METADATA
    return study, records, root, entities(root)


def entities(root):
    """Return what a crate describes, by its identifier."""
    graph = json.loads((root / METADATA).read_text())["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph)
    return found


def test_the_crate_is_a_workflow_crate_of_this_project():
    *_, root, found = described()
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
    *_, root, found = described()
    files = {name for name, entity in found.items() if "File" in entity["@type"]}
    assert files == {part["@id"] for part in found["./"]["hasPart"]}
    records = {f"records/{path.name}" for path in (root / "records").glob("*.json")}
    results = {"tables/summary.csv", "figures/criteria.png", "audit/audit.json"}
    assert files == {*records, *results, SNAKEFILE, CONFIG}
    for name in files:
        assert found[name]["sha256"] == file_digest(root / name)
        assert found[name]["contentSize"] == str((root / name).stat().st_size)


def test_same_records_give_the_same_bytes_and_every_commit_is_a_version():
    study, records, root, _ = described()
    before = (root / METADATA).read_bytes()
    assert write_crate(study, dict(reversed(records.items())), root).read_bytes() == before
    next(iter(records.values()))["provenance"]["environments"]["prune_model"] = ENVIRONMENT
    write_crate(study, records, root)
    assert entities(root)[SNAKEFILE]["version"] == ["a" * 40, "a" * 40 + "-dirty"]


def test_config_is_complete_with_what_the_study_took_from_its_base_and_all_defaults():
    config = make_study().as_json()
    base = {key: value for key, value in config.items() if key != "study"}
    Path("base.yaml").write_text(yaml.safe_dump(base))
    Path("study.yaml").write_text(yaml.safe_dump({"base": "base.yaml", "study": config["study"]}))
    study, _, root, found = described(Study.load(Path("study.yaml")))
    assert found[CONFIG]["alternateName"] == "study.yaml"
    in_crate = yaml.safe_load((root / CONFIG).read_bytes())
    assert in_crate == study.as_json()
    assert Study.check(in_crate, "crate").config == study.config


@pytest.mark.skipif(
    not (ROOT / ".venv-validators" / ".ready").is_file(),
    reason="no roc-validator: make .venv-validators/.ready installs it",
)
def test_roc_validator_finds_nothing_in_a_crate_but_finds_what_is_missing():
    *_, root, _ = described()
    python = ROOT / ".venv-validators" / "bin" / "python"
    command = [python, ROOT / "tests" / "exports" / "check_crate.py", root]
    for status in (0, 1):
        checked = subprocess.run(command, capture_output=True, text=True, check=False)
        assert checked.returncode == status, checked.stdout + checked.stderr
        metadata = (root / METADATA).read_text()
        (root / METADATA).write_text(metadata.replace('"mainEntity"', '"mainEntity_"'))
    assert "mainEntity" in checked.stdout
