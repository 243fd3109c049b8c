"""README and docs show what the kept records give, and name commands and files that exist."""

import functools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from matplotlib.image import imread

from audits_for_tests import KEPT, Audited, make_kept
from freelunch.audit import rebuild_docs as kept_pages
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_text
from freelunch.records.read import load_records
from freelunch.study.open_study import part_of
from freelunch.study.schema import settings_page
from freelunch.study.study import Study
from recipes import RECIPES, files_of
from repository import ROOT

DOCS = ROOT / "docs"
README = ROOT / "README.md"
HALF = "of half a block's gain"
OF_THE_BEST = "of the best gain among one block, five and all"
# What is written by hand.
PAGES = [
    README,
    ROOT / "CONTRIBUTING.md",
    *(path for path in sorted(DOCS.rglob("*.md")) if path.parent.name not in KEPT),
]
PAGES = [path for path in PAGES if path.parent.name not in ("tables", "audit")]
# The pages whose numbers are those of records that are kept.
OF_RECORDS = [README, *(DOCS / "results" / f"{name}.md" for name in ("index", *KEPT))]


pytestmark = pytest.mark.usefixtures("in_the_repository")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Audited]:
    """Make what follows from the records of a kept study, once for all tests."""
    folder = tmp_path_factory.mktemp("kept")
    return functools.cache(lambda name: make_kept(name, folder / name, [".png"]))


@pytest.fixture(params=KEPT)
def kept(request: pytest.FixtureRequest, made: Callable[[str], Audited]) -> Audited:
    return made(request.param)


# --- Tables, verdicts and figures


def test_records_are_of_the_config(kept: Audited):
    records = load_records(kept.study, DOCS / kept.study.name / "records")
    assert len(records) == len(kept.study.cells)


def test_all_that_is_shown_follows_from_the_records(kept: Audited):
    """Figures but for how another machine rounds the edge of a letter."""
    shown = DOCS / kept.study.name
    for name in (kept_pages.SUMMARY, kept_pages.VERDICTS):
        assert (shown / name).read_text() == (kept.root / name).read_text(), "run `make kept`"
    figures = sorted((shown / "figures").iterdir())
    drawn = sorted((kept.root / "figures").glob("*.png"))
    assert [path.name for path in figures] == [path.name for path in drawn], "run `make kept`"
    for one, other in zip(figures, drawn, strict=True):
        a, b = imread(one), imread(other)
        assert a.shape == b.shape, f"{one}: run `make kept`"
        assert abs(a - b).mean() < 1e-3, f"{one}: run `make kept`"


def test_a_page_shows_them(kept: Audited):
    name = kept.study.name
    page = (DOCS / "results" / f"{name}.md").read_text()
    for shown in (kept_pages.SUMMARY, kept_pages.VERDICTS):
        assert f'--8<-- "{name}/{shown}"' in page
    for figure in (DOCS / name / "figures").iterdir():
        assert f"(../{name}/figures/{figure.name})" in page


@pytest.mark.parametrize("kept", ["full"], indirect=True)
def test_verdicts_claim_by_claim(kept: Audited):
    page = (DOCS / "results" / "index.md").read_text()
    rows = dict(re.findall(r"^\| (C\w+) \| [^|]+ \| \*\*([^*|]+?)\.\*\*", page, re.M))
    assert rows == {
        claim["id"]: claim["verdict"].capitalize() for claim in kept.audit.as_json()["claims"]
    }


@pytest.mark.parametrize("kept", ["budgets"], indirect=True)
def test_readme_and_documentation_begin_with_the_findings(kept: Audited):
    findings = (kept.root / kept_pages.FINDINGS).read_text()
    assert (DOCS / "budgets" / kept_pages.FINDINGS).read_text() == findings, "run `make kept`"
    section = README.read_text().split("## What we found\n")[1].split("\n## ")[0]
    assert f"\n{findings}\n" in section
    assert len(findings.split("\n\n")[0].split()) <= 220
    assert f'--8<-- "budgets/{kept_pages.FINDINGS}"' in (DOCS / "index.md").read_text()


# --- Numbers


def numbers(text: str) -> set[str]:
    """Return the numbers of a text that were measured: with a fraction, or with thousands."""
    return set(re.findall(r"(?<![\w.,-])(?:\d+\.\d+|\d{1,3}(?:,\d{3})+)(?![\w]|\.\d)", text))


def retrained_with_one_seed() -> Iterator[str]:
    """Yield the lines of the table of retraining with one seed, each of them of one adaptation."""
    folder = DOCS / "budgets" / "records"
    for name in ("recon", "masklora", "lora_prune", "masklora_distilled", "full"):
        cells: dict[str, list[str]] = {"perplexity": [], "drift": []}
        for metric, written in cells.items():
            for budget in ("131k", "524k", "1600k"):
                path = folder / f"smollm2-135m__wanda-u50__{name}_{budget}__seed0.json"
                found = json.loads(path.read_text())["metrics"][metric] if path.exists() else None
                written.append(f"{found['perplexity']:.1f}" if found else "")
        shown = "reconstruction" if name == "recon" else f"`{name}`"
        yield f"| {' | '.join([shown, *cells['perplexity'], *cells['drift']])} |".replace(
            "|  |", "| |"
        )


