"""The RO-Crate of a study: what its profiles ask for, of made-up and of real records.

Each MUST of the texts of RO-Crate 1.1, Workflow RO-Crate 1.0, Process Run Crate 0.5, Workflow Run
Crate 0.5 and Provenance Run Crate 0.5 is asserted here, and each SHOULD that can be met with
nothing made up. The package roc-validator checks them too, in an environment of its own: it cannot
be installed beside import-linter, since it wants rich below 14.
"""

import contextlib
import json
import re
import shutil
import subprocess
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from rocrate import vocabs
from rocrate.rocrate import ROCrate

from crates import Crate, described, identifiers, listed, made_up, types, written
from freelunch.audit.crate import CONFIG, METADATA, SNAKEFILE, write_crate
from freelunch.audit.provenance import COSTS, gather_costs
from freelunch.core.digest import file_digest
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from repository import ROOT

PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5",
    "https://w3id.org/ro/wfrun/workflow/0.5",
    "https://w3id.org/ro/wfrun/provenance/0.5",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
}


def real_records() -> tuple[Study, dict[Any, Any]]:
    """Return the full study, with those of its records that are in docs/full."""
    study = Study.load(Path("studies/full.yaml"), ROOT)
    paths = {cell: ROOT / "docs" / "full" / "records" / cell.record_name for cell in study.cells}
    return study, {
        cell: json.loads(path.read_text()) for cell, path in paths.items() if path.exists()
    }


def real(root: Path) -> tuple[Study, dict[Any, Any]]:
    """Copy what is kept of the full study to a folder; return the study and its records."""
    shutil.copytree(ROOT / "docs" / "full", root)
    return real_records()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module", params=["made-up", "real"])
def crate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Crate:
    with contextlib.chdir(tmp_path_factory.mktemp("crate")):
        if request.param == "real":
            root = Path("full")
            study, records = real(root)
            assert len(records) > 20
        else:
            study, records = made_up()
            root = written(study, records)
        assert write_crate(study, records, root) == root / METADATA
        return Crate(root.absolute())


# --- RO-Crate 1.1


def test_context_is_by_reference_and_defines_every_word(crate: Crate) -> None:
    context = crate.document["@context"]
    assert context[0] == "https://w3id.org/ro/crate/1.1/context"
    assert context[1:] == ["https://w3id.org/ro/terms/workflow-run/context"]
    words = {word for entity in crate.graph for word in entity if not word.startswith("@")}
    words |= {kind for entity in crate.graph for kind in types(entity)}
    # The library has no copy of the second context.
    assert words <= {*vocabs.RO_CRATE["@context"], "resourceUsage"}


def test_graph_is_flat_and_compact(crate: Crate) -> None:
    for entity in crate.graph:
        assert entity["@id"] and entity["@type"]
        for key, value in entity.items():
            assert value not in (None, [], ""), (entity["@id"], key)
            if not key.startswith("@") and isinstance(value, list):
                assert len(value) > 1, (entity["@id"], key)
            for item in listed(value):
                assert not isinstance(item, dict) or item.keys() == {"@id"}, (entity["@id"], key)


def test_every_reference_within_the_crate_is_described(crate: Crate) -> None:
    known = {
        # Vocabularies and places on the web that the crate only points to.
        "https://w3id.org/ro/crate/1.1",
        "https://bioschemas.org/profiles/FormalParameter/1.0-RELEASE",
        "https://doi.org/10.1093/bioinformatics/bts480",
        "https://snakemake.readthedocs.io",
    }
    found = {name for entity in crate.graph for key in entity for name in identifiers(entity, key)}
    assert found - crate.entities.keys() <= known


def test_descriptor(crate: Crate) -> None:
    descriptor = crate.entities["ro-crate-metadata.json"]
    assert types(descriptor) == ["CreativeWork"]
    assert identifiers(descriptor, "about") == ["./"]
    assert set(identifiers(descriptor, "conformsTo")) == {
        "https://w3id.org/ro/crate/1.1",
        "https://w3id.org/workflowhub/workflow-ro-crate/1.0",
    }


def test_root_data_entity(crate: Crate) -> None:
    assert types(crate.dataset) == ["Dataset"]
    assert crate.dataset["name"] and crate.dataset["description"]
    assert datetime.fromisoformat(crate.dataset["datePublished"]).tzinfo
    licence = crate.one(crate.dataset, "license")
    assert licence["@id"] == "https://spdx.org/licenses/Apache-2.0"
    assert types(licence) == ["CreativeWork"] and licence["name"]


