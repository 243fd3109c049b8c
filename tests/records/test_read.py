"""Reading records: which are refused, and what their messages say to do."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest

from configs import DRIFT, checked
from freelunch.core.digest import sealed
from freelunch.records.read import (
    answers_beside,
    check_spec,
    differences,
    is_finished,
    load_answers,
    load_records,
)
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import recorded_study
from refusals import refused
from repository import ROOT

CELL = Cell.parse("tiny/wanda-u50/recon_block/seed0")
RULES = {
    name
    for path in (ROOT / "workflow" / "rules").glob("*.smk")
    for name in re.findall(r"^\s*rule (\w+):$", path.read_text(), re.MULTILINE)
}


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study whose records are in the current folder."""
    monkeypatch.chdir(tmp_path)
    return recorded_study()


def of_other_settings(study: Study) -> str:
    record = json.loads(study.paths.record(CELL).read_text())
    record["spec"]["criterion"]["scope"] = "matrix"
    return json.dumps(sealed(record))


@pytest.mark.parametrize(
    ("content", "fields"),
    [
        (lambda study: None, {"todo": "`make study STUDY='my studies/mine.yaml'`"}),
        (lambda study: "{", {"found": "sha256"}),
        (lambda study: "{}", {"found": "sha256"}),
        (lambda study: json.dumps(sealed({})), {"found": "'cell' is a required property"}),
        (lambda study: study.paths.record(CELL).read_text().replace("0.5", "0.4", 1), {}),
        (lambda study: study.paths.record(study.cells[0]).read_text(), {"expected": CELL}),
        (of_other_settings, {"found": 'scope = "matrix"', "todo": "FORCE=prune_model"}),
    ],
)
def test_a_record_that_is_not_the_one_of_the_cell_is_refused(
    study: Study, content: Callable[[Study], str | None], fields: dict[str, object]
) -> None:
    assert is_finished(study) and list(load_records(study)) == study.cells
    path, text = study.paths.record(CELL), content(study)
    path.unlink()
    if text is not None:
        path.write_text(text)
    assert not is_finished(study)
    with refused(where=path, **{"todo": "make repair", **fields}):
        load_records(replace(study, source="my studies/mine.yaml"))


def test_every_setting_names_rules_to_run_again() -> None:
    """Whichever setting of a spec differs."""
    study = checked(DRIFT)
    cell = study.cells[-1]
    spec = study.spec(cell)
    keys = [key for key, *_ in differences(emptied(spec), spec) if key != "cell"]
    assert len(keys) > 20
    for key in keys:
        changed = json.loads(json.dumps(spec))
        *parents, last = key.split(".")
        reduce(dict.__getitem__, parents, changed)[last] = "something else"
        with refused(where="here", found=key) as caught:
            check_spec(changed, spec, cell, "here")
        forced = re.search(r"--forcerun ([\w ]+) --", str(caught.value.todo))
        assert forced is not None and set(forced[1].split()) <= RULES, key


def emptied(value: object) -> object:
    """Return a tree of mappings in which no value is what it was."""
    return {key: emptied(value[key]) for key in value} if isinstance(value, dict) else Exception


def test_answers_that_cannot_be_read(tmp_path: Path) -> None:
    record = tmp_path / CELL.record_name
    for content in (None, b"", b"no gzip"):
        if content is not None:
            answers_beside(record).write_bytes(content)
        with refused(where=answers_beside(record)):
            load_answers(record)