def test_the_table_of_retraining_with_one_seed():
    page = (DOCS / "results" / "budgets.md").read_text()
    assert "\n".join(retrained_with_one_seed()) in page


@pytest.fixture(scope="module")
def measured(made: Callable[[str], Audited]) -> set[str]:
    found = set()
    for name in KEPT:
        for shown in (kept_pages.SUMMARY, kept_pages.VERDICTS):
            # Prose says that something shrinks by as much.
            found |= numbers(re.sub(r"(?<=[ (])-(?=\d)", "", (DOCS / name / shown).read_text()))
    return found | {number for line in retrained_with_one_seed() for number in numbers(line)}


@pytest.mark.parametrize("page", OF_RECORDS, ids=lambda path: path.name)
def test_numbers_in_prose_stand_in_the_tables(page: Path, measured: set[str]):
    prose = re.sub(r"```.*?```|`[^`]*`|\]\([^)]*\)", "", page.read_text(), flags=re.S)
    prose = re.sub(r"arXiv \d+\.\d+|Python \d\.\d+|Qwen2\.5|Apache-2\.0", "", prose)
    assert not numbers(prose) - measured


def test_the_page_of_settings():
    assert (DOCS / "guide" / "settings.md").read_text() == settings_page(), "run `make settings`"


def test_the_plan_of_72b():
    """What `make plan` prints with the options of the page, but for the list of cells."""
    page = (DOCS / "guide" / "windows.md").read_text()
    assert "make plan STUDY=studies/qwen72b.yaml TFLOPS=400 DISK=2GB/s DEVICE_MEMORY=80\n" in page
    machine = Machine.of(400e12, 2e9, None, 80 * 10**9)
    study = Study.load(Path("studies/qwen72b.yaml"))
    text = plan_text(Plan.of(study, machine.device_bytes), machine)
    assert text[text.index("  step") :] in page


def test_the_prices_of_the_papers_study():
    """What `make plan` prints with the options of the page, from the models to the claims."""
    page = (DOCS / "guide" / "paper.md").read_text()
    assert "make plan STUDY=studies/paper.yaml TFLOPS=400 DISK=2GB/s DEVICE_MEMORY=80\n" in page
    machine = Machine.of(400e12, 2e9, None, 80 * 10**9)
    text = plan_text(Plan.of(Study.load(Path("studies/paper.yaml")), machine.device_bytes), machine)
    prices = text[text.index("  model  ") : text.index(" adaptations of models")]
    assert prices.rpartition("\n")[0].rstrip() in page


def test_the_days_of_the_papers_study():
    """Each row's part, planned alone, takes as long as the row says."""
    page, paper = (DOCS / "guide" / "paper.md").read_text(), Study.load(Path("studies/paper.yaml"))
    machine = Machine.of(400e12, 2e9, None, 80 * 10**9)
    row = r"^\| \d \| `MODELS=(\S+) CLAIMS=(\S+?)(?: SEEDS=(\d))?` \| (.+?) \|"
    rows = re.findall(row, page, re.M)
    assert len(rows) > 5
    for models, claims, seeds, time in rows:
        part = paper.of_part(part_of(models, claims, seeds or None))
        plan = plan_text(Plan.of(part, machine.device_bytes), machine)
        assert f"About {time} from scratch" in plan, (models, claims)


def test_what_one_gpu_takes():
    """What `make plan` prints with the options of the page, with adaptations for 24 GB."""
    page, study = (DOCS / "guide" / "one_gpu.md").read_text(), Path("studies/one_gpu.yaml")
    for size, rate in ((24, 100), (40, 200), (80, 400)):
        plan = Plan.of(Study.load(study, part=part_of(seeds="0")), size * 10**9)
        text = plan_text(plan, Machine.of(rate * 1e12, 2e9, None, size * 10**9))
        models, adaptations = re.findall(r"^  model .*\n(?:  \S.*\n)+", text, re.M)
        command = f"make plan STUDY={study} SEEDS=0 TFLOPS={rate} DISK=2GB/s DEVICE_MEMORY={size}"
        assert f"$ {command}\n{models}" in page
        assert adaptations in page or size > 24


# --- What a reader is sent to


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_everything_that_a_page_names_exists(page: Path):
    text = page.read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^\$ )make ([a-z-]+)", text, re.M)) <= targets
    for link in re.findall(r"\]\((?!http|#)([^)#]+)[^)]*\)", text):
        assert (page.parent / link).exists(), link
    made_up = {"studies/mine.yaml", "envs/freelunch.sif"}
    if page.parent == RECIPES:
        made_up |= set(files_of(page.stem))
    rooted = r"`((?:workflow|studies|envs|config|tests|docs)/[\w./-]*\w)/?`"
    for path in set(re.findall(rooted, text)) - made_up:
        assert (ROOT / path).exists(), path
