"""What differs between two runs, and what may explain it."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

from audits_for_tests import ENVIRONMENT
from freelunch.audit.compare import comparison_text, records_of_run
from freelunch.cli.main import main
from freelunch.core.digest import sealed
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import CONFIG, PERPLEXITIES, WINDOWS, make_records, make_study
from refusals import refused
from repository import ROOT
from study_folder import SMOKE

CELL = Cell.parse("tiny/wanda-u50/recon_block/seed0")
EQUAL = (
    "5 cells in both runs: 5 equal, 0 equal up to rounding, 0 different; 0 only in A, 0 only in B."
)
NO_RECORDS = "make compare A=... B=..., each a config that was run, its results, or a folder of"
Record = dict[str, Any]


def run(folder, study=None, adapted=39.0):
    """Write the records of a run below a folder."""
    study = study or make_study()
    for cell, record in make_records(study, PERPLEXITIES | {str(CELL): adapted}).items():
        record["provenance"]["environments"] = {"prune_model": copy.deepcopy(ENVIRONMENT)}
        path = folder / study.paths.records / cell.record_name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(sealed(record)))
    return folder / study.paths.root


def change(results, how, cell=None):
    """Change the record of a cell, or all of them, as if they had been collected so."""
    for path in (results / "records").glob(cell.record_name if cell else "*.json"):
        record = json.loads(path.read_text())
        how(record)
        path.write_text(json.dumps(sealed(record)))


def environment(record):
    of_step: Record = record["provenance"]["environments"]["prune_model"]
    return of_step


def compared(one, other):
    return comparison_text(records_of_run(str(one)), records_of_run(str(other)))


def test_equal_runs(tmp_path, monkeypatch):
    """A run is named by its results, its records, or its config."""
    one, other = run(tmp_path / "a"), run(tmp_path / "b")
    assert compared(one, other) == compared(one / "records", other) == EQUAL
    (tmp_path / "a" / "study.yaml").write_text(json.dumps(CONFIG))
    monkeypatch.chdir(tmp_path / "a")
    assert compared(Path("study.yaml"), other) == EQUAL


def test_a_number_that_nothing_explains(tmp_path):
    text = compared(run(tmp_path / "a"), run(tmp_path / "b", adapted=42.0))
    first, second, *_ = text.splitlines()
    assert first == EQUAL.replace("5 equal", "4 equal").replace("0 diff", "1 diff")
    assert second.startswith("tiny/wanda-u50/recon_block/seed0: 39.0 ± ")
    assert "42.0" in text and "no recorded setting or environment explains the difference" in text
    assert "loss B - A: 0.07" in text
    assert "magnitude" not in text, "those are equal"


def test_settings_and_environment_explain(tmp_path):
    config = copy.deepcopy(CONFIG)
    config["adaptations"]["recon_block"]["learning_rate"] = 0.003
    other = run(tmp_path / "b", Study.check(config, "made-up.yaml"), adapted=42.0)
    change(other, lambda it: environment(it).update(packages={"torch": "2.14.0"}), CELL)
    text = compared(run(tmp_path / "a"), other)
    assert "setting adaptation.learning_rate: 0.001 in A, 0.003 in B" in text
    assert 'environment packages.torch of prune_model: "2.13.0+cpu" in A, "2.14.0" in B' in text
    assert "no recorded setting" not in text


def test_what_differs_for_all_cells_is_said_once(tmp_path):
    one, other = run(tmp_path / "a"), run(tmp_path / "b")

    def move(record):
        found, more = record["metrics"]["perplexity"], 1e-7 if "dense" in record["cell"] else 0.1
        found["window_losses"] = [loss + more for loss in found["window_losses"]]
        environment(record)["commit"] = "b" * 40

    change(other, move)
    change(other, lambda it: environment(it).update(threads=2), CELL)
    first, *lines = compared(one, other).splitlines()
    assert "0 equal, 1 equal up to rounding, 4 different" in first
    commit = f"  environment commit of prune_model: {'a' * 12} in A, {'b' * 12} in B"
    assert lines[:2] == ["What differs for all of these cells:", commit]
    assert lines.count(commit) == 1
    assert lines.count("  environment threads of prune_model: 1 in A, 2 in B") == 1


def test_cells_of_one_run_only(tmp_path):
    one, more = run(tmp_path / "a"), run(tmp_path / "b", make_study(patterns=["u50", "u60"]))
    text = compared(one, more)
    assert "only in B: tiny/magnitude-u60/none/seed0" in text and "only in A:" not in text
    text = compared(one, run(tmp_path / "c", make_study(models=["tiny-2"])))
    assert text.startswith("0 cells in both runs: ") and "; 5 only in A, 5 only in B." in text


def test_other_tokens_do_not_compare_and_other_numbers_do(tmp_path):
    one, other = run(tmp_path / "a"), run(tmp_path / "b")
    change(other, lambda it: it["metrics"]["perplexity"].update(token_ids_sha256="0" * 64))
    change(other, lambda it: it["identity"].update(sparsity=0.4), CELL)
    text = compared(one, other)
    assert text.count("measured on different tokens") == len(PERPLEXITIES)
    assert text.count("  sparsity: 0.5 in A, 0.4 in B") == 1


def test_a_run_is_equal_to_itself_whatever_it_diverged_to(tmp_path):
    """With windows that are joined, and with several in a document."""
    one = run(tmp_path / "a", adapted=None)
    assert compared(one, one) == EQUAL
    documents = [at // 2 for at in range(WINDOWS)]
    change(one, lambda it: it["metrics"]["perplexity"].update(documents=documents))
    assert compared(one, one) == EQUAL


def test_a_damaged_record_and_two_of_one_cell(tmp_path):
    path = run(tmp_path / "a") / "records" / CELL.record_name
    shutil.copy(path, path.with_name(f"z__{path.name}"))
    with refused(where=f"z__{path.name}", found=CELL, expected=f"that of {path} alone"):
        records_of_run(str(path.parent))
    path.write_text(path.read_text().replace("0.5", "0.4", 1))
    with refused(where=path):
        records_of_run(str(path.parent))


def test_a_run_without_records(tmp_path, monkeypatch):
    with refused(expected=NO_RECORDS) as caught:
        records_of_run("")
    assert caught.value.where is None
    for path in (tmp_path / "nowhere", tmp_path):
        with refused(where=path, expected=NO_RECORDS):
            records_of_run(str(path))
    shutil.copy(SMOKE, tmp_path / "a study.yaml")
    monkeypatch.chdir(ROOT)
    file = str(tmp_path / "a study.yaml")
    with refused(where="records", todo=f"run it: make study STUDY='{file}'"):
        records_of_run(file)


def test_the_command(tmp_path, monkeypatch, capsys):
    one, other = run(tmp_path / "a"), run(tmp_path / "b", adapted=42.0)
    monkeypatch.setattr("sys.argv", ["freelunch", "compare", str(one), str(other)])
    assert main() == 0
    assert "loss B - A" in capsys.readouterr().out
    monkeypatch.setattr("sys.argv", ["freelunch", "compare", str(one), str(tmp_path / "c")])
    assert main() == 1
    assert "there are no records to compare" in capsys.readouterr().err
