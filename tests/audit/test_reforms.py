"""The REFORMS checklist: 32 items, each answered from the study or honestly not."""

import html
import re
from dataclasses import replace

import pytest

from freelunch.audit.audit import audit_records
from freelunch.audit.page import page_text
from freelunch.audit.reforms import ReformsItem
from freelunch.study.study import Study
from records_for_tests import make_records, make_study

# The items of each module, as table 1 of the paper numbers them.
ITEMS = {1: "abc", 2: "abcde", 3: "abcdefg", 4: "abc", 5: "abcdef", 6: "abc", 7: "abc", 8: "ab"}
ANSWERED, IN_PART = "answered", "answered in part"
NOT_APPLICABLE, NOT_ANSWERED = "not applicable", "not answered"


def answers(audit):
    return {item.id: item for item in audit.reforms}


def asked(study, **block):
    """Return what a study answers, with other entries of its `study` block and made-up records."""
    config = study.as_json()
    config["study"] |= block
    study = Study.check(config, "made-up.yaml")
    records = make_records(study, {"tiny/wanda-u50/none/seed0": None})
    return answers(audit_records(study, records, study.paths.records))


def statuses(found, *items):
    return {found[item].status for item in items}


def test_every_item_has_an_answer_in_sentences_in_the_file_and_on_the_page(made):
    found = made.audit.reforms
    assert [item.id for item in found] == [f"{n}{at}" for n, ats in ITEMS.items() for at in ats]
    assert len({item.module for item in found}) == 8
    text = made.audit.reforms_text
    page = html.unescape(page_text(made.results, made.audit, made.root))
    page = re.sub("</?code>", "`", page.replace("\N{NO-BREAK SPACE}", " "))
    for item in found:
        assert item.status in {ANSWERED, IN_PART, NOT_APPLICABLE, NOT_ANSWERED}
        assert re.match(r"[A-Z`]", item.text) and item.text.endswith("."), item
        assert not re.search(r"  |\.\.|None|\[|\{", item.text), item
        assert f"| {item.id} | {item.asks} | {item.status} | {item.text} |" in text
        assert item.text in page, item.id
        assert f"\n## {item.module}\n" in text and f">{item.module}<" in page
    assert str(made.root) not in text
    bar = ReformsItem("1a", "Study goals", "it", ANSWERED, "a|b.")
    text = replace(made.audit, reforms=[bar]).reforms_text
    assert text.endswith("| answered | a\\|b. |\n"), "a bar would end the field"


def test_answers_are_those_of_the_study(made):
    found = answers(made.audit)
    assert made.audit.scope in found["1a"].text and "C2b" in found["1b"].text
    assert made.audit.worth in found["8b"].text
    for item, text in {
        "2b": "(clean)",
        "3e": "32 sequences of 256 tokens",
        "5a": "`full` (method full, loss next token)",
        "7b": "from one seed",
        "8a": "C2: not tested at this scale",
    }.items():
        assert text in found[item].text
    assert found["7b"].status == IN_PART


def test_a_study_of_ones_own_that_asks_about_no_claim(tmp_path):
    """Its records name neither commit nor machine."""
    mine = tmp_path / "mine.txt"
    mine.write_text("a text")
    config = make_study(adaptations=["none"], criteria=["wanda"]).as_json()
    config["texts"]["evaluation-text"] = {"source": "path", "path": str(mine), "format": "plain"}
    found = asked(Study.check(config, "mine.yaml"))
    assert statuses(found, "1b", "2b", "2c", "3c", "5b", "8a") == {NOT_ANSWERED}
    assert statuses(found, "5e", "1c") == {NOT_APPLICABLE}
    assert statuses(found, "2a", "2e") == {IN_PART}
    assert "not finite in 1: `tiny/wanda-u50/none/seed0`" in found["3f"].text
    assert "`evaluation-text` from the local file `mine.txt`" in found["2a"].text
    assert "no commit" in found["2b"].text and "no machine" in found["2c"].text
    assert all(str(tmp_path) not in item.text for item in found.values())
    assert "nothing is trained" in found["5a"].text and "No hypothesis" in found["7c"].text


def test_a_number_that_lacks_seeds_counts():
    """Also where all others have three."""
    study = make_study(seeds=[0, 1, 2])
    assert asked(study)["7b"].status == ANSWERED
    (grid,) = study.as_json()["study"]["grids"]
    fewer = [{**grid, "criteria": ["wanda"]}, {**grid, "criteria": ["magnitude"], "seeds": [0]}]
    found = asked(study, grids=fewer)
    assert found["7b"].status == IN_PART and "from one seed" in found["7b"].text


@pytest.mark.parametrize(
    ("text", "key", "values", "chosen"),
    [
        ("calibration", "learning_rate", [1e-5, 1e-4], "`lr0.0001.epochs1` (2 of 2 cells)"),
        ("evaluation", "epochs", [1, 2], ""),
    ],
)
def test_a_choice_is_told_with_its_text(text, key, values, chosen):
    tuned = {"method": "full", key: values, "select_on": text}
    found = asked(make_study({"tuned": tuned}, adaptations=["none", "tuned"]))
    assert "`tuned` chose among 2 candidates" in found["5e"].text and chosen in found["5e"].text
    assert statuses(found, "5e", "5f") == {ANSWERED}
    assert found["6a"].status == (IN_PART if text == "evaluation" else ANSWERED)
    favour = "But `tuned` chose among candidates on the evaluation text"
    assert (favour in found["6a"].text) == (text == "evaluation")


def test_one_text_for_calibration_and_evaluation_is_a_leak_and_joined_windows_no_sample():
    settings = {"text": "calibration-text", "length": 512, "windows": 32}
    found = asked(make_study(), evaluation={"perplexity": settings})
    assert statuses(found, "5c", "6a", "6b") == {IN_PART}
    assert "not kept apart" in found["6b"].text
    settings |= {"text": "evaluation-text", "cut": "joined"}
    found = asked(make_study(), evaluation={"perplexity": settings})
    assert "the start of `evaluation-text`" in found["3b"].text
    assert "not a sample" in found["3g"].text
