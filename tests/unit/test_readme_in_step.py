"""The README shows what the full study found, and names commands and files that exist."""

import re
from pathlib import Path

import pytest

from freelunch.audit.audit import audit_study
from freelunch.audit.verdict_table import verdict_table
from freelunch.plan import Plan
from freelunch.readme import main
from freelunch.records import load_records
from freelunch.study import Study
from freelunch.tables import table_texts

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
VERDICTS = ROOT / "docs" / "full" / "audit" / "verdicts.md"
RECORDS = ROOT / "docs" / "full" / "records"
SUMMARY = ROOT / "docs" / "full" / "tables" / "summary.md"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def test_table_is_that_of_the_committed_records():
    study = Study.load(Path("studies/full.yaml"))
    records = load_records(study, RECORDS)
    expected = table_texts(study, records, RECORDS)["summary_md"]
    assert SUMMARY.read_text() == expected


def test_verdicts_are_those_of_the_committed_records():
    audit = audit_study(Study.load(Path("studies/full.yaml")), RECORDS)
    assert VERDICTS.read_text() == verdict_table(audit["claims"])


@pytest.mark.parametrize("shown", [SUMMARY, VERDICTS])
def test_readme_shows_them(shown: Path):
    assert main(["--check", str(README), str(shown)]) == 0


def test_every_make_target_in_the_readme_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"`make ([a-z-]+)", README.read_text()))
    named |= set(re.findall(r"^\$ make ([a-z-]+)", README.read_text(), re.M))
    assert named
    assert named <= targets, named - targets


def test_every_link_in_the_readme_leads_somewhere():
    links = re.findall(r"\]\((?!http)([^)#]+)\)", README.read_text())
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_study_files_of_the_readme_exist():
    for name in set(re.findall(r"studies/(\w+)\.yaml", README.read_text())) - {"mine"}:
        assert (ROOT / "studies" / f"{name}.yaml").is_file(), name


def test_the_plan_of_72b_in_the_readme():
    """What `make plan STUDY=studies/qwen72b.yaml TFLOPS=400` prints, but for the list of cells."""
    text = Plan.of(Study.load(Path("studies/qwen72b.yaml"))).text(flops_per_s=400e12)
    assert text[text.index("  step") :] in README.read_text()
