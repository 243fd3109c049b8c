"""RO-Crates of made-up and of real records."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from freelunch.audit.crate import METADATA, write_crate
from freelunch.study.study import Study
from records_for_tests import make_records, make_study, write_records

NEWEST = 1_790_000_000  # 2026-09-21T14:13:20 UTC
ENVIRONMENT = {
    "commit": "a" * 40,
    "uncommitted_changes": False,
    "python": "3.11.7",
    "packages": {"snakemake": "9.27.1", "torch": "2.13.0+cpu", "lm-eval": None},
    "platform": "Linux-6.18-x86_64",
    "processor": "AMD EPYC",
    "cores": 2,
    "threads": 1,
    "device": "cpu",
}
FILES = {"tiny.gguf": "1" * 64}


class Crate:
    """A crate as any reader finds it, with its JSON-LD by `@id`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.document = json.loads((root / METADATA).read_text())
        self.graph: list[dict[str, Any]] = self.document["@graph"]
        self.entities = {entity["@id"]: entity for entity in self.graph}
        assert len(self.entities) == len(self.graph)
        self.dataset = self.entities["./"]
        self.workflow = self.one(self.dataset, "mainEntity")
        actions = self.of_type("CreateAction")
        of_workflow = [self.workflow["@id"]]
        (self.run,) = (it for it in actions if identifiers(it, "instrument") == of_workflow)
        self.steps = [action for action in actions if action is not self.run]

    def all(self, entity: dict[str, Any], key: str) -> list[dict[str, Any]]:
        return [self.entities[identifier] for identifier in identifiers(entity, key)]

    def one(self, entity: dict[str, Any], key: str) -> dict[str, Any]:
        (found,) = self.all(entity, key)
        return found

    def of_type(self, kind: str) -> list[dict[str, Any]]:
        return [entity for entity in self.graph if kind in types(entity)]

    def path(self, entity: dict[str, Any]) -> Path:
        return self.root / unquote(entity["@id"])


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def types(entity: dict[str, Any]) -> list[str]:
    return listed(entity["@type"])


def identifiers(entity: dict[str, Any], key: str) -> list[str]:
    return [item["@id"] for item in listed(entity.get(key, [])) if isinstance(item, dict)]


def written(study: Study, records: dict[Any, Any]) -> Path:
    """Write a study's records below the current folder, the newest at a known time."""
    write_records(study, records)
    for at, cell in enumerate(records):
        os.utime(study.paths.record(cell), (NEWEST - at, NEWEST - at + 0.5))
    for name in (
        "tables/summary.csv",
        "tables/another.md",
        "figures/criteria.png",
        "audit/audit.json",
    ):
        path = study.paths.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (study.paths.root / "tables" / ".summary.csv.part").write_text("half")
    (study.paths.root / "logs").mkdir()
    (study.paths.root / "logs" / "a.log").write_text("not a result")
    return study.paths.root


def made_up(**registries: Mapping[str, Any]) -> tuple[Study, dict[Any, Any]]:
    """Return a study and its records; `registries` replace or add entries of its own."""
    config = make_study().as_json()
    config["models"]["tiny"]["licence"] = "Apache-2.0"
    config["texts"]["calibration-text"]["licence"] = "package MIT; C4 ODC-BY"
    for registry, entries in registries.items():
        config[registry] |= entries
    study = Study.check(config, "made-up.yaml")
    records = make_records(study, {})
    for record in records.values():
        provenance = record["provenance"]
        provenance["environments"] = {"prune_model": ENVIRONMENT, "evaluate_cell": ENVIRONMENT}
        provenance["model_origin"] = {"files": FILES}
        provenance["text_origins"] = {"calibration": {"files": {"c4.utf8": "2" * 64}}}
    return study, records


def described() -> Crate:
    study, records = made_up()
    root = written(study, records)
    write_crate(study, records, root)
    return Crate(root)
