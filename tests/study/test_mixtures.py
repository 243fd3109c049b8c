"""Mixtures in a config: what is refused, what a study takes from its base, and its spec."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from configs import changed, checked, config, problems
from freelunch.study.cell import Cell
from freelunch.study.study import Study

MIXED: dict[str, Any] = {
    "texts.mixed": {"source": "mixture", "parts": {"unused": 0.75, "c4": 0.25}},
    "study.calibration.text": "mixed",
}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"texts.mixed.parts": {"c4": 0.5, "wikki": 0.5}}, "parts: 'wikki' is not in `texts`"),
        (
            {"texts.mixed.parts": {"c4": 0.5, "unused": 0.4}},
            "expected two or more shares that add up to 1, not to 0.9",
        ),
        ({"texts.mixed.parts": {}}, "parts: found {}; expected two or more shares"),
        ({"texts.mixed.parts": {"c4": 0.0, "unused": 0.5}}, "parts.c4: found 0.0"),
        (
            {"texts.more": {"source": "mixture", "parts": {"mixed": 0.5, "wiki": 0.5}}},
            "more.parts.mixed: found a mixture",
        ),
        (
            {"texts.unused": {"source": "tokens", "path": "README.md"}},
            "mixed.parts.unused: a `tokens` source has no documents",
        ),
        (
            {"study.evaluation.perplexity.text": "mixed"},
            "perplexity.text: 'mixed' is a mixture source, which is to calibrate on",
        ),
        ({"texts.mixed.held_out": 1.0}, "texts.mixed.held_out: found 1.0"),
        ({"texts.mixed.evaluation_text": "keep"}, 'texts.mixed.evaluation_text: found "keep"'),
    ],
)
def test_what_a_mixture_cannot_be(changes: dict[str, Any], problem: str) -> None:
    assert problem in problems(changed(changes, changed(MIXED)))[0]


def test_a_part_that_is_another_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("one.txt", "two.txt"):
        Path(name).write_text("A line.\n")
    one = {"source": "path", "path": "one.txt", "format": "lines"}
    texts = {"texts.c4": one, "texts.unused": {**one, "path": "./one.txt"}}
    (line,) = problems(changed({**MIXED, **texts}))
    assert line.startswith("texts.mixed.parts.c4: this is the same text as unused")
    checked(changed({**MIXED, **texts, "texts.unused": {**one, "path": "two.txt"}}))


def test_a_part_that_is_the_evaluation_text_is_to_be_left_out() -> None:
    """The sample would be refused, but only after the model was fetched."""
    parts = {"wiki": 0.5, "c4": 0.5}
    mixed = changed({**MIXED, "texts.mixed.parts": parts})
    (line,) = problems(mixed)
    assert line.startswith("texts.mixed.parts.wiki: this is the evaluation text, wiki")
    # Under another name, too.
    text = config()["texts"]["wiki"]
    other = changed({"texts.same": text, "texts.mixed.parts": {"same": 0.5, "c4": 0.5}}, mixed)
    assert problems(other)[0].startswith("texts.mixed.parts.same: this is the evaluation text")
    Study.check(changed({"texts.mixed.evaluation_text": "leave_out"}, mixed), "config.yaml")
    # Nothing is drawn from a mixture that the study does not calibrate on.
    Study.check(changed({"study.calibration.text": "c4"}, mixed), "config.yaml")


def test_a_study_takes_the_parts_of_its_mixture_from_its_base(tmp_path: Path) -> None:
    complete = changed(MIXED)
    study = complete.pop("study")
    base = tmp_path / "base.yaml"
    base.write_text(yaml.safe_dump(complete))
    found = Study.check({"base": str(base), "study": study}, "config.yaml")
    assert set(found.config.texts) == {"mixed", "wiki", "unused", "c4"}
    other = {**study, "calibration": {**study["calibration"], "text": "c4"}}
    found = Study.check({"base": str(base), "study": other}, "config.yaml")
    assert set(found.config.texts) == {"c4", "wiki"} and found.mixture is None


def test_the_settings_of_the_parts_are_in_the_spec() -> None:
    cell = Cell("one", "wanda", "u50", "none", 0)

    def text(changes: dict[str, Any]) -> Any:
        study = Study.check(changed({**MIXED, **changes}), "config.yaml")
        return study.spec(cell)["calibration"]["text"]

    spec = text({})
    assert spec["name"] == "mixed" and list(spec["parts"]) == ["c4", "unused"]
    assert spec["parts"]["c4"] == {"share": 0.25, **config()["texts"]["c4"], "field": "text"}
    assert text({"texts.c4.licence": "free", "texts.mixed.licence": "free"}) == spec
    assert text({"texts.c4.sha256": "1" * 64}) != spec
