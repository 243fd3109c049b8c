"""A finished study as a Workflow RO-Crate 1.0 (https://w3id.org/workflowhub/workflow-ro-crate/1.0).

`ro-crate-metadata.json` makes results/<study>/ a crate: the workflow, the config that was run, and
each result with its digest. The records have the provenance and the cost of each step.
"""

from pathlib import Path
from typing import Any

import yaml
from rocrate.model import ContextEntity
from rocrate.rocrate import ROCrate

from freelunch.analysis.pairing import Records
from freelunch.audit.output_files import AUDIT_FILES, CONFIG, METADATA, SNAKEFILE, own_files
from freelunch.audit.provenance import gather_provenance
from freelunch.core.digest import file_digest
from freelunch.core.files import write_atomically, write_json
from freelunch.study.registry import REPOSITORY
from freelunch.study.study import Study

PROFILE = "https://w3id.org/workflowhub/workflow-ro-crate/1.0"
# RO-Crate 1.1 has no term for a sha256; this context has.
CONTEXT = "https://w3id.org/ro/terms/workflow-run/context"


def write_crate(study: Study, records: Records, root: Path) -> Path:
    """Describe a finished study in `ro-crate-metadata.json` in the folder of its results, which
    becomes the crate, and return that file.

    The Snakefile and the config are first copied to `audit/run/`. Nothing is fetched, and no date
    is today's: the same files and records give the same bytes.
    """
    write_atomically(root / SNAKEFILE, (REPOSITORY / "workflow" / "Snakefile").read_bytes())
    write_atomically(root / CONFIG, config_text(study))
    project = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    provenance = gather_provenance(study, records)
    crate = ROCrate(version="1.1")
    crate.metadata.extra_contexts.append(CONTEXT)
    spdx, paper = project["license"], project["preferred-citation"]
    licence = _add(crate, f"https://spdx.org/licenses/{spdx}", "CreativeWork", spdx)
    properties = {
        "name": f"{project['title']}: study {study.name}",
        "description": f"{len(records)} cells. Each is a language model, dense or pruned and "
        "adapted. The crate contains no models or texts, which keep their own licences.",
        "datePublished": provenance.finished["last"],
        "license": licence,
        "citation": _add(crate, paper["url"], "ScholarlyArticle", paper["title"]),
        "conformsTo": _add(crate, PROFILE, "CreativeWork", "Workflow RO-Crate"),
    }
    for key, value in properties.items():
        crate.root_dataset[key] = value
    facts = {**_facts(root / SNAKEFILE), "name": project["title"], "license": licence}
    versions = sorted(
        each["commit"] + ("-dirty" if each["uncommitted_changes"] else "")
        for each in provenance.commits
        if each["commit"]
    )
    if versions:
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


def _facts(path: Path) -> dict[str, Any]:
    size = str(path.stat().st_size)
    return {"name": path.name, "contentSize": size, "sha256": file_digest(path)}


def _add(crate: ROCrate, uri: str, kind: str, name: str) -> Any:
    return crate.add(ContextEntity(crate, uri, {"@type": kind, "name": name}))
