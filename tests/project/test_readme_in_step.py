"""The README shows what the full study found, and names commands and files that exist."""

import re
from pathlib import Path

import pytest
from matplotlib.image import imread

from audits_for_tests import KEPT, Audited, draw, make_kept
from freelunch.costs.plan import Plan
from freelunch.records.read import load_records
from freelunch.reporting.audit.verdict_table import verdict_table
from freelunch.reporting.readme import main
from freelunch.study.study import Study

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
VERDICTS = ROOT / "docs" / "full" / "audit" / "verdicts.md"
SUMMARY = ROOT / "docs" / "full" / "tables" / "summary.md"


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(scope="module", params=KEPT)
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return make_kept(request.param, tmp_path_factory.mktemp("kept") / request.param)


def test_records_are_of_the_config(kept: Audited):
    records = load_records(kept.study, ROOT / "docs" / kept.study.name / "records")
    assert len(records) == len(kept.study.cells)


def test_tables_are_those_of_the_committed_records(kept: Audited):
    shown = ROOT / "docs" / kept.study.name / "tables" / "summary.md"
    assert shown.read_text() == (kept.root / "tables" / "summary.md").read_text()


def test_verdicts_are_those_of_the_committed_records(kept: Audited):
    shown = ROOT / "docs" / kept.study.name / "audit" / "verdicts.md"
    assert shown.read_text() == verdict_table(kept.audit["claims"])


def test_figures_are_those_of_the_committed_records(kept: Audited, tmp_path: Path):
    """But for how another machine rounds the edge of a letter."""
    shown = sorted((ROOT / "docs" / kept.study.name / "figures").iterdir())
    kept_of_full = ["budgets.png", "criteria.png", "drift.png", "windows.png"]
    expected = kept_of_full if kept.study.name == "full" else ["budgets.png"]
    assert [path.name for path in shown] == expected
    draw(kept.study, kept.root / "figures", *(tmp_path / name for name in expected))
    for path in shown:
        as_shown, drawn = (imread(it) for it in (path, tmp_path / path.name))
        assert as_shown.shape == drawn.shape, path
        assert abs(as_shown - drawn).mean() < 1e-3, path


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
