"""What a study says at the terminal, finished or not."""

import json
import random
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from freelunch.analysis.doubts import BELOW, PERPLEXITY, Doubt
from freelunch.audit.output_files import EVIDENCE, PAGE
from freelunch.audit.rebuild_docs import FIGURES, SUMMARY, VERDICTS, write_results
from freelunch.audit.verdicts import HOLDS, IN_PART, OTHERS
from freelunch.cli import summary
from freelunch.cli.summary import interim_text
from freelunch.core.errors import UserError
from freelunch.records.read import load_finished, load_records, read_record
from freelunch.study.cell import DENSE, NONE
from freelunch.study.study import Study
from repository import ROOT

RECORDS = ROOT / "docs" / "laptop" / "records"


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return the default study as it may stand while it runs: the records of the dense model, of
    what Wanda pruned, and of one block reconstructed after it.
    """
    found = Study.load(Path("config.yaml"), ROOT)
    monkeypatch.chdir(tmp_path)
    found.paths.records.mkdir(parents=True)
    for cell in found.cells:
        if cell.criterion in (DENSE, "wanda") and cell.adaptation in (NONE, "recon_block"):
            # With the answers to tasks beside it.
            for path in RECORDS.glob(f"{Path(cell.record_name).stem}.*"):
                shutil.copy(path, found.paths.records)
    return found


def rows_of(table: str) -> list[str]:
    return [" ".join(line.split()) for line in table.splitlines() if line.startswith("| smollm2")]


def test_finished_cells_have_the_numbers_that_the_whole_study_has(study: Study) -> None:
    # Nothing is left of the look before.
    stale = study.paths.interim / FIGURES / "budgets.png"
    stale.parent.mkdir(parents=True)
    stale.touch()
    said = interim_text(study)
    assert not stale.exists() and not [*study.paths.root.glob(".interim*")]
    head = "3 of the 15 cells of the study `laptop` (config.yaml) have finished.\n"
    assert said.startswith(head)
    assert "\nNot yet: smollm2-135m/magnitude-u50/none/seed0, " in said
    assert ", and 7 more.\n" in said and "Verdicts may change" in said
    assert "pruned by Wanda" in said and "Magnitude" not in said
    assert "not testable here: C1, C1a, C1b, C1c, C2, C2b, " in said
    folder = study.paths.interim
    shown = rows_of((folder / SUMMARY).read_text())
    whole = rows_of((ROOT / "docs" / "laptop" / SUMMARY).read_text())
    cells = [row for row in shown if "| wanda |" in row or "| dense |" in row]
    assert len(cells) >= 3 and set(cells) <= set(whole)
    assert "masklora" not in (folder / VERDICTS).read_text()
    assert (folder / FIGURES / "criteria.png").is_file()
    assert f"page    {folder / PAGE}\n" in said
    page = folder / PAGE
    assert "unfinished: 3 of 15 cells" in page.read_text()
    text = page.read_text() + (folder / EVIDENCE).read_text()
    assert "No cells to test it on have finished." in (folder / VERDICTS).read_text()
    links = set(re.findall(r'href="([^"#:]+)"', text))
    assert len(links) > 10
    assert [link for link in links if not (page.parent / link).is_file()] == []


def test_when_all_have_finished_nothing_is_missing(study: Study) -> None:
    shutil.copytree(RECORDS, study.paths.records, dirs_exist_ok=True)
    said = interim_text(study)
    assert said.startswith("15 of the 15 cells ")
    assert "Not yet" not in said and "may change" not in said
    for name in (SUMMARY, VERDICTS):
        assert (study.paths.interim / name).read_text() == (
            ROOT / "docs" / "laptop" / name
        ).read_text()


def test_a_record_of_other_settings_has_not_finished_and_the_setting_is_named(
    study: Study,
) -> None:
    """Its cell runs again."""
    config = study.as_json()
    rate = config["adaptations"]["recon_block"]["learning_rate"]
    config["adaptations"]["recon_block"]["learning_rate"] *= 2
    edited = Study.check(config, "config.yaml")
    assert {cell.adaptation for cell in load_finished(edited).records} == {"none"}
    cell = "smollm2-135m/wanda-u50/recon_block/seed0"
    assert (
        f"so that they run again: {cell}. For {cell}, adaptation.learning_rate was {rate} and is "
        f"{2 * rate}.\n" in interim_text(edited)
    )


@pytest.mark.parametrize(
    ("name", "problem"), [("recon_block__seed0.json", "altered"), ("gz", "the answers differ")]
)
def test_what_is_damaged_is_made_again_and_the_look_before_stays(
    study: Study, name: str, problem: str
) -> None:
    """`make repair` would also run all that has not finished."""
    interim_text(study)
    before = (study.paths.interim / PAGE).read_bytes()
    path = next(study.paths.records.glob(f"*{name}"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=problem) as raised:
        interim_text(study)
    assert "remove it, and run the study" in str(raised.value)
    assert "make study STUDY=config.yaml" in str(raised.value)
    assert "repair" not in str(raised.value)
    assert (study.paths.interim / PAGE).read_bytes() == before


def test_a_record_that_a_running_study_removes_meanwhile_has_not_finished(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    def removed(path: Path) -> None:
        if "recon_block" in path.name:
            path.unlink(missing_ok=True)
        return read_record(path)

    monkeypatch.setattr("freelunch.records.read.read_record", removed)
    assert interim_text(study).startswith("2 of the 15 cells ")


def test_without_a_pruned_cell_beside_its_dense_model_there_is_nothing_to_say(
    study: Study,
) -> None:
    (study.paths.records / study.cells[0].record_name).unlink()
    with pytest.raises(UserError, match="nothing can be compared yet") as raised:
        interim_text(study)
    assert "2 records of the study as it is, and 0 made with other settings" in str(raised.value)
    assert not study.paths.interim.exists()


@pytest.mark.parametrize(
    ("file", "name"), [("config.yaml", "laptop"), ("studies/full.yaml", "full")]
)
def test_any_cells_may_be_the_first_to_finish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, name: str
) -> None:
    """Cells finish in no fixed order: adapted ones before those without adaptation, some seeds."""
    study, folder = Study.load(Path(file), ROOT), ROOT / "docs" / name / "records"
    records = load_records(study, folder)
    dense, pruned = (
        [cell for cell in study.cells if cell.is_dense == is_dense] for is_dense in (True, False)
    )
    chance = random.Random(0)
    for count in (1, len(pruned) // 4, len(pruned) // 2):
        some = frozenset([*dense, *chance.sample(pruned, count)])
        part = replace(study, finished=some)
        write_results(
            part, {cell: records[cell] for cell in part.cells}, folder, tmp_path, [".png"]
        )
        finished = f"Unfinished: {len(some)} of the {len(study.cells)} cells have finished"
        assert finished in (tmp_path / SUMMARY).read_text()


# --- Finished

SCOPE = "a model; 8,192 tokens; number of seeds: 1."
ANSWER = "Reconstruction lowers the perplexity."
FOUND = {"C1": HOLDS, "C2": IN_PART, "C2b": HOLDS, "C4": "not testable here"}


def of_kept(file: str, name: str, *doubts: Doubt) -> list[str]:
    """Return the summary of a study whose records docs/ keeps."""
    study = Study.load(Path(file), ROOT)
    records = load_records(study, ROOT / "docs" / name / "records")
    study.paths.audit.mkdir(parents=True)
    bearing = OTHERS
    claims = [
        {"id": claim, "verdict": verdict, "bearing": bearing} for claim, verdict in FOUND.items()
    ]
    published = [{"id": "C3", "verdict": IN_PART}]
    found = {"answer": ANSWER, "scope": SCOPE, "claims": claims, "published_claims": published}
    text = json.dumps(found | {"doubts": [*map(asdict, doubts)]})
    (study.paths.audit / "audit.json").write_text(text)
    return summary.summary_text(study, records).splitlines()


def test_the_best_is_marked_where_it_is_no_finding() -> None:
    best = "smollm2-135m/wanda-u50/masklora/seed0"
    lines = of_kept("config.yaml", "laptop", Doubt(best, BELOW, PERPLEXITY, "Seen.", "Do this."))
    assert any(f"44.8 (no finding: {BELOW}) (masklora)" in line for line in lines)
    assert f"No finding: {BELOW}. {best}: Seen.. Do this." in lines


def test_the_best_of_each_kind_is_named_with_its_number() -> None:
    lines = of_kept("config.yaml", "laptop")
    assert len(lines) <= 15
    assert lines[:3] == ["The study `laptop` (config.yaml) is finished.", ANSWER, f"Scope: {SCOPE}"]
    row = next(line for line in lines if line.startswith("  smollm2-135m"))
    # As docs/laptop/tables/summary.md has them.
    assert re.split("  +", row.strip()) == [
        "smollm2-135m",
        "u50",
        "wanda",
        "27.0",
        "55.6",
        "47.6 (recon_5)",
        "44.8 (masklora)",
    ]
    told = "The paper's claims here: reproduced: C1, C2b; reproduced in part: C2; not testable "
    told += "here: C4"
    assert lines[lines.index(told) + 1 :][:2] == [
        f"What that says of the paper's claims: {OTHERS}: C1, C2, C2b, C4",
        "In published tables: reproduced in part: C3",
    ]
    assert "tables       results/laptop/tables/summary.md, and more beside it" in lines
