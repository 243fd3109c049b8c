"""A finished study as a Workflow RO-Crate 1.0 (https://w3id.org/workflowhub/workflow-ro-crate/1.0).

`ro-crate-metadata.json` makes results/<study>/ a crate: the workflow, the config that was run, and
each result with its digest. The records have the provenance and the cost of each step.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from freelunch.analysis.pairing import Records
from freelunch.audit.claims import REPOSITORY
from freelunch.audit.output_files import (
    AUDIT_FILES,
    CONFIG,
    METADATA,
    SNAKEFILE,
    own_files,
)
from freelunch.audit.provenance import Provenance, gather_provenance
from freelunch.core.digest import file_digest
from freelunch.core.errors import UserError
from freelunch.core.files import write_atomically, write_json
from freelunch.study.study import Study

PROFILE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
# RO-Crate 1.1 has no term for a sha256; this context has.
CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"
# By suffix; Python's own table differs between machines.
FORMATS = {
    "": "text/plain",
    ".csv": "text/csv",
    ".gz": "application/gzip",
    ".html": "text/html",
    ".json": "application/json",
    ".md": "text/markdown",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".sha256": "text/plain",
    ".svg": "image/svg+xml",
    ".tex": "application/x-tex",
    ".yaml": "application/yaml",
}


def write_crate(study: Study, records: Records, root: Path) -> Path:
    """Describe a finished study in `ro-crate-metadata.json`, and return that file.

    The Snakefile and the config are first copied to `audit/run/`. Nothing is fetched, and no date
    is today's: the same files and records give the same bytes.

    Args:
        study: The study.
        records: The record of each of its cells.
        root: The folder of its results, which becomes the crate.

    Raises:
        UserError: A record is not in `root`.
    """
    provenance = gather_provenance(study, records)
    ended = _ended(study, records, provenance, root)
    write_atomically(root / SNAKEFILE, (REPOSITORY / "workflow" / "Snakefile").read_bytes())
    write_atomically(root / CONFIG, config_text(study))
    project = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(CONTEXT)
    spdx, paper = project["license"], project["preferred-citation"]
    licence = _add(crate, f"https://spdx.org/licenses/{spdx}", "CreativeWork", spdx)
    properties = {
        "name": f"{project['title']}: study {study.name}",
        "description": f"{len(records)} cells. Each is a language model, dense or pruned and "
        "adapted. The crate contains no models or texts, which keep their own licences.",
        "datePublished": ended,
        "license": licence,
        "citation": _add(crate, paper["url"], "ScholarlyArticle", paper["title"]),
        "conformsTo": _add(crate, PROFILE, "CreativeWork", "Workflow RO-Crate"),
    }
    for key, value in properties.items():
        crate.root_dataset[key] = value
    facts = {**_facts(root / SNAKEFILE), "name": project["title"], "license": licence}
    if versions := _versions(provenance):
        facts["version"] = versions[0] if len(versions) == 1 else versions
    crate.add_workflow(root / SNAKEFILE, SNAKEFILE, main=True, lang="snakemake", properties=facts)
    for name in sorted({*own_files(study), *AUDIT_FILES} - {SNAKEFILE, METADATA}):
        if (root / name).is_file():
            source = {"alternateName": study.source} if name == CONFIG else {}
            crate.add_file(root / name, name, properties=_facts(root / name) | source)
    write_json(root / METADATA, dict(crate.metadata.generate()))
    return root / METADATA


def config_text(study: Study) -> str:
    """Return the study that was run, with what it takes from its base and with all defaults."""
    return str(yaml.safe_dump(study.as_json(), sort_keys=False, allow_unicode=True))


def _ended(study: Study, records: Records, provenance: Provenance, root: Path) -> str:
    """Return when the last step ended, in ISO 8601, UTC.

    If the records do not say, this is the time at which the newest of them was written.
    """
    paths = [root / study.paths.records.name / cell.record_name for cell in records]
    for path in paths:
        if not path.is_file():
            todo = f"run the study (`{study.run_command}`)"
            raise UserError("a record is missing", where=path, todo=todo)
    newest = max(path.stat().st_mtime for path in paths)
    written = datetime.fromtimestamp(newest, UTC).isoformat(timespec="seconds")
    return provenance.finished["last"] or written


def _versions(provenance: Provenance) -> list[str]:
    """Return the commits at which steps were run, with -dirty for uncommitted changes."""
    return sorted(
        each["commit"] + ("-dirty" if each["uncommitted_changes"] else "")
        for each in provenance.commits
        if each["commit"]
    )


def _facts(path: Path) -> dict[str, Any]:
    """Return the name, size, digest and format of a file."""
    return {
        "name": path.name,
        "contentSize": str(path.stat().st_size),
        "sha256": file_digest(path),
        "encodingFormat": FORMATS.get(path.suffix, "application/octet-stream"),
    }


def _add(crate: ROCrate, uri: str, kind: str, name: str) -> Any:
    return crate.add(ContextEntity(crate, uri, {"@type": kind, "name": name}))
