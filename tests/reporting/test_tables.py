"""Tables: what they hold, and that each uncertainty is what it says."""

import csv
import math
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest

from freelunch.analysis.pairing import paired_difference, seed_groups
from freelunch.audit.effects import TABLES_OF_CLAIMS
from freelunch.core.errors import UserError
from freelunch.reporting.cells import cell_rows, choice_text, means_over_seeds
from freelunch.reporting.formatting import NOTHING, summary_text
from freelunch.reporting.main_metrics import main_perplexities
from freelunch.reporting.results import Results
from freelunch.reporting.sections import MINUS_TRAINED, cells_section
from freelunch.reporting.tables import build_tables, table_texts
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import PERPLEXITIES, make_records, make_study, write_records
from refusals import refused

DENSE = Cell.parse("tiny/dense/none/seed0")
WANDA = Cell.parse("tiny/wanda-u50/none/seed0")
RECONSTRUCTED = Cell.parse("tiny/wanda-u50/recon_block/seed0")

# Other people's scripts rely on these.
HEADERS = {
    "tables/summary.csv": "model,criterion,pattern,adaptation,seed,"
    "perplexity,perplexity_standard_error,loss,loss_standard_error,"
    "loss_minus_dense,loss_minus_dense_standard_error,perplexity_over_dense,"
    "loss_minus_control,loss_minus_control_standard_error,"
    "held_out_perplexity,held_out_perplexity_standard_error,"
    "held_out_loss_minus_dense,held_out_loss_minus_dense_standard_error,activation_error,"
    "accuracy,accuracy_standard_error,byte_perplexity,word_perplexity,bits_per_byte,"
    "sparsity,zeros,weights,windows,window_length,window_stride,"
    "parameters,nonzero_parameters,stored_bytes,"
    "adaptation_tokens,adaptation_flops,adaptation_wall_s,adaptation_peak_bytes,"
    "adaptation_distinct_tokens,adaptation_steps,trained_parameters,adaptation_cpu_s,"
    "adaptation_window,adaptation_windows,adaptation_windows_kept_pruned,"
    "selected_on,learning_rate,epochs,search_flops,search_wall_s,"
    "calibration_wall_s,pruning_wall_s,evaluation_wall_s,checkpoint_sha256,marks,record",
    "figures/criteria.csv": "criterion,pattern,model,adaptation,seeds,"
    "perplexity,perplexity_standard_error,perplexity_standard_deviation_over_seeds",
}
Made = dict[Cell, dict[str, Any]]


def losses_of(record: dict[str, Any]) -> list[float]:
    return record["metrics"]["perplexity"]["window_losses"]


def row_of(records: Made, cell: Cell) -> dict[str, Any]:
    (row,) = [row for row in cell_rows(records) if row["record"] == cell.record_name]
    return row


class Built:
    """The tables of a study with these records."""

    def __init__(self, study: Study, records: Made) -> None:
        texts = table_texts(Results(study, records, Path("nowhere")))
        self.summary_md = texts["tables/summary.md"]
        self.summary, *_, self.criteria = (
            list(csv.DictReader(texts[file].splitlines())) for file in HEADERS
        )
        # The table of cells and its notes, without the gaps below them.
        self.cells_md = self.summary_md.partition("\n**Gap between criteria**")[0]
        # Wanda without adaptation: its row in the data of the figure of criteria, and the fields of
        # its line in the summary.
        (self.wanda,) = (
            row
            for row in self.criteria
            if (row["criterion"], row["adaptation"]) == ("wanda", "none")
        )
        (line,) = (
            line for line in self.cells_md.splitlines() if "wanda" in line and " none " in line
        )
        self.wanda_line = [field.strip() for field in line.strip("|").split("|")]


