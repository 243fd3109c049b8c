"""What differs between two runs, and what may explain it."""

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from freelunch.audit.compare import compare_runs, comparison_text, records_of_run
from freelunch.cli.main import main
from freelunch.core.digest import sealed
from freelunch.core.errors import UserError
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import (
    CONFIG,
    PERPLEXITIES,
    WINDOWS,
    make_records,
    make_study,
    write_records,
)
from repository import ROOT
from study_folder import SMOKE

CELL = Cell.parse("tiny/wanda-u50/recon_block/seed0")
ENVIRONMENT = {
    "commit": "a" * 40,
    "uncommitted_changes": False,
    "python": "3.11.7",
    "packages": {"torch": "2.13.0"},
    "processor": "some",
    "threads": 1,
}


def run(folder: Path, study: Study | None = None, **perplexities: float | None) -> Path:
    """Write the records of a run below a folder."""
    study = study or make_study()
    records = make_records(study, PERPLEXITIES | {str(CELL): perplexities.get("adapted", 39.0)})
    for record in records.values():
        environment = copy.deepcopy(ENVIRONMENT)
        record["provenance"]["environments"] = {"prune_model": environment}
    folder.mkdir()
    for cell, record in records.items():
        path = folder / study.paths.records / cell.record_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sealed(record)))
    return folder / study.paths.root


def changed(results: Path, key: str, value: Any) -> None:
    path = results / "records" / CELL.record_name
    record = json.loads(path.read_text())
    record["provenance"]["environments"]["prune_model"][key] = value
    path.write_text(json.dumps(sealed(record)))


def compared(one: Path, other: Path) -> str:
    return comparison_text(compare_runs(records_of_run(str(one)), records_of_run(str(other))))


EQUAL = (
    "5 cells in both runs: 5 equal, 0 equal up to rounding, 0 different; 0 only in A, 0 only in B."
)


