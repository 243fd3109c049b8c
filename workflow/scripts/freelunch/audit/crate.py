"""A finished study as an RO-Crate, which describes its files and how they were made.

`ro-crate-metadata.json` makes results/<study>/ a crate by the profile Provenance Run Crate 0.5
(https://w3id.org/ro/wfrun/provenance/0.5), which builds on Workflow Run Crate 0.5, Process Run
Crate 0.5, Workflow RO-Crate 1.0 and RO-Crate 1.1. It describes one run: the workflow, its inputs,
its outputs, the software, and each step with its cost. Records name no person or organisation, so
the run has no agent. They contain the time at which each step ended, so the run and its steps have
an end and no start.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from freelunch.analysis.pairing import Records
from freelunch.audit.crate_facts import facts_of, known, package_url, source_of
from freelunch.audit.crate_steps import Steps
from freelunch.audit.data import REPOSITORY
from freelunch.audit.provenance import gather_provenance
from freelunch.core.digest import json_digest
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically, write_json
from freelunch.reporting.derived import (
    APPENDIX,
    AUDIT,
    CONFIG,
    METADATA,
    PAGE,
    REFORMS,
    SNAKEFILE,
    VERDICTS,
    evaluation_name,
    own_files,
)
from freelunch.study.study import Study

# Folders of results, each an output of the workflow.
RESULTS = {
    "records": "One record per cell: settings, metrics, sparsity, cost, provenance; task answers",
    "tables": "Tables, computed from the records",
    "figures": "Figures, and the data that they draw",
    "audit": "Verdicts on the paper's claims, with their evidence",
}
PROFILES = {
    "https://w3id.org/ro/wfrun/process/0.5": "Process Run Crate",
    "https://w3id.org/ro/wfrun/workflow/0.5": "Workflow Run Crate",
    "https://w3id.org/ro/wfrun/provenance/0.5": "Provenance Run Crate",
    "https://w3id.org/workflowhub/workflow-ro-crate/1.0": "Workflow RO-Crate",
}
# The package that runs the workflow.
ENGINE = "snakemake"
# RO-Crate 1.1 has no terms for a sha256 and for what a step used; this context has.
CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"


def write_crate(study: Study, records: Records, root: Path) -> Path:
    """Describe a finished study in `ro-crate-metadata.json`, and return that file.

    The Snakefile and the config are first copied to `audit/run/`. Nothing is fetched, and no date
    is today's: the same files and records give the same bytes.

    Args:
        study: The study.
        records: The record of each of its cells.
        root: The folder of its results, which becomes the crate. The study's records, tables,
            figures and audit are results of the run.

    Raises:
        UserError: A record is not in `root`.
    """
    provenance = gather_provenance(study, records)
    ended = _ended(study, records, provenance, root)
    write_atomically(root / SNAKEFILE, (REPOSITORY / "workflow" / "Snakefile").read_bytes())
    write_atomically(root / CONFIG, config_text(study))
    write_json(root / METADATA, _Description(study, records, provenance, root).of_run(ended))
    return root / METADATA


def _ended(study: Study, records: Records, provenance: Mapping[str, Any], root: Path) -> str:
    """Return when the last step ended, in ISO 8601, UTC.

    If the records do not say, this is the time at which the newest of them was written.
    """
    paths = [root / study.paths.records.name / cell.record_name for cell in records]
    for path in paths:
        if not path.is_file():
            todo = f"run the study (`{study.run_command}`)"
            raise UserError("a record is missing", where=path, todo=todo)
    last: str | None = provenance["finished"]["last"]
    if last:
        return last
    newest = max(path.stat().st_mtime for path in paths)
    return datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")


def config_text(study: Study) -> str:
    """Return the study that was run, with what it takes from its base and with all defaults."""
    return str(yaml.safe_dump(study.as_json(), sort_keys=False, allow_unicode=True))


class _Description:
    """The content of a crate, and how it was made."""

    def __init__(
        self, study: Study, records: Records, provenance: Mapping[str, Any], root: Path
    ) -> None:
        self.study, self.records, self.root = study, records, root
        self.provenance = provenance
        self.project = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
        self.crate = ROCrate(version="1.1")
        self.crate.metadata.extra_contexts.append(CONTEXT)

    def of_run(self, ended: str) -> dict[str, Any]:
        """Return the crate's JSON-LD: one run, which ended at a time in ISO 8601."""
        spdx, paper = self.project["license"], self.project["preferred-citation"]
        licence = self.add(f"https://spdx.org/licenses/{spdx}", "CreativeWork", name=spdx)
        properties = {
            "name": f"{self.project['title']}: study {self.study.name}",
            "description": f"{len(self.records)} cells. Each is a language model, dense or pruned "
            "and adapted. The crate contains no models or texts, which keep their own licences.",
            "datePublished": ended,
            "license": licence,
            "citation": self.add(paper["url"], "ScholarlyArticle", name=paper["title"]),
            "conformsTo": [
                self.add(uri, "CreativeWork", name=name, version=uri.rpartition("/")[2])
                for uri, name in PROFILES.items()
            ],
            "mentions": self.actions(self.workflow(licence), ended),
        }
        for key, value in properties.items():
            self.crate.root_dataset[key] = value
        return dict(self.crate.metadata.generate())

    def actions(self, workflow: Any, ended: str) -> list[Any]:
        """Add the run, its steps and the engine's part in it; return what created something."""
        run = self.run(workflow, ended)
        steps = Steps(self.crate, workflow, self.records)
        engines = [
            self.crate.dereference(package_url(name, version))
            for name, version in self.packages()
            if name == ENGINE
        ]
        if engines and steps.controls:
            self.add(
                "#engine",
                "OrganizeAction",
                name="Snakemake's part in the run",
                endTime=ended,
                instrument=engines,
                object=steps.controls,
                result=run,
            )
        return [run, *steps.actions]

    def workflow(self, licence: Any) -> Any:
        """Add the main workflow, and what it needs."""
        path = self.root / SNAKEFILE
        properties = known(
            description="The workflow's contents page; rules and scripts are in the repository. "
            "`version`: the commits at which steps were run, with -dirty for uncommitted changes.",
            license=licence,
            version=sorted(
                each["commit"] + ("-dirty" if each["uncommitted_changes"] else "")
                for each in self.provenance["commits"]
                if each["commit"]
            ),
            runtimePlatform=sorted(
                {f"Python {each['python']}" for each in self.provenance["machines"]}
            ),
            softwareRequirements=[
                self.add(
                    package_url(name, version),
                    "SoftwareApplication",
                    name=name,
                    softwareVersion=version,
                    url=f"https://pypi.org/project/{name}/",
                )
                for name, version in self.packages()
            ],
        )
        facts = facts_of(path) | {
            # The profile asks that a workflow whose steps are described is a HowTo, too.
            "@type": ["File", "SoftwareSourceCode", "ComputationalWorkflow", "HowTo"],
            "name": self.project["title"],
        }
        return self.crate.add_workflow(
            path, SNAKEFILE, main=True, lang="snakemake", properties=facts | properties
        )

    def packages(self) -> list[tuple[str, str]]:
        """Return name and version of the Python packages, in every version that a step had."""
        found = {item for each in self.provenance["packages"] for item in each.items()}
        return sorted((name, version) for name, version in found if version)

    def machines(self) -> str:
        """Return the machines that steps ran on, in words."""
        facts = ("device_name", "device", "processor", "platform")
        found = {
            ", ".join(each[fact] for fact in facts if each.get(fact))
            for each in self.provenance["machines"]
        }
        return "; ".join(sorted(found)) or "an unknown machine"

    def run(self, workflow: Any, ended: str) -> Any:
        """Add the run of a workflow, its inputs and its outputs."""
        records = {str(cell): record for cell, record in self.records.items()}
        config = self.file(CONFIG, alternateName=self.study.source)
        self.parameter(workflow, "input", "study", "The study", [config])
        return self.crate.add_action(
            workflow,
            f"#run-{json_digest(records)[:16]}",
            properties=known(
                name=f"Run of the study {self.study.name}",
                description=f"On {self.machines()}. It ended when its last step did. "
                "The cost, code and machine of each step are in the records.",
                endTime=ended,
                object=[
                    config,
                    *(
                        self.input(registry, name)
                        for registry in ("models", "tasks", "texts")
                        for name in sorted(self.provenance[registry])
                    ),
                ],
                result=self.results(workflow),
            ),
        )

    def input(self, registry: str, name: str) -> Any:
        """Add a model, text or task: source, licence, and the digests of the files taken."""
        entry = getattr(self.study.config, registry)[name]
        origins = self.provenance[registry][name]
        files = {item for origin in origins for item in origin.get("files", {}).items()}
        return self.add(
            f"#{registry}/{name}",
            "CreativeWork",
            name=name,
            license=entry.licence or "not stated",
            hasPart=[
                self.add(f"#{sha256}/{quote(file)}", "CreativeWork", name=file, sha256=sha256)
                for file, sha256 in sorted(files)
            ],
            **source_of(registry, entry),
        )

    def results(self, workflow: Any) -> list[Any]:
        """Add the study's files in the folders of results, as outputs of the workflow."""
        results = []
        evaluations = [evaluation_name(self.study, cell) for cell in self.study.cells]
        own = [*own_files(self.study), APPENDIX, AUDIT, PAGE, REFORMS, VERDICTS, *evaluations]
        for folder, description in RESULTS.items():
            names = [name for name in own if name.startswith(f"{folder}/")]
            if files := [self.file(name) for name in names if (self.root / name).is_file()]:
                self.parameter(workflow, "output", folder, description, files)
                results += files
        return results

    def parameter(
        self, workflow: Any, role: str, name: str, description: str, files: list[Any]
    ) -> None:
        """Add an input or output of the workflow, and its files in this run."""
        parameter = self.crate.add_formal_parameter(
            name,
            "File",
            f"#{name}",
            description,
            valueRequired=role == "input",
            properties={"multipleValues": role == "output"},
        )
        workflow.append_to(role, parameter, compact=True)
        for file in files:
            file["exampleOfWork"] = parameter

    def file(self, name: str, **properties: Any) -> Any:
        """Add a file, by its path in the crate."""
        path = self.root / name
        return self.crate.add_file(path, name, properties=facts_of(path) | properties)

    def add(self, uri: str, kind: str, **properties: Any) -> Any:
        """Add something that is not a file of the crate."""
        return self.crate.add(
            ContextEntity(self.crate, uri, {"@type": kind, **known(**properties)})
        )
