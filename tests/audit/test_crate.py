"""The RO-Crate of a study: what Workflow RO-Crate 1.0 asks for, and how it is written.

The package roc-validator checks it too, in an environment of its own: it cannot be installed beside
import-linter, since it wants rich below 14.
"""

import json
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from rocrate.rocrate import ROCrate

from freelunch.audit.crate import CONFIG, METADATA, SNAKEFILE, write_crate
from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.study.study import Study
from records_for_tests import make_records, make_study, write_records
from repository import ROOT

NEWEST = 1_790_000_000  # 2026-09-21T14:13:20 UTC
ENVIRONMENT = {
    "commit": "a" * 40,
    "uncommitted_changes": False,
    "python": "3.11.7",
    "packages": {"snakemake": "9.27.1"},
    "threads": 1,
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def made_up(study: Study | None = None) -> tuple[Study, dict[Any, Any], Path]:
    """Return a study, its records, and the folder in which these and some results are."""
    study = study or make_study()
    records = make_records(study, {})
    for record in records.values():
        record["provenance"]["environments"] = {"evaluate_cell": ENVIRONMENT}
    write_records(study, records)
    for at, cell in enumerate(records):
        os.utime(study.paths.record(cell), (NEWEST - at, NEWEST - at + 0.5))
    root = study.paths.root
    for name in ("tables/summary.csv", "figures/criteria.png", "audit/audit.json", "logs/a.log"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    return study, records, root


def entities(root: Path) -> dict[str, dict[str, Any]]:
    """Return what a crate describes, by its identifier."""
    graph = json.loads((root / METADATA).read_text())["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph)
    return found


def described() -> tuple[Path, dict[str, dict[str, Any]]]:
    study, records, root = made_up()
    assert write_crate(study, records, root) == root / METADATA
    return root, entities(root)


def test_the_crate_is_a_workflow_crate_of_this_project() -> None:
    _, found = described()
    dataset, workflow = found["./"], found[SNAKEFILE]
    assert dataset["mainEntity"] == {"@id": SNAKEFILE}
    assert {"File", "SoftwareSourceCode", "ComputationalWorkflow"} <= {*workflow["@type"]}
    language = found[workflow["programmingLanguage"]["@id"]]
    assert language["@id"] == "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"
    assert workflow["version"] == "a" * 40
    profile = found[dataset["conformsTo"]["@id"]]
    assert profile["@id"] == "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
    licence = found[dataset["license"]["@id"]]
    assert licence["@id"] == "https://spdx.org/licenses/Apache-2.0"
    assert workflow["license"] == dataset["license"]
    paper = found[dataset["citation"]["@id"]]
    assert paper["@id"] == "https://arxiv.org/abs/2510.14444"
    assert paper["name"].startswith("A Free Lunch")


def test_every_result_is_a_part_with_its_digest_and_nothing_else_is() -> None:
    root, found = described()
    files = {name for name, entity in found.items() if "File" in entity["@type"]}
    assert files == {part["@id"] for part in found["./"]["hasPart"]}
    records = {f"records/{path.name}" for path in (root / "records").glob("*.json")}
    results = {"tables/summary.csv", "figures/criteria.png", "audit/audit.json"}
    assert files == {*records, *results, SNAKEFILE, CONFIG}
    for name in files:
        assert found[name]["sha256"] == file_digest(root / name)
        assert found[name]["contentSize"] == str((root / name).stat().st_size)
        assert re.fullmatch(r"\w+/[\w.+-]+", found[name]["encodingFormat"])


def test_the_library_reads_it_back() -> None:
    root, found = described()
    read = ROCrate(root)
    assert read.mainEntity.id == SNAKEFILE
    assert {entity.id for entity in read.get_entities()} == found.keys()
    assert (root / SNAKEFILE).read_bytes() == (ROOT / "workflow" / "Snakefile").read_bytes()


def test_its_date_is_the_last_steps_or_that_of_the_newest_record() -> None:
    study, records, root = made_up()
    write_crate(study, records, root)
    assert entities(root)["./"]["datePublished"] == "2026-09-21T14:13:20+00:00"
    for record in records.values():
        record["provenance"]["finished"] = {}
    write_crate(study, records, root)
    assert entities(root)["./"]["datePublished"] == "2026-09-21T14:13:20+00:00"


def test_every_commit_that_a_step_had_is_a_version() -> None:
    study, records, root = made_up()
    (first, *_) = records.values()
    changed = {**ENVIRONMENT, "uncommitted_changes": True}
    first["provenance"]["environments"]["prune_model"] = changed
    write_crate(study, records, root)
    assert entities(root)[SNAKEFILE]["version"] == ["a" * 40, "a" * 40 + "-dirty"]


def test_config_is_complete_whatever_became_of_the_studys_files() -> None:
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


def test_same_records_give_the_same_bytes() -> None:
    study, records, root = made_up()
    first = write_crate(study, records, root).read_bytes()
    assert write_crate(study, dict(reversed(records.items())), root).read_bytes() == first


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    described()


def test_an_interrupted_write_leaves_the_old_file(monkeypatch: pytest.MonkeyPatch) -> None:
    study, records, root = made_up()
    before = write_crate(study, records, root).read_bytes()
    (root / "tables" / "gaps.csv").write_text("more")
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
    study, records, root = made_up()
    missing = study.paths.record(next(iter(records)))
    missing.unlink()
    with pytest.raises(UserError, match=re.escape(str(missing))):
        write_crate(study, records, root)
    assert not (root / METADATA).exists()


@pytest.mark.skipif(
    not (ROOT / ".venv-validators" / ".ready").is_file(),
    reason="no roc-validator: make .venv-validators/.ready installs it",
)
def test_roc_validator_finds_nothing_in_a_crate_but_finds_what_is_missing() -> None:
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
