"""Studies as a finished run leaves them: their records, tables, figures and audit."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from freelunch.audit.audit import Audit, audit_records
from freelunch.audit.effects import TABLES_OF_CLAIMS
from freelunch.audit.page import page_texts
from freelunch.audit.rebuild_docs import write_results
from freelunch.core.files import write_atomically, write_json
from freelunch.records.read import load_records
from freelunch.reporting.results import Results
from freelunch.reporting.tables import table_texts
from freelunch.study.study import Study
from repository import ROOT

NAMES = ("full", "budgets", "quirks", "precision", "gemma")
KEPT = {name: f"studies/{name}.yaml" for name in NAMES}
KEPT["laptop"] = "config.yaml"
ENVIRONMENT = {
    "commit": "a" * 40,
    "uncommitted_changes": True,
    "python": "3.11.7",
    "packages": {"numpy": "2.4.6", "torch": "2.13.0+cpu", "lm-eval": None},
    "platform": "Linux-6.18-x86_64",
    "processor": "AMD EPYC",
    "cores": 2,
    "threads": 1,
    "device": "cpu",
}


@dataclass(frozen=True)
class Audited:
    """A finished study: its numbers, its audit, and the folder of its results."""

    results: Results
    audit: Audit
    root: Path

    @property
    def study(self):
        return self.results.study


def write_pages(audited):
    """Write the pages of an audit where the workflow does."""
    for name, text in page_texts(audited.results, audited.audit, audited.root).items():
        write_atomically(audited.root / name, text)


def make_audited(root):
    """Return the default study with its kept records and figures; nothing is drawn."""
    shutil.copytree(ROOT / "docs" / "laptop", root)
    study, source = Study.load(Path("config.yaml"), ROOT), root / "records"
    results = Results(study, load_records(study, source), source)
    audit = audit_records(study, results.records, source)
    write_json(root / "audit" / "audit.json", audit.as_json())
    for file, text in table_texts(results, TABLES_OF_CLAIMS).items():
        write_atomically(root / file, text)
    return Audited(results, audit, root)


def make_kept(name, root, formats):
    """Return a study whose records are kept in `docs/`, with its figures in some formats."""
    study = Study.load(Path(KEPT[name]), ROOT)
    source = root / "records"
    shutil.copytree(ROOT / "docs" / name / "records", source)
    records = load_records(study, source)
    audit = write_results(study, records, source, root, formats)
    write_json(root / "audit" / "audit.json", audit.as_json())
    return Audited(Results(study, records, source), audit, root)
