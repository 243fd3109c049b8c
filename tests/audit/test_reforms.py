"""The REFORMS checklist: 32 items, each answered from the study or honestly not."""

import copy
import html
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from audits_for_tests import Audited, make_audited
from freelunch.audit.audit import Audit, audit_records
from freelunch.audit.page import page_text
from freelunch.audit.reforms import ReformsItem
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import make_records, make_study

# The items of each module, as table 1 of the paper numbers them.
ITEMS = {1: "abc", 2: "abcde", 3: "abcdefg", 4: "abc", 5: "abcdef", 6: "abc", 7: "abc", 8: "ab"}
ANSWERED, IN_PART = "answered", "answered in part"
NOT_APPLICABLE, NOT_ANSWERED = "not applicable", "not answered"
Answers = dict[str, ReformsItem]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return make_audited(tmp_path_factory.mktemp("results") / "made-up", figures=False)


def answers(audit: Audit) -> Answers:
    return {item.id: item for item in audit.reforms}


def asked(study: Study, records: dict[Cell, dict[str, Any]] | None = None) -> Answers:
    """Return what a study answers; `records` are made up if they are not given."""
    records = records or make_records(study, {})
    return answers(audit_records(study, records, study.paths.records))


def changed(study: Study, **block: Any) -> Study:
    """Return a study with other entries of its `study` block."""
    config = copy.deepcopy(study.as_json())
    config["study"] |= block
    return Study.check(config, "made-up.yaml")


def statuses(found: Answers, *items: str) -> set[str]:
    return {found[item].status for item in items}


def test_every_item_is_there_and_has_an_answer_in_sentences(audited: Audited) -> None:
    found = audited.audit.reforms
    assert [item.id for item in found] == [f"{n}{at}" for n, ats in ITEMS.items() for at in ats]
    assert len(found) == 32 and len({item.module for item in found}) == 8
    for item in found:
        assert item.status in {ANSWERED, IN_PART, NOT_APPLICABLE, NOT_ANSWERED}
        assert re.match(r"[A-Z`]", item.text) and item.text.endswith("."), item
        assert not re.search(r"  |\.\.|None|\[|\{", item.text), item


def test_the_same_stands_in_the_file_and_on_the_page(audited: Audited) -> None:
    text = audited.audit.reforms_text
    page = html.unescape(page_text(audited.results, audited.audit, audited.root))
    page = page.replace("\N{NO-BREAK SPACE}", " ")
    page = re.sub("</?code>", "`", page)
    for item in audited.audit.reforms:
        assert f"| {item.id} | {item.asks} | {item.status} | {item.text} |" in text
        assert item.text in page, item.id
        assert f"\n## {item.module}\n" in text and f">{item.module}<" in page
    assert str(audited.root) not in text


def test_answers_are_those_of_the_study(audited: Audited) -> None:
    found = answers(audited.audit)
    assert audited.audit.scope in found["1a"].text and "C2b" in found["1b"].text
    assert audited.audit.worth in found["8b"].text
    assert "`tiny/magnitude-u50/matrix/seed0`" in found["3f"].text
    assert "32 to 640 sequences of 256 tokens" in found["3e"].text
    assert "`full_20` (method full, loss next token)" in found["5a"].text
    assert "with uncommitted changes" in found["2b"].text
    assert "C2: not tested at this scale" in found["8a"].text
    assert "2 seeds" in found["7b"].text and found["7b"].status == IN_PART


def test_a_study_of_ones_own_that_asks_about_no_claim(tmp_path: Path) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("a text")
    config = make_study(adaptations=["none"], criteria=["wanda"]).as_json()
    config["texts"]["evaluation-text"] = {"source": "path", "path": str(mine), "format": "plain"}
    found = asked(Study.check(config, "mine.yaml"))
    assert statuses(found, "1b", "3c", "5b", "8a") == {NOT_ANSWERED}
    assert statuses(found, "5e", "1c") == {NOT_APPLICABLE}
    assert statuses(found, "2a", "2e") == {IN_PART}
    assert "`evaluation-text` from the local file `mine.txt`" in found["2a"].text
    assert all(str(tmp_path) not in item.text for item in found.values())
    assert "nothing is trained" in found["5a"].text and "No hypothesis" in found["7c"].text


def test_records_that_name_neither_commit_nor_machine_say_so() -> None:
    found = asked(make_study())
    assert statuses(found, "2b", "2c") == {NOT_ANSWERED}
    assert "no commit" in found["2b"].text and "no machine" in found["2c"].text


def test_a_number_that_lacks_seeds_counts() -> None:
    """Also where all others have three."""
    study = make_study(seeds=[0, 1, 2])
    assert asked(study)["7b"].status == ANSWERED
    (grid,) = study.as_json()["study"]["grids"]
    fewer = [{**grid, "criteria": ["wanda"]}, {**grid, "criteria": ["magnitude"], "seeds": [0]}]
    found = asked(changed(study, grids=fewer))
    assert found["7b"].status == IN_PART and "from one seed" in found["7b"].text


@pytest.mark.parametrize("text", ["calibration", "evaluation"])
def test_a_choice_of_learning_rates_is_told_with_its_text(text: str) -> None:
    tuned = {"method": "full", "learning_rate": [1e-5, 1e-4], "select_on": text}
    found = asked(make_study({"tuned": tuned}, adaptations=["none", "tuned"]))
    assert "`tuned` chose among 2 candidates" in found["5e"].text
    assert "`lr0.0001.epochs1` (2 of 2 cells)" in found["5e"].text
    assert statuses(found, "5e", "5f") == {ANSWERED}
    assert found["6a"].status == (IN_PART if text == "evaluation" else ANSWERED)


def test_a_choice_of_epochs_on_the_evaluation_text_is_not_called_one_of_learning_rates() -> None:
    tuned = {"method": "full", "epochs": [1, 2], "select_on": "evaluation"}
    found = asked(make_study({"tuned": tuned}, adaptations=["none", "tuned"]))
    assert "But `tuned` chose among candidates on the evaluation text" in found["6a"].text


def test_one_text_for_calibration_and_evaluation_is_a_leak_that_is_told() -> None:
    study = make_study()
    same = {"perplexity": {"text": "calibration-text", "length": 512, "windows": 32}}
    found = asked(changed(study, evaluation=same))
    assert statuses(found, "5c", "6a", "6b") == {IN_PART}
    assert "not kept apart" in found["6b"].text


def test_joined_windows_are_no_sample() -> None:
    settings = {"text": "evaluation-text", "length": 512, "windows": 32, "cut": "joined"}
    found = asked(changed(make_study(), evaluation={"perplexity": settings}))
    assert "the start of `evaluation-text`" in found["3b"].text
    assert "not a sample" in found["3g"].text


def test_a_bar_in_a_name_does_not_end_a_field(audited: Audited) -> None:
    item = ReformsItem("1a", "Study goals", "it", ANSWERED, "a|b.")
    text = replace(audited.audit, reforms=[item]).reforms_text
    assert text.endswith("| answered | a\\|b. |\n")
