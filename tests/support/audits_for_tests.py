"""A made-up study as a finished run leaves it: its records, tables, figures and audit."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from freelunch.audit.audit import Audit, audit_study
from freelunch.audit.claim_verdicts import audit_claims
from freelunch.audit.claims import load_claims
from freelunch.audit.evidence import Evidence
from freelunch.audit.figures import TABLES_OF_CLAIMS, figures
from freelunch.audit.output_files import PAGE
from freelunch.audit.page import page_text
from freelunch.audit.rebuild_docs import write_results
from freelunch.core.digest import sealed
from freelunch.core.files import write_atomically, write_json
from freelunch.records.read import load_records
from freelunch.reporting.drawing.figure_files import draw_figure
from freelunch.reporting.results import Results
from freelunch.reporting.tables import table_texts
from freelunch.study.study import Study
from records_for_tests import make_records, make_study
from repository import ROOT

KEPT = {
    "full": "studies/full.yaml",
    "laptop": "config.yaml",
    "budgets": "studies/budgets.yaml",
    "quirks": "studies/quirks.yaml",
    "precision": "studies/precision.yaml",
}
# Where there is no SVG, the page shows the PNG.
DRAWN = ("criteria.svg", "windows.svg", "budgets.png")
# These adaptations make a comparison of windows, a comparison of budgets, and a cell whose
# perplexity is not finite.
ADAPTATIONS: dict[str, dict[str, Any]] = {
    "matrix": {"method": "reconstruction", "window": "matrix", "train_norms": False},
    "halves": {"method": "reconstruction", "window": "attention_mlp", "train_norms": False},
    "five": {"method": "reconstruction", "window": 5, "train_norms": False},
    "whole": {"method": "reconstruction", "window": "all", "train_norms": False},
    "full_1": {"method": "full", "budget": {"times": 1, "of": "recon_block"}},
    "full_20": {"method": "full", "budget": {"times": 20, "of": "recon_block"}},
}
PERPLEXITIES = {
    "dense/none": 20.0,
    "magnitude-u50/none": 300.0,
    "magnitude-u50/recon_block": 150.0,
    "magnitude-u50/matrix": None,
    "wanda-u50/none": 90.0,
    "wanda-u50/recon_block": 39.0,
    "wanda-u50/matrix": 43.0,
    "wanda-u50/halves": 60.0,
    "wanda-u50/five": 39.2,
    "wanda-u50/whole": 39.1,
    "wanda-u50/full_1": 42.0,
    "wanda-u50/full_20": 38.0,
}
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
ORIGIN = {
    "source": "wheel",
    "package": "some-package",
    "version": "1.2.3",
    "sha256": "0" * 64,
    "member": "tiny.gguf",
    "files": {"tiny.gguf": "1" * 64},
    "licence": "Apache-2.0",
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


def write_page(audited, **more):
    """Write the page of an audit where the workflow does, and return its path."""
    path = audited.root / PAGE
    write_atomically(path, page_text(audited.results, audited.audit, audited.root, **more))
    return path


def make_audited(root):
    """Return a study that was run and audited, with its files below `root`."""
    block = {"recon_block": {"method": "reconstruction", "train_norms": False}}
    study = make_study(
        {**ADAPTATIONS, **block}, adaptations=["none", "recon_block", *ADAPTATIONS], seeds=[0, 1]
    )
    values = {
        str(cell): value
        for cell in study.cells
        if (value := PERPLEXITIES.get(f"{cell.pruning}/{cell.adaptation}", 50.0)) or cell.seed == 0
    }
    records = make_records(study, values)
    for cell, record in records.items():
        record["provenance"] |= {
            "environments": dict.fromkeys(record["cost"], ENVIRONMENT),
            "model_origin": ORIGIN,
            "text_origins": {"evaluation": ORIGIN | {"member": "wiki.utf8"}},
            "digests": {"model": "2" * 64, "evaluation_token_ids": "3" * 64},
        }
        write_json(root / "records" / cell.record_name, sealed(record))
    audit = audit_study(study, root / "records")
    # Audit a part of a claim that can be tested with the two criteria of this study.
    claim = next(claim for claim in load_claims() if claim.id == audit.claims[0].id)
    part = replace(claim.parts[0], settings={"criteria": ["magnitude", "wanda"]})
    evidence = Evidence(study, records, root / "records")
    (tested,) = audit_claims(evidence, [replace(claim, parts=[part])])
    audit.claims[0].parts[0] = tested.parts[0]
    write_json(root / "audit" / "audit.json", audit.as_json())
    results = Results(study, records, root / "records")
    for file, text in table_texts(results, TABLES_OF_CLAIMS).items():
        write_atomically(root / file, text)
    for name in DRAWN:
        output = root / "figures" / name
        figure = figures()[output.stem]
        data = output.with_suffix(".csv")
        draw_figure(figure.drawing, data, figure.settings(study), [output])
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
