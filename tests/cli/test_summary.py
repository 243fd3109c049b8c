"""What a finished study says of itself at the terminal."""

import json
import re
from pathlib import Path

import pytest

from freelunch.cli import summary
from freelunch.records.read import load_records
from freelunch.study.study import Study
from repository import ROOT

SCOPE = "a model; 8,192 tokens; number of seeds: 1."
ANSWER = "Reconstruction lowers the perplexity."
VERDICTS = {"C1": "found", "C2": "found in part", "C2b": "found", "C4": "not testable here"}


def of_kept(study_file, name, tmp_path, monkeypatch):
    """Return the summary of a study whose records docs/ keeps."""
    monkeypatch.chdir(ROOT)
    study = Study.load(Path(study_file))
    records = load_records(study, Path("docs") / name / "records")
    monkeypatch.chdir(tmp_path)
    study.paths.audit.mkdir(parents=True)
    bearing = "not tested at this scale"
    claims = [
        {"id": claim, "verdict": verdict, "bearing": bearing} for claim, verdict in VERDICTS.items()
    ]
    published = [{"id": "C3", "verdict": "found in part"}]
    found = {"answer": ANSWER, "scope": SCOPE, "claims": claims, "published_claims": published}
    text = json.dumps(found)
    (study.paths.audit / "audit.json").write_text(text)
    return summary.summary_text(study, records).splitlines()


def test_the_best_of_each_kind_is_named_with_its_number(tmp_path, monkeypatch):
    lines = of_kept("config.yaml", "laptop", tmp_path, monkeypatch)
    assert len(lines) <= 15
    assert lines[:3] == ["The study `laptop` (config.yaml) is finished.", ANSWER, f"Scope: {SCOPE}"]
    row = next(line for line in lines if line.startswith("  smollm2-135m"))
    # As docs/laptop/tables/summary.md has them.
    assert re.split("  +", row.strip()) == [
        "smollm2-135m",
        "u50",
        "27.0",
        "55.6 (wanda)",
        "47.6 (wanda, recon_5)",
        "44.8 (wanda, full)",
    ]
    told = "The paper's claims here: found: C1, C2b; found in part: C2; not testable here: C4"
    assert lines[lines.index(told) + 1 :][:2] == [
        "What that says of the paper's claims: not tested at this scale: C1, C2, C2b, C4",
        "In published tables: found in part: C3",
    ]
    assert "tables       results/laptop/tables/summary.md, and more beside it" in lines


@pytest.mark.parametrize(("rows", "hidden"), [(4, 0), (2, 1)])
def test_what_has_no_room_is_in_the_tables(tmp_path, monkeypatch, rows, hidden):
    monkeypatch.setattr(summary, "_ROWS", rows)
    lines = of_kept("studies/full.yaml", "full", tmp_path, monkeypatch)
    shown = [line for line in lines if line.startswith("  smollm2-135m")]
    more = [line for line in lines if "more: " in line]
    assert len(shown) == min(rows, len(shown) + hidden)
    assert len(more) == (hidden > 0) and all("results/full/tables/summary.md" in x for x in more)
