"""What differs between two runs, and what may explain it."""

import copy
import json
import shutil

from audits_for_tests import ENVIRONMENT
from freelunch.audit.compare import comparison_text, records_of_run
from freelunch.cli.main import main
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import CONFIG, PERPLEXITIES, WINDOWS, make_records, make_study, write_records
from refusals import refused
from repository import ROOT
from study_folder import SMOKE

CELL = Cell.parse("tiny/wanda-u50/recon_block/seed0")
EQUAL = (
    "5 cells in both runs: 5 equal, 0 equal up to rounding, 0 different; 0 only in A, 0 only in B."
)
NO_RECORDS = "make compare A=... B=..., each a config that was run, its results, or a folder of"


def run(study=None, adapted=39.0):
    """Return the records of a run."""
    records = make_records(study or make_study(), PERPLEXITIES | {str(CELL): adapted})
    for record in records.values():
        record["provenance"]["environments"] = {"prune_model": copy.deepcopy(ENVIRONMENT)}
    return records


def environment(record):
    return record["provenance"]["environments"]["prune_model"]


def test_equal_runs_also_if_they_diverged():
    """With windows that are joined, and with several in a document."""
    assert comparison_text(run(), run()) == EQUAL
    diverged = run(adapted=None)
    assert comparison_text(diverged, diverged) == EQUAL
    for record in diverged.values():
        record["metrics"]["perplexity"]["documents"] = [at // 2 for at in range(WINDOWS)]
    assert comparison_text(diverged, diverged) == EQUAL


def test_a_number_that_nothing_explains():
    text = comparison_text(run(), run(adapted=42.0))
    first, second, *_ = text.splitlines()
    assert first == EQUAL.replace("5 equal", "4 equal").replace("0 diff", "1 diff")
    assert second.startswith("tiny/wanda-u50/recon_block/seed0: 39.0 ± ")
    assert "42.0" in text and "no recorded setting or environment explains the difference" in text
    assert "loss B - A: 0.07" in text
    assert "magnitude" not in text, "those are equal"


def test_settings_and_environment_explain():
    config = copy.deepcopy(CONFIG)
    config["adaptations"]["recon_block"]["learning_rate"] = 0.003
    other = run(Study.check(config, "made-up.yaml"), adapted=42.0)
    environment(other[CELL])["packages"] |= {"torch": "2.14.0"}
    text = comparison_text(run(), other)
    assert "setting adaptation.learning_rate: 0.001 in A, 0.003 in B" in text
    assert 'environment packages.torch of prune_model: "2.13.0+cpu" in A, "2.14.0" in B' in text
    assert "no recorded setting" not in text


def test_what_auto_stood_for_explains():
    one, other = run(), run(adapted=42.0)
    one[CELL]["adaptation"]["precision"] = "float32"
    other[CELL]["adaptation"]["precision"] = "bfloat16"
    assert 'adaptation.precision: "float32" in A, "bfloat16" in B' in comparison_text(one, other)


def test_what_differs_for_all_cells_is_said_once():
    other = run()
    for cell, record in other.items():
        found, more = record["metrics"]["perplexity"], 1e-7 if cell.is_dense else 0.1
        found["window_losses"] = [loss + more for loss in found["window_losses"]]
        environment(record)["commit"] = "b" * 40
    environment(other[CELL])["threads"] = 2
    first, *lines = comparison_text(run(), other).splitlines()
    assert "0 equal, 1 equal up to rounding, 4 different" in first
    commit = f"  environment commit of prune_model: {'a' * 12} in A, {'b' * 12} in B"
    assert lines[:2] == ["What differs for all of these cells:", commit]
    assert lines.count(commit) == 1
    assert lines.count("  environment threads of prune_model: 1 in A, 2 in B") == 1


def test_other_tokens_do_not_compare_and_other_numbers_do():
    other = run()
    for record in other.values():
        record["metrics"]["perplexity"]["token_ids_sha256"] = "0" * 64
    other[CELL]["identity"]["sparsity"] = 0.4
    text = comparison_text(run(), other)
    assert text.count("measured on different tokens") == len(PERPLEXITIES)
    assert text.count("  sparsity: 0.5 in A, 0.4 in B") == 1


def test_a_run_is_named_by_its_config_its_results_or_its_records(tmp_path, monkeypatch, capsys):
    """A damaged record is refused, and so are two of one cell."""
    monkeypatch.chdir(tmp_path)
    study = make_study()
    write_records(study, run(study))
    (tmp_path / "study.yaml").write_text(json.dumps(CONFIG))
    records, root = study.paths.records, study.paths.root
    for name in ("study.yaml", str(root)):
        monkeypatch.setattr("sys.argv", ["freelunch", "compare", name, str(records)])
        assert main() == 0
        assert capsys.readouterr().out == f"{EQUAL}\n"
    shutil.copy("study.yaml", "owner.yaml")
    study.paths.owner.write_text("owner.yaml\n")
    with refused(where="study.yaml: study.name", found="the study in owner.yaml"):
        records_of_run("study.yaml")
    path = records / CELL.record_name
    shutil.copy(path, records / f"z__{path.name}")
    with refused(where=f"z__{path.name}", found=CELL, expected=f"that of {path} alone"):
        records_of_run(str(root))
    path.write_text(path.read_text().replace("0.5", "0.4", 1))
    with refused(where=path):
        records_of_run(str(root))
    monkeypatch.setattr("sys.argv", ["freelunch", "compare", str(root), "nowhere"])
    assert main() == 1


def test_a_run_without_records(tmp_path, monkeypatch):
    with refused(expected=NO_RECORDS) as caught:
        records_of_run("")
    assert caught.value.where is None
    for path in (tmp_path / "nowhere", tmp_path):
        with refused(where=path, expected=NO_RECORDS):
            records_of_run(str(path))
    file = str(shutil.copy(SMOKE, tmp_path / "a study.yaml"))
    monkeypatch.chdir(ROOT)
    with refused(where="records", todo=f"run it: make study STUDY='{file}'"):
        records_of_run(file)