def test_equal_runs(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a"), run(tmp_path / "b")
    assert compared(one, other) == EQUAL
    assert compared(one / "records", other) == compared(one, other)


def test_a_number_that_nothing_explains(tmp_path: Path) -> None:
    text = compared(run(tmp_path / "a"), run(tmp_path / "b", adapted=42.0))
    first, second, *_ = text.splitlines()
    assert first == (
        "5 cells in both runs: 4 equal, 0 equal up to rounding, 1 different; 0 only in A, "
        "0 only in B."
    )
    assert second.startswith("tiny/wanda-u50/recon_block/seed0: 39.0 ± ")
    assert "42.0" in text and "no recorded setting or environment explains the difference" in text
    assert "loss B - A: 0.07" in text
    assert "magnitude" not in text, "those are equal"


def test_settings_and_environment_explain(tmp_path: Path) -> None:
    config = copy.deepcopy(CONFIG)
    config["adaptations"]["recon_block"]["learning_rate"] = 0.003
    other = run(tmp_path / "b", Study.check(config, "made-up.yaml"), adapted=42.0)
    changed(other, "packages", {"torch": "2.14.0"})
    text = compared(run(tmp_path / "a"), other)
    assert "setting adaptation.learning_rate: 0.001 in A, 0.003 in B" in text
    assert 'environment packages.torch of prune_model: "2.13.0" in A, "2.14.0" in B' in text
    assert "no recorded setting" not in text


def test_what_differs_for_all_cells_is_said_once(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a"), run(tmp_path / "b")
    for path in (other / "records").glob("*.json"):
        record = json.loads(path.read_text())
        found = record["metrics"]["perplexity"]
        more = 1e-7 if "dense" in path.name else 0.1
        found["window_losses"] = [loss + more for loss in found["window_losses"]]
        record["provenance"]["environments"]["prune_model"]["commit"] = "b" * 40
        path.write_text(json.dumps(sealed(record)))
    changed(other, "threads", 2)
    first, *lines = compared(one, other).splitlines()
    assert "0 equal, 1 equal up to rounding, 4 different" in first
    commit = f"  environment commit of prune_model: {'a' * 12} in A, {'b' * 12} in B"
    assert lines[:2] == ["What differs for all of these cells:", commit]
    assert lines.count(commit) == 1
    assert lines.count("  environment threads of prune_model: 1 in A, 2 in B") == 1


def test_cells_of_one_run_only(tmp_path: Path) -> None:
    more = make_study(patterns=["u50", "u60"])
    text = compared(run(tmp_path / "a"), run(tmp_path / "b", more))
    assert "only in B: tiny/magnitude-u60/none/seed0" in text and "only in A:" not in text


def test_numbers_of_other_tokens_do_not_compare(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a"), run(tmp_path / "b")
    for path in (other / "records").glob("*.json"):
        record = json.loads(path.read_text())
        record["metrics"]["perplexity"]["token_ids_sha256"] = "0" * 64
        path.write_text(json.dumps(sealed(record)))
    assert compared(one, other).count("measured on different tokens") == len(PERPLEXITIES)


def test_what_else_was_measured_is_compared(tmp_path: Path) -> None:
    one, other = run(tmp_path / "a"), run(tmp_path / "b")
    path = other / "records" / CELL.record_name
    record = json.loads(path.read_text())
    record["identity"]["sparsity"] = 0.4
    path.write_text(json.dumps(sealed(record)))
    assert "  sparsity: 0.5 in A, 0.4 in B" in compared(one, other)


@pytest.mark.parametrize("within_documents", [True, False])
def test_a_run_is_equal_to_itself_whatever_it_diverged_to(
    tmp_path: Path, within_documents: bool
) -> None:
    one = run(tmp_path / "a", adapted=None)
    for path in (one / "records").glob("*.json") if within_documents else ():
        record = json.loads(path.read_text())
        record["metrics"]["perplexity"]["documents"] = [at // 2 for at in range(WINDOWS)]
        path.write_text(json.dumps(sealed(record)))
    assert compared(one, one) == EQUAL


def test_a_run_that_is_not_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not named"):
        records_of_run("")


def test_runs_without_a_cell_in_common(tmp_path: Path) -> None:
    other = run(tmp_path / "b", make_study(models=["tiny-2"]))
    text = compared(run(tmp_path / "a"), other)
    assert text.startswith("0 cells in both runs: ") and "; 5 only in A, 5 only in B." in text


def damaged(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: damaged(path, lambda record: record["identity"].update(sparsity=0.4)),
        lambda path: damaged(path, lambda record: record.pop("spec")),
        lambda path: path.write_text("{}"),
        lambda path: path.write_text("[" * 200_000),
        lambda path: (path.unlink(), path.mkdir()),
        lambda path: (path.unlink(), path.symlink_to("nowhere")),
    ],
    ids=["altered", "lacks settings", "empty", "nested", "folder", "link"],
)
def test_what_is_no_record_as_it_was_collected_is_refused(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    one = run(tmp_path / "a")
    path = sorted((one / "records").glob("*.json"))[-1]
    damage(path)
    with pytest.raises(UserError) as error:
        records_of_run(str(one))
    assert str(path) in str(error.value.where)


def test_two_records_of_one_cell(tmp_path: Path) -> None:
    one = run(tmp_path / "a")
    path = sorted((one / "records").glob("*.json"))[-1]
    shutil.copy(path, path.with_name(f"old__{path.name}"))
    with pytest.raises(UserError, match="two records of one cell") as error:
        records_of_run(str(one))
    assert f"that of {path} alone" in str(error.value)


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file or folder"):
        records_of_run(str(tmp_path / "nowhere"))


def test_no_records(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no records to compare") as error:
        records_of_run(str(tmp_path))
    assert str(tmp_path) in str(error.value)


def test_a_study_that_has_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SMOKE, tmp_path / "a study.yaml")
    monkeypatch.chdir(ROOT)
    path = str(tmp_path / "a study.yaml")
    with pytest.raises(UserError, match="no records to compare") as error:
        records_of_run(path)
    assert f"run it: make study STUDY='{path}'" in str(error.value)


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = run(tmp_path / "a"), run(tmp_path / "b", adapted=42.0)
    monkeypatch.setattr("sys.argv", ["freelunch", "compare", str(one), str(other)])
    assert main() == 0
    assert "loss B - A" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["freelunch", "compare", str(one), str(tmp_path / "c")])
    assert main() == 1
    assert "no such file or folder" in capsys.readouterr().err


def test_a_config_names_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    study = make_study()
    write_records(study, make_records(study, PERPLEXITIES))
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(CONFIG))
    assert set(records_of_run(str(path))) == set(study.cells)