def test_every_file_is_a_part_and_is_there_with_its_digest(crate: Crate) -> None:
    files = crate.all(crate.dataset, "hasPart")
    assert {file["@id"] for file in files} == {file["@id"] for file in crate.of_type("File")}
    for file in files:
        assert re.fullmatch(r"[\w./%~-]+", file["@id"]) and not file["@id"].startswith("/")
        path = crate.path(file)
        assert path.is_file(), file["@id"]
        assert file["sha256"] == file_digest(path)
        assert file["contentSize"] == str(path.stat().st_size)
        assert re.fullmatch(r"\w+/[\w.+-]+", file["encodingFormat"])
        assert file["name"]


def test_the_library_reads_it_back(crate: Crate) -> None:
    read = ROCrate(crate.root)
    assert read.mainEntity.id == SNAKEFILE
    assert {entity.id for entity in read.get_entities()} == crate.entities.keys()


# --- Workflow RO-Crate 1.0


def test_main_workflow(crate: Crate) -> None:
    assert crate.workflow["@id"] == SNAKEFILE
    kinds = {"File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"}
    assert set(types(crate.workflow)) == kinds
    language = crate.one(crate.workflow, "programmingLanguage")
    assert types(language) == ["ComputerLanguage"]
    assert language["@id"] == "https://w3id.org/workflowhub/workflow-ro-crate#snakemake"
    assert identifiers(crate.workflow, "license") == identifiers(crate.dataset, "license")
    assert crate.path(crate.workflow).read_bytes() == (ROOT / "workflow" / "Snakefile").read_bytes()


# --- Process Run Crate 0.5


def test_profiles_are_declared_and_described(crate: Crate) -> None:
    profiles = crate.all(crate.dataset, "conformsTo")
    assert {profile["@id"] for profile in profiles} == PROFILES
    for profile in profiles:
        assert types(profile) == ["CreativeWork"]
        assert profile["@id"].endswith("/" + profile["version"])


