"""Reading records: which are refused, and what their messages say to do."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from configs import DRIFT, checked
from freelunch.core.digest import sealed
from freelunch.core.errors import UserError
from freelunch.records.read import (
    answers_beside,
    check_spec,
    is_finished,
    load_answers,
    load_records,
)
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import recorded_study
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


def refusal(study: Study) -> str:
    with pytest.raises(UserError) as caught:
        load_records(study)
    return str(caught.value)


def test_records_are_those_of_the_cells(study: Study) -> None:
    records = load_records(study)
    assert list(records) == study.cells
    assert [record["cell"] for record in records.values()] == [str(cell) for cell in study.cells]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.unlink(), "a record is missing"),
        (lambda path: path.write_text("{"), "a record is damaged"),
        (lambda path: path.write_text("{}"), "a record is damaged or was altered"),
        (
            lambda path: path.write_text(json.dumps(sealed({}))),
            "a record does not match workflow/schemas/record",
        ),
        (
            lambda path: path.write_text(path.read_text().replace("0.5", "0.4", 1)),
            "a record is damaged or was altered",
        ),
    ],
)
def test_a_record_that_cannot_be_read(
    study: Study, change: Callable[[Path], object], said: str
) -> None:
    path = study.paths.record(CELL)
    change(path)
    message = refusal(study)
    assert message.startswith(f"{path}: {said}")
    assert "to do:" in message


def test_a_study_is_finished_if_each_cell_has_a_record_with_its_settings(study: Study) -> None:
    path = study.paths.record(CELL)
    whole, other = path.read_text(), json.loads(path.read_text())
    other["spec"]["criterion"]["scope"] = "matrix"
    assert is_finished(study)
    for content in ("{", json.dumps(sealed({})), json.dumps(sealed(other))):
        path.write_text(content)
        assert not is_finished(study)
    path.unlink()
    assert not is_finished(study)
    path.write_text(whole)
    assert is_finished(study)


def test_the_command_for_a_missing_record_can_be_pasted(study: Study) -> None:
    study.paths.record(CELL).unlink()
    with pytest.raises(UserError) as error:
        load_records(replace(study, source="my studies/mine.yaml"))
    assert "`make study STUDY='my studies/mine.yaml'`" in str(error.value)


def test_the_record_of_another_cell(study: Study) -> None:
    other = study.paths.record(study.cells[0])
    study.paths.record(CELL).write_text(other.read_text())
    message = refusal(study)
    assert "this is the record of another cell" in message
    assert f"expected: {CELL}" in message


def test_a_record_of_other_settings(study: Study) -> None:
    path = study.paths.record(CELL)
    record = json.loads(path.read_text())
    record["spec"]["criterion"]["scope"] = "matrix"
    path.write_text(json.dumps(sealed(record)))
    message = refusal(study)
    assert f"{CELL} was computed with other settings than the config asks for" in message
    assert 'found:    criterion.scope = "matrix"' in message
    assert "FORCE=prune_model" in message


def test_every_setting_names_rules_to_run_again() -> None:
    """Whichever setting of a spec differs."""
    study = checked(DRIFT)
    cell = study.cells[-1]
    spec = study.spec(cell)
    keys = list(leaves(spec))
    assert len(keys) > 20
    for key in keys:
        with pytest.raises(UserError) as caught:
            check_spec(changed(spec, key), spec, cell, "here")
        forced = re.search(r"--forcerun ([\w ]+) --", str(caught.value))
        assert forced is not None and set(forced[1].split()) <= RULES, key


def leaves(value: dict[str, Any], key: str = "") -> Iterator[str]:
    for name, inner in value.items():
        where = f"{key}.{name}" if key else name
        if isinstance(inner, dict):
            yield from leaves(inner, where)
        elif where != "cell":
            yield where


def changed(spec: dict[str, Any], key: str) -> dict[str, Any]:
    new = json.loads(json.dumps(spec))
    inner = new
    *parents, last = key.split(".")
    for part in parents:
        inner = inner[part]
    inner[last] = "something else"
    return dict(new)


def test_answers_that_cannot_be_read(tmp_path: Path) -> None:
    record = tmp_path / CELL.record_name
    for content in (None, b"", b"no gzip"):
        if content is not None:
            answers_beside(record).write_bytes(content)
        with pytest.raises(UserError, match="the answers of a record cannot be read"):
            load_answers(record)