def test_files_headers_and_rows_keep_the_contract(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = make_study()
    records = make_records(study, PERPLEXITIES)
    write_records(study, records)
    build_tables(study, TABLES_OF_CLAIMS)
    paths = (*study.paths.tables.iterdir(), *study.paths.figures.iterdir())
    assert {path.name for path in paths} == {
        *("summary.csv", "summary.md"),
        *("criteria.csv", "windows.csv", "budgets.csv", "effects.csv"),
        "criteria_budgets.csv",
        "tasks.csv",
    }
    for file, header in HEADERS.items():
        text = (study.paths.root / file).read_bytes().decode()
        columns, contract = text.splitlines()[0].split(","), header.split(",")
        # Readers do without a column that is new, but not without one that is gone.
        assert [name for name in columns if name in contract] == contract and "\r" not in text
    rows = list(csv.DictReader((study.paths.tables / "summary.csv").open()))
    assert [row["record"] for row in rows] == [cell.record_name for cell in study.cells]
    # Floats are read back exactly.
    for row, cell in zip(rows, study.cells, strict=True):
        metrics = records[cell]["metrics"]["perplexity"]
        for column in ("perplexity", "loss_standard_error"):
            assert float(row[column]) == metrics[column]
    study.paths.record(WANDA).unlink()
    with pytest.raises(UserError, match="a record is missing"):
        build_tables(study)


def test_paired_standard_error_is_that_of_the_differences() -> None:
    records = make_records(make_study(), PERPLEXITIES)
    pairs = zip(losses_of(records[WANDA]), losses_of(records[DENSE]), strict=True)
    differences = [loss - dense for loss, dense in pairs]
    mean, error = fmean(differences), stdev(differences) / math.sqrt(len(differences))
    row = row_of(records, WANDA)
    assert row["loss_minus_dense"] == pytest.approx(mean, rel=1e-12)
    assert row["loss_minus_dense_standard_error"] == pytest.approx(error, rel=1e-12)
    assert row["perplexity_over_dense"] == pytest.approx(46.0 / 20.5, rel=1e-12)
    # Windows are hard or easy for both, so unpaired errors would be several times as large.
    metrics = records[WANDA]["metrics"]["perplexity"]
    assert error < metrics["loss_standard_error"] / 2
    # An equal shift of all windows has no error; and the dense row compares with nothing.
    assert paired_difference([2.0, 3.5, 5.0], [1.5, 3.0, 4.5]) == (0.5, 0.0)
    row = row_of(records, DENSE)
    for column in ("loss_minus_dense", "loss_minus_dense_standard_error", "perplexity_over_dense"):
        assert row[column] is None


def test_costs_are_of_their_own_steps() -> None:
    records = make_records(make_study(), PERPLEXITIES)
    costs = {"tokens": 8192, "flops": 5 * 10**12, "wall_s": 94.0, "peak_bytes": 10**9}
    adapted, pruned = row_of(records, RECONSTRUCTED), row_of(records, WANDA)
    assert {key: adapted[f"adaptation_{key}"] for key in costs} == costs
    assert {pruned[f"adaptation_{key}"] for key in costs} == {None}
    assert adapted["calibration_wall_s"] == 2.25 + 11.5
    assert adapted["pruning_wall_s"] == 3.75
    dense = row_of(records, DENSE)
    assert (dense["calibration_wall_s"], dense["evaluation_wall_s"]) == (None, 20.5)
    # A cost that a step did not note is empty, and not zero.
    del records[RECONSTRUCTED]["cost"]["reconstruct_window"]["flops"]
    assert row_of(records, RECONSTRUCTED)["adaptation_flops"] is None


def test_zeros_are_beside_what_they_are_of() -> None:
    records = make_records(make_study(), PERPLEXITIES)
    identity = records[WANDA]["identity"]
    row = row_of(records, WANDA)
    assert row["nonzero_parameters"] == identity["parameters"] - identity["zeros"]
    assert 0 < row["nonzero_parameters"] < row["parameters"]


def test_the_dense_model_has_its_perplexity_on_the_held_out_text_of_each_seed() -> None:
    study = make_study(seeds=[0, 1])
    records = make_records(study, PERPLEXITIES)
    dense = {0: (20.0, 3.0), 1: (30.0, 4.0)}
    for cell in records:
        # The adaptations were not measured there.
        if cell.adaptation == "none" and not cell.is_dense:
            beside, its_own = (
                {
                    "perplexity": value,
                    "perplexity_standard_error": error,
                    "window_losses": [math.log(value) - 0.1, math.log(value) + 0.1],
                }
                for value, error in (dense[cell.seed], (48.0, 5.0))
            )
            records[cell]["metrics"]["drift"] = {**its_own, "dense": beside}
    row = row_of(records, DENSE)
    assert (row["held_out_perplexity"], row["held_out_perplexity_standard_error"]) == dense[0]
    assert row["held_out_loss_minus_dense"] is row["activation_error"] is None
    assert row_of(records, WANDA)["held_out_perplexity"] == 48.0
    assert row_of(records, RECONSTRUCTED)["held_out_perplexity"] is None
    means = means_over_seeds(records)
    (mean,) = [mean for mean in means if mean["criterion"] == "dense"]
    assert mean["held_out_perplexity"] == 25.0
    # The texts of the two seeds are independent: their errors average out.
    assert mean["held_out_perplexity_standard_error"] == pytest.approx(math.hypot(3, 4) / 2)
    text = summary_text([cells_section(study, means)])
    of_dense, pruned = (
        next(line for line in text.splitlines() if f"| {name} " in line)
        for name in ("dense", "wanda")
    )
    assert "25.0 ± 2.5" in of_dense
    # 48 / 20 with one seed, 48 / 30 with the other, without an error: both windows say the same.
    assert f"{math.sqrt(48 / 20 * 48 / 30):.2f} ± 0.00" in pruned


def test_perplexity_that_is_not_finite_stays_visible() -> None:
    study = make_study()
    built = Built(study, make_records(study, {**PERPLEXITIES, str(WANDA): None}))
    (row,) = [row for row in built.summary if row["record"] == WANDA.record_name]
    for column in ("perplexity", "perplexity_over_dense", "loss_minus_dense_standard_error"):
        assert math.isnan(float(row[column])), column
    assert built.wanda["perplexity"] == "nan"
    assert built.wanda_line.count("not finite") == 2  # perplexity and ratio
    assert built.cells_md.count("not finite") == 2


def test_two_seeds_have_a_mean_an_error_and_a_spread() -> None:
    study = make_study(seeds=[0, 1])
    one, other = 46.0, 50.0
    values = {str(DENSE): 20.5, str(WANDA): one, "tiny/wanda-u50/none/seed1": other}
    records = make_records(study, values)
    built = Built(study, records)
    assert len(built.summary) == 1 + 2 * 2 * 2
    assert built.wanda["seeds"] == "2"
    assert float(built.wanda["perplexity"]) == pytest.approx(48.0)
    spread = float(built.wanda["perplexity_standard_deviation_over_seeds"])
    assert spread == pytest.approx(abs(one - other) / math.sqrt(2))
    assert built.wanda_line[4:8] == ["48.0 ± 1.7", "2.341 ± 0.014", "2", "2.8"]
    assert "means over seeds (0, 1)" in built.summary_md
    # The error agrees with the bootstrap.
    losses = np.array([losses_of(records[replace(WANDA, seed=seed)]) for seed in (0, 1)])
    generator = np.random.default_rng(0)
    drawn = generator.integers(losses.shape[1], size=(4000, losses.shape[1]))
    means = np.exp(losses[:, drawn].mean(axis=-1)).mean(axis=0)
    # The bootstrap's variance has n for n - 1; its own error at 4000 draws is about 1 %.
    error = float(built.wanda["perplexity_standard_error"])
    assert error == pytest.approx(means.std(), rel=0.06)


def test_each_model_begins_with_its_dense_cell() -> None:
    groups = seed_groups(make_records(make_study(models=["tiny", "tiny-2"]), {}))
    assert [cells[0].model for cells in groups] == ["tiny"] * 5 + ["tiny-2"] * 5
    assert [cells[0].is_dense for cells in groups] == ([True] + [False] * 4) * 2


def test_main_perplexities_are_those_of_the_most_adapted_model() -> None:
    study = make_study()
    records = make_records(study, {**PERPLEXITIES, "tiny/magnitude-u50/none/seed0": None})
    main = main_perplexities(study, records)
    assert list(main) == ["dense", "none", "recon_block"]
    assert main["none"] == "not finite"
    assert main["recon_block"] == PERPLEXITIES["tiny/magnitude-u50/recon_block/seed0"]


def test_other_tokens_than_the_dense_model_are_refused() -> None:
    records = make_records(make_study(), PERPLEXITIES)
    records[WANDA]["metrics"]["perplexity"]["token_ids_sha256"] = "f" * 64
    with refused(where=WANDA.record_name, found="token_ids_sha256 = ffff"):
        cell_rows(records)


def test_summary_says_what_was_measured_and_on_what() -> None:
    """Of a text from the hub, with windows that overlap; the kept studies have a wheel's text."""
    config = make_study().as_json()
    hub = {"source": "hub", "repository": "some/text", "revision": "a" * 40}
    config["texts"]["evaluation-text"] = {**hub, "member": "test.txt", "format": "plain"}
    study = Study.check(config, "made-up.yaml")
    means = means_over_seeds(make_records(study, PERPLEXITIES))
    for mean in means:
        mean["window_stride"] = 128
    text = summary_text([cells_section(study, means)])
    assert "WikiText" not in text and "`test.txt` of some/text at aaaaaaa" in text
    assert "512 tokens, one every 128 tokens; the last 128 tokens of each are scored." in text


@pytest.mark.parametrize(
    ("rates", "epochs", "chosen", "expected"),
    [
        ([0.1, 0.2, 0.3], [1], (0.2, 1), "learning rate 0.2"),
        ([0.1, 0.2], [1], (0.1, 1), "learning rate 0.1"),
        ([0.3, 0.1], [1, 2], (0.3, 2), "learning rate 0.3 and epochs 2"),
        ([0.1], [1, 2], (0.1, 1), "learning rate 0.1 and epochs 1"),
    ],
)
def test_what_was_chosen_in_words(
    rates: list[float], epochs: list[int], chosen: tuple[float, int], expected: str
) -> None:
    pairs: Any = [{"learning_rate": r, "epochs": e} for r, e in product(rates, epochs)]
    one = dict(zip(("learning_rate", "epochs"), chosen, strict=True))
    assert choice_text(pairs, one) == expected


def test_a_retrained_model_is_also_compared_with_the_dense_one_that_had_the_same_training() -> None:
    grid = {"criteria": ["wanda", "dense"], "adaptations": ["none", "full"], "seeds": [0, 1]}
    study = make_study({"full": {"method": "full", "learning_rate": 0.001}}, **grid)
    values = {"dense": 20.0, "wanda": 30.0}
    records = make_records(study, {str(cell): values[cell.criterion] for cell in study.cells})
    results = Results(study, records, Path())
    rows = {(row["criterion"], row["adaptation"]): row for row in results.means}
    row = rows.pop(("wanda", "full"))
    assert [other["loss_minus_control"] for other in rows.values()] == [None] * 3
    assert row["loss_minus_control"] == pytest.approx(math.log(30 / 20))
    adapted = [cell for cell in study.cells if cell.is_pruned and cell.adaptation == "full"]
    losses = [[losses_of(records[each]) for each in (cell, cell.control)] for cell in adapted]
    differences = np.array(losses).mean(axis=0)
    error = (differences[0] - differences[1]).std(ddof=1) / math.sqrt(differences.shape[1])
    assert row["loss_minus_control_standard_error"] == pytest.approx(error)
    lines = cells_section(study, results.means).lines
    shown = {(line["criterion"], line["adaptation"]): line[MINUS_TRAINED] for line in lines}
    assert shown["wanda", "full"].startswith("0.4055 ± ") and shown["dense", "full"] == NOTHING
    assert not results.doubts


def test_what_learns_no_text_is_compared_with_the_dense_model_itself() -> None:
    """Training would leave that as it is, so it needs no control of its own."""
    study = make_study({"block": {"method": "reconstruction"}}, adaptations=["none", "block"])
    values = {True: 20.0, False: 30.0}
    records = make_records(study, {str(cell): values[cell.is_dense] for cell in study.cells})
    means = [row for row in Results(study, records, Path()).means if row["adaptation"] == "block"]
    assert means
    for row in means:
        assert row["loss_minus_control"] == pytest.approx(math.log(30 / 20))