def test_run(crate: Crate) -> None:
    assert crate.run["@id"].startswith("#run-")
    assert identifiers(crate.run, "instrument") == [SNAKEFILE]
    assert identifiers(crate.dataset, "mentions")[0] == crate.run["@id"]
    assert crate.run["name"] and crate.run["description"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", crate.run["endTime"])
    for entity in crate.all(crate.run, "object") + crate.all(crate.run, "result"):
        assert types(entity) in (["File"], ["CreativeWork"])
    # Nobody and nothing is made up.
    assert not {"agent", "startTime", "error"} & crate.run.keys()
    assert not crate.of_type("Person") and not crate.of_type("Organization")


def test_software(crate: Crate) -> None:
    software = crate.all(crate.workflow, "softwareRequirements")
    assert software == crate.of_type("SoftwareApplication")
    for application in software:
        assert re.fullmatch(r"pkg:pypi/[\w-]+@[\w.%]+", application["@id"])
        assert application["name"] and application["softwareVersion"] and application["url"]
        assert "version" not in application
    assert {"snakemake", "torch"} <= {application["name"] for application in software}
    assert re.fullmatch(r"Python 3\.[\d.]+", crate.workflow["runtimePlatform"])
    assert crate.workflow["version"]


# --- Workflow Run Crate 0.5


def test_formal_parameters(crate: Crate) -> None:
    inputs, outputs = (crate.all(crate.workflow, role) for role in ("input", "output"))
    assert [parameter["name"] for parameter in inputs] == ["study"]
    assert {parameter["name"] for parameter in outputs} >= {"records", "tables", "figures"}
    assert inputs + outputs == crate.of_type("FormalParameter")
    for parameter in inputs + outputs:
        assert parameter["additionalType"] == "File"
        files = [
            entity
            for entity in crate.graph
            if parameter["@id"] in identifiers(entity, "exampleOfWork")
        ]
        assert files and all("File" in types(file) for file in files)


def test_only_what_fills_a_parameter_refers_to_one(crate: Crate) -> None:
    config, *others = crate.all(crate.run, "object")
    assert config["@id"] == CONFIG
    assert identifiers(config, "exampleOfWork") == ["#study"]
    assert not any("exampleOfWork" in entity for entity in others)
    for result in crate.all(crate.run, "result"):
        assert identifiers(result, "exampleOfWork") == ["#" + result["@id"].split("/")[0]]


# --- Provenance Run Crate 0.5


def test_every_step_is_an_action_of_a_tool_of_the_workflow(crate: Crate) -> None:
    tools = crate.all(crate.workflow, "hasPart")
    assert {types(tool)[0] for tool in tools} == {"SoftwareSourceCode"}
    used = {identifiers(action, "instrument")[0] for action in crate.steps}
    assert used == {tool["@id"] for tool in tools}
    of_workflow = crate.all(crate.workflow, "step")
    assert of_workflow == crate.of_type("HowToStep")
    assert [step["position"] for step in of_workflow] == [
        str(at) for at in range(1, len(tools) + 1)
    ]
    assert [identifiers(step, "workExample") for step in of_workflow] == [
        [tool["@id"]] for tool in tools
    ]
    mentioned = identifiers(crate.dataset, "mentions")
    assert set(mentioned) == {action["@id"] for action in [crate.run, *crate.steps]}


def test_every_execution_is_controlled_by_its_step_and_by_the_engine(crate: Crate) -> None:
    controls = crate.of_type("ControlAction")
    assert [identifiers(it, "object") for it in controls] == [[it["@id"]] for it in crate.steps]
    for control in controls:
        (action,), step = crate.all(control, "object"), crate.one(control, "instrument")
        assert identifiers(step, "workExample") == identifiers(action, "instrument")
    (engine,) = crate.of_type("OrganizeAction")
    assert crate.all(engine, "object") == controls
    assert crate.one(engine, "result") is crate.run
    assert {it["name"] for it in crate.all(engine, "instrument")} == {"snakemake"}


def test_costs_of_steps_are_those_of_the_records(crate: Crate) -> None:
    _, records = made_up() if crate.root.name == "made-up" else real_records()
    expected = {(row["step"], key): row[key] for row in gather_costs(records) for key in COSTS}
    found: Counter[tuple[str, str]] = Counter()
    for action in crate.steps:
        step = crate.one(action, "instrument")["name"]
        for usage in crate.all(action, "resourceUsage"):
            assert types(usage) == ["PropertyValue"] and usage["unitCode"] and usage["name"]
            found[step, usage["propertyID"]] += float(usage["value"])
    for (step, key), value in expected.items():
        if key != "jobs":
            assert found[step, key] == pytest.approx(value), (step, key)


def test_what_a_step_read_and_made() -> None:
    study, records = made_up()
    cell = Cell.parse("tiny/wanda-u50/recon_block/seed0")
    for record in records.values():
        record["provenance"]["digests"] = {"calibration_token_ids": "3" * 64}
    records[cell]["provenance"]["digests"] |= {"masks": "4" * 64, "checkpoint": "5" * 64}
    root = written(study, records)
    write_crate(study, records, root)
    crate = Crate(root)
    sampled = crate.entities["#sample_calibration/tiny/0"]
    assert identifiers(sampled, "object") == ["#models/tiny", "#texts/calibration-text"]
    (sample,) = crate.all(sampled, "result")
    assert (sample["name"], sample["sha256"]) == ("token ids", "3" * 64)
    assert sample in crate.all(crate.entities["#capture_dense/tiny/0"], "object")
    adapted = crate.entities[f"#reconstruct_window/{cell}"]
    assert "#sha256/" + "4" * 64 in identifiers(adapted, "object")
    evaluated = crate.entities[f"#evaluate_cell/{cell}"]
    assert identifiers(evaluated, "result") == [
        "#sha256/" + "5" * 64,
        f"records/{cell.record_name}",
    ]
    assert evaluated["endTime"] == "2026-09-21T14:13:20+00:00" and "startTime" not in evaluated


@pytest.mark.skipif(
    not (ROOT / ".venv-validators" / ".ready").is_file(),
    reason="no roc-validator: make .venv-validators/.ready installs it",
)
def test_roc_validator_finds_nothing_in_a_crate_but_finds_what_is_missing() -> None:
    crate = described()
    python = ROOT / ".venv-validators" / "bin" / "python"
    command = [python, ROOT / "tests" / "exports" / "check_crate.py", crate.root]
    valid = subprocess.run(command, capture_output=True, text=True, check=False)
    assert valid.returncode == 0, valid.stdout + valid.stderr
    for step in crate.of_type("HowToStep"):
        del step["workExample"]
    (crate.root / METADATA).write_text(json.dumps(crate.document))
    broken = subprocess.run(command, capture_output=True, text=True, check=False)
    assert broken.returncode == 1 and "via workExample" in broken.stdout
