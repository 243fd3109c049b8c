"""Tables: what they hold, and that each uncertainty is what it says."""

import csv
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from freelunch.analysis.pairing import mean_over_seeds, paired_difference, seed_groups
from freelunch.core.errors import UserError
from freelunch.reporting.cells import cell_rows, means_over_seeds
from freelunch.reporting.main_metrics import main_perplexities
from freelunch.reporting.metrics import METRICS
from freelunch.reporting.sections.cells import cells_section
from freelunch.reporting.summary import escaped, summary_text
from freelunch.reporting.tables import build_tables
from freelunch.study.cell import Cell
from freelunch.study.study import Study
from records_for_tests import PERPLEXITIES, make_records, make_study, write_records

DENSE = Cell.parse("tiny/dense/none/seed0")
WANDA = Cell.parse("tiny/wanda-u50/none/seed0")
RECONSTRUCTED = Cell.parse("tiny/wanda-u50/recon_block/seed0")

# Other people's scripts rely on these.
SUMMARY_HEADER = (
    "model,criterion,pattern,adaptation,seed,"
    "perplexity,perplexity_standard_error,loss,loss_standard_error,"
    "loss_minus_dense,loss_minus_dense_standard_error,perplexity_over_dense,"
    "held_out_perplexity,held_out_perplexity_standard_error,"
    "held_out_loss_minus_dense,held_out_loss_minus_dense_standard_error,drift_mean,"
    "accuracy,accuracy_standard_error,byte_perplexity,word_perplexity,bits_per_byte,"
    "sparsity,zeros,weights,windows,window_length,window_stride,"
    "parameters,nonzero_parameters,stored_bytes,tokens_per_second,tokens_per_second_over_dense,"
    "adaptation_tokens,adaptation_flops,adaptation_wall_s,adaptation_peak_bytes,"
    "adaptation_distinct_tokens,adaptation_steps,trained_parameters,adaptation_cpu_s,"
    "adaptation_window,adaptation_windows,adaptation_windows_kept_pruned,"
    "selected_on,learning_rate,epochs,search_flops,search_wall_s,"
    "calibration_wall_s,pruning_wall_s,evaluation_wall_s,checkpoint_sha256,record"
)
CRITERIA_HEADER = (
    "criterion,pattern,model,adaptation,seeds,"
    "perplexity,perplexity_standard_error,perplexity_standard_deviation_over_seeds"
)
GAPS_HEADER = (
    "model,pattern,adaptation,criteria,left_out,seeds,best,worst,perplexity_best,perplexity_worst,"
    "loss_gap,loss_gap_standard_error,loss_gap_standard_deviation_over_seeds,"
    "gap_left,gap_left_standard_error,gap_left_standard_deviation_over_seeds"
)
PAIRS_HEADER = (
    "model,pattern,adaptation,criterion,other,seeds,"
    "loss_difference,loss_difference_standard_error,loss_difference_standard_deviation_over_seeds"
)


def losses_of(record: dict[str, Any]) -> list[float]:
    return record["metrics"]["perplexity"]["window_losses"]


def row_of(records: dict[Cell, dict[str, Any]], cell: Cell) -> dict[str, Any]:
    (row,) = [row for row in cell_rows(records) if row["record"] == cell.record_name]
    return row


class Built:
    """The files of a study with these records, in the current folder."""

    def __init__(self, study: Study, records: dict[Cell, dict[str, Any]]) -> None:
        write_records(study, records)
        build_tables(study)
        paths = (*study.paths.tables.iterdir(), *study.paths.figures.iterdir())
        texts = {path.name: path.read_text(encoding="utf-8") for path in paths}
        self.files = set(texts)
        self.summary_csv, self.summary_md = texts["summary.csv"], texts["summary.md"]
        self.summary_tex = texts["summary.tex"]
        self.numbers = json.loads(texts["numbers.json"])
        self.criteria_csv, self.gaps_csv = texts["criteria.csv"], texts["gaps.csv"]
        self.pairs_csv = texts["criteria_pairs.csv"]
        # The table of cells and its notes, without the gaps below them.
        self.cells_md = self.summary_md.partition("\n**Gap between criteria**")[0]

    @property
    def summary(self) -> list[dict[str, str]]:
        return list(csv.DictReader(self.summary_csv.splitlines()))

    @property
    def gaps(self) -> list[dict[str, str]]:
        return list(csv.DictReader(self.gaps_csv.splitlines()))

    @property
    def criteria(self) -> list[dict[str, str]]:
        return list(csv.DictReader(self.criteria_csv.splitlines()))


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_headers_and_rows_keep_the_contract() -> None:
    study = make_study()
    built = Built(study, make_records(study, PERPLEXITIES))
    assert built.files == {
        *("summary.csv", "summary.md", "summary.tex", "numbers.json"),
        *("criteria.csv", "gaps.csv", "sizes.csv", "criteria_pairs.csv", "windows.csv"),
        *("drift.csv", "budgets.csv", "budget_ratios.csv", "effects.csv", "criteria_budgets.csv"),
        *("reach.csv", "tasks.csv"),
    }
    assert built.summary_csv.splitlines()[0] == SUMMARY_HEADER
    assert built.criteria_csv.splitlines()[0] == CRITERIA_HEADER
    assert built.gaps_csv.splitlines()[0] == GAPS_HEADER
    assert built.pairs_csv.splitlines()[0] == PAIRS_HEADER
    assert [row["record"] for row in built.summary] == [cell.record_name for cell in study.cells]
    assert "\r" not in built.summary_csv


def test_gaps_are_written_where_the_summary_shows_them() -> None:
    study = make_study()
    built = Built(study, make_records(study, PERPLEXITIES))
    none, adapted = built.gaps
    assert (none["best"], none["worst"], none["gap_left"]) == ("wanda", "magnitude", "")
    assert float(none["loss_gap"]) == pytest.approx(math.log(307 / 46))
    left = math.log(144 / 39) / math.log(307 / 46)
    assert float(adapted["gap_left"]) == pytest.approx(left)
    assert f"is {left:.3f}" in built.summary_md
    assert built.cells_md != built.summary_md
    pairs = list(csv.DictReader(built.pairs_csv.splitlines()))
    assert [pair["loss_difference"] for pair in pairs] == [gap["loss_gap"] for gap in built.gaps]


def test_floats_are_read_back_exactly() -> None:
    study = make_study()
    records = make_records(study, PERPLEXITIES)
    for row, cell in zip(Built(study, records).summary, study.cells, strict=True):
        metrics = records[cell]["metrics"]["perplexity"]
        assert float(row["perplexity"]) == metrics["perplexity"]
        assert float(row["loss_standard_error"]) == metrics["loss_standard_error"]


def test_paired_standard_error_is_that_of_the_differences() -> None:
    records = make_records(make_study(), PERPLEXITIES)
    losses, dense = losses_of(records[WANDA]), losses_of(records[DENSE])
    count = len(losses)
    mean = 0.0
    for loss, dense_loss in zip(losses, dense, strict=True):
        mean += (loss - dense_loss) / count
    squares = 0.0
    for loss, dense_loss in zip(losses, dense, strict=True):
        squares += (loss - dense_loss - mean) ** 2
    error = math.sqrt(squares / (count - 1) / count)

    row = row_of(records, WANDA)
    assert row["loss_minus_dense"] == pytest.approx(mean, rel=1e-12)
    assert row["loss_minus_dense_standard_error"] == pytest.approx(error, rel=1e-12)
    assert row["perplexity_over_dense"] == pytest.approx(46.0 / 20.5, rel=1e-12)
    # Windows are hard or easy for both, so unpaired errors would be several times as large.
    metrics = records[WANDA]["metrics"]["perplexity"]
    assert error < metrics["loss_standard_error"] / 2


def test_equal_shift_of_all_windows_has_no_error() -> None:
    mean, error = paired_difference([2.0, 3.5, 5.0], [1.5, 3.0, 4.5])
    assert (mean, error) == (0.5, 0.0)


def test_dense_row_compares_with_nothing() -> None:
    row = row_of(make_records(make_study(), PERPLEXITIES), DENSE)
    for column in ("loss_minus_dense", "loss_minus_dense_standard_error", "perplexity_over_dense"):
        assert row[column] is None
    assert row["calibration_wall_s"] is None
    assert row["evaluation_wall_s"] == 20.5


def test_costs_are_of_their_own_steps() -> None:
    records = make_records(make_study(), PERPLEXITIES)
    adapted, pruned = row_of(records, RECONSTRUCTED), row_of(records, WANDA)
    assert adapted["adaptation_tokens"] == 8192
    assert adapted["adaptation_flops"] == 5 * 10**12
    assert adapted["adaptation_wall_s"] == 94.0
    assert adapted["adaptation_peak_bytes"] == 10**9
    assert adapted["calibration_wall_s"] == 2.25 + 11.5
    assert adapted["pruning_wall_s"] == 3.75
    for column in ("tokens", "flops", "wall_s", "peak_bytes"):
        assert pruned[f"adaptation_{column}"] is None


def test_zeros_and_speed_are_beside_what_they_are_of() -> None:
    records = make_records(make_study(), PERPLEXITIES)
    identity = records[WANDA]["identity"]
    row = row_of(records, WANDA)
    assert row["nonzero_parameters"] == identity["parameters"] - identity["zeros"]
    assert 0 < row["nonzero_parameters"] < row["parameters"]
    assert row["tokens_per_second"] is row["tokens_per_second_over_dense"] is None
    speed = {"checkpoint": 300.0, "dense": 200.0}
    losses = {"window_losses": [3.0, 4.0], "dense": {"window_losses": [2.0, 3.0]}}
    records[WANDA]["metrics"]["drift"] = losses | {"tokens_per_second": speed}
    row = row_of(records, WANDA)
    assert (row["tokens_per_second"], row["tokens_per_second_over_dense"]) == (300.0, 1.5)


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
            speed = {"checkpoint": 2.0, "dense": 1.0}
            drift = {**its_own, "dense": beside, "tokens_per_second": speed}
            records[cell]["metrics"]["drift"] = drift
    row = row_of(records, DENSE)
    assert (row["held_out_perplexity"], row["held_out_perplexity_standard_error"]) == dense[0]
    assert row["held_out_loss_minus_dense"] is row["drift_mean"] is row["tokens_per_second"] is None
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
    assert "The dense model's is its mean over the text of all seeds" in text


def test_one_seed_other_than_the_dense_cells_is_not_called_several() -> None:
    study = make_study(seeds=[1])
    (note,) = [
        metric.note(study)
        for metric in METRICS
        if metric.column == "held_out_perplexity" and metric.note
    ]
    assert note.startswith("Held out:") and "seeds" not in note


def test_cost_that_a_step_did_not_note_is_empty_and_not_zero() -> None:
    records = make_records(make_study(), PERPLEXITIES)
    del records[RECONSTRUCTED]["cost"]["reconstruct_window"]["flops"]
    assert row_of(records, RECONSTRUCTED)["adaptation_flops"] is None


def test_many_operations_are_written_without_an_exponent() -> None:
    records = make_records(make_study(), PERPLEXITIES)
    records[RECONSTRUCTED]["cost"]["reconstruct_window"]["flops"] = 1.244e15
    text = summary_text([cells_section(make_study(), means_over_seeds(records))])
    assert "1,244 TFLOP" in text


def test_perplexity_that_is_not_finite_stays_visible() -> None:
    study = make_study()
    built = Built(study, make_records(study, {**PERPLEXITIES, str(WANDA): None}))
    (row,) = [row for row in built.summary if row["record"] == WANDA.record_name]
    for column in ("perplexity", "perplexity_over_dense", "loss_minus_dense_standard_error"):
        assert math.isnan(float(row[column])), column
    (line,) = [line for line in built.cells_md.splitlines() if "wanda" in line and " none " in line]
    assert line.count("not finite") == 2  # perplexity and ratio
    assert built.cells_md.count("not finite") == 2
    (drawn,) = [
        row for row in built.criteria if (row["criterion"], row["adaptation"]) == ("wanda", "none")
    ]
    assert drawn["perplexity"] == "nan"


def test_two_seeds_have_a_mean_an_error_and_a_spread() -> None:
    study = make_study(seeds=[0, 1])
    one, other = 46.0, 50.0
    records = make_records(
        study, {str(DENSE): 20.5, str(WANDA): one, "tiny/wanda-u50/none/seed1": other}
    )
    built = Built(study, records)
    assert len(built.summary) == 1 + 2 * 2 * 2
    (row,) = [
        row for row in built.criteria if (row["criterion"], row["adaptation"]) == ("wanda", "none")
    ]
    assert row["seeds"] == "2"
    assert float(row["perplexity"]) == pytest.approx(48.0)
    assert float(row["perplexity_standard_deviation_over_seeds"]) == pytest.approx(
        abs(one - other) / math.sqrt(2)
    )
    (line,) = [line for line in built.cells_md.splitlines() if "wanda" in line and " none " in line]
    fields = [field.strip() for field in line.split("|")]
    assert fields[5:9] == ["48.0 ± 1.7", "2.341 ± 0.014", "2", "2.8"]
    assert "means over seeds (0, 1)" in built.summary_md


def test_error_of_a_mean_over_seeds_agrees_with_the_bootstrap() -> None:
    study = make_study(seeds=[0, 1])
    records = make_records(study, {str(WANDA): 46.0, "tiny/wanda-u50/none/seed1": 50.0})
    (mean,) = [
        row
        for row in means_over_seeds(records)
        if (row["criterion"], row["adaptation"]) == ("wanda", "none")
    ]
    losses = np.array([losses_of(records[replace(WANDA, seed=seed)]) for seed in (0, 1)])
    generator = np.random.default_rng(0)
    drawn = generator.integers(losses.shape[1], size=(4000, losses.shape[1]))
    means = np.exp(losses[:, drawn].mean(axis=-1)).mean(axis=0)
    # The bootstrap's variance has n for n - 1; its own error at 4000 draws is about 1 %.
    assert mean["perplexity_standard_error"] == pytest.approx(means.std(), rel=0.06)


def test_seeds_that_are_equal_change_nothing_but_the_spread() -> None:
    one = (20.0, 1.0, [2.9, 3.1, math.log(20.0) * 3 - 6.0])
    mean, error, spread = mean_over_seeds([one, one])
    alone = np.std(one[2], ddof=1) / math.sqrt(3) * 20.0
    assert (mean, spread) == (20.0, 0.0)
    assert error == pytest.approx(alone, rel=1e-12)


def test_one_seed_has_no_spread() -> None:
    study = make_study()
    built = Built(study, make_records(study, PERPLEXITIES))
    assert {row["perplexity_standard_deviation_over_seeds"] for row in built.criteria} == {""}
    assert "spread" not in built.summary_md
    for row, drawn in zip(built.summary, built.criteria, strict=True):
        errors = (float(it["perplexity_standard_error"]) for it in (row, drawn))
        assert next(errors) == pytest.approx(next(errors), rel=1e-12)


def test_each_model_begins_with_its_dense_cell() -> None:
    study = make_study(models=["tiny", "tiny-2"])
    groups = seed_groups(make_records(study, {}))
    models = [cells[0].model for cells in groups]
    assert models == ["tiny"] * 5 + ["tiny-2"] * 5
    assert [cells[0].is_dense for cells in groups] == ([True] + [False] * 4) * 2


def test_main_perplexities_are_those_of_the_most_adapted_model() -> None:
    study = make_study()
    records = make_records(study, {**PERPLEXITIES, "tiny/magnitude-u50/none/seed0": None})
    found = main_perplexities(study, records)
    assert list(found) == ["dense", "none", "recon_block"]
    assert found["none"] == "not finite"
    assert found["recon_block"] == PERPLEXITIES["tiny/magnitude-u50/recon_block/seed0"]


def test_other_tokens_than_the_dense_model_are_refused() -> None:
    records = make_records(make_study(), PERPLEXITIES)
    records[WANDA]["metrics"]["perplexity"]["token_ids_sha256"] = "f" * 64
    with pytest.raises(UserError, match="other tokens than its dense model") as raised:
        cell_rows(records)
    assert WANDA.record_name in str(raised.value)


def test_missing_record_is_named() -> None:
    study = make_study()
    records = make_records(study, PERPLEXITIES)
    del records[WANDA]
    with pytest.raises(UserError, match="a record is missing"):
        Built(study, records)


def test_summary_says_what_was_measured_and_on_what() -> None:
    study = make_study()
    text = Built(study, make_records(study, PERPLEXITIES)).cells_md
    lines = text.splitlines()
    assert len({len(line) for line in lines[:7]}) == 1, "the table is not aligned"
    assert lines[2].startswith("| tiny  | dense ")
    assert "20.50 ± " in lines[2]
    assert "8,192 tokens, 5 TFLOP, 94 s, 1.00 GB" in lines[6]
    assert (
        "tiny has 3,072 parameters, of which 0.0 million are not zero, and takes 0 MB on disk: "
        "zeros are stored like other numbers." in text
    )
    assert "`evaluation-text` (`wiki.utf8` of the package some-package 1.2.3)" in text
    assert "32 windows of 512 tokens (16,384 tokens)" in text
    assert "on `evaluation-text`, not on WikiText-2" in text
    assert "32 sequences of 256 tokens" in text
    assert "Seeds: 0, one for each cell." in text


def test_one_table_in_three_forms() -> None:
    study = make_study()
    built = Built(study, make_records(study, PERPLEXITIES))
    markdown = [line.strip("|").split("|") for line in built.summary_md.splitlines()[:7]]
    cells = built.summary_tex.partition(r"\end{longtable}")[0]
    lines = [line for line in cells.splitlines() if line.endswith(r" \\")]
    assert lines[0] == lines[1], "the head stands on the first page and on those after it"
    for fields, line in zip([markdown[0], *markdown[2:]], lines[1:], strict=True):
        plain = line.removesuffix(r"\\").replace(r"$\pm$", "±").replace("\\", "")
        assert [it.strip() for it in plain.split("&")] == [it.strip() for it in fields]
    assert "not on WikiText-2" in built.summary_tex
    assert "`" not in built.summary_tex and r"recon\_block" in built.summary_tex


def test_every_table_is_in_latex_with_a_caption_and_a_label() -> None:
    study = make_study(seeds=[0, 1])
    tex = Built(study, make_records(study, PERPLEXITIES)).summary_tex
    assert tex.count(r"\begin{longtable}") == tex.count(r"\caption{") == 2
    assert r"\label{tab:made-up-cells}" in tex and r"\label{tab:made-up-gaps}" in tex


def test_numbers_for_text() -> None:
    study = make_study(seeds=[0, 1])
    built = Built(study, make_records(study, PERPLEXITIES))
    assert set(built.numbers) == {
        "tiny/dense/none",
        "tiny/u50/none",
        "tiny/u50/recon_block",
        *(
            f"tiny/{it}-u50/{how}"
            for it in ("magnitude", "wanda")
            for how in ("none", "recon_block")
        ),
    }
    dense = built.numbers["tiny/dense/none"]
    assert dense["perplexity"]["value"] == pytest.approx(20.5)
    assert dense["perplexity"]["text"].startswith("20.50 ± ")
    assert "perplexity_over_dense" not in dense
    pruned = built.numbers["tiny/wanda-u50/none"]
    assert pruned["perplexity_over_dense"]["seeds"] == 2
    assert pruned["sparsity"] == {
        "value": 0.5, "standard_error": None, "text": "0.500", "seeds": 2
    }  # fmt: skip
    left = built.numbers["tiny/u50/recon_block"]["gap_left"]
    assert 0 < left["standard_error"] < left["value"] and "±" in left["text"]
    assert "gap_left" not in built.numbers["tiny/u50/none"]
    assert all(
        f"| {built.numbers['tiny/dense/none']['perplexity']['text']}" in line
        for line in built.summary_md.splitlines()[2:3]
    )


def test_a_number_that_is_not_finite_is_null() -> None:
    study = make_study()
    built = Built(study, make_records(study, PERPLEXITIES | {str(WANDA): None}))
    number = built.numbers["tiny/wanda-u50/none"]["perplexity"]
    assert (number["value"], number["text"]) == (None, "not finite")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("50 %", r"50 \%"), ("a_b & c", r"a\_b \& c"), ("1 ± 2", r"1 $\pm$ 2"), ("x^2~", None)],
)
def test_what_latex_reads_as_something_else_is_escaped(text: str, expected: str | None) -> None:
    wanted = r"x\textasciicircum{}2\textasciitilde{}" if expected is None else expected
    assert escaped(text) == wanted


def test_summary_says_what_a_model_takes_and_how_fast_it_is() -> None:
    study = make_study()
    means = means_over_seeds(make_records(study, PERPLEXITIES))
    for number, mean in enumerate(means):
        mean |= {"parameters": 134_515_008, "stored_bytes": 538e6}
        mean["nonzero_parameters"] = 134.5e6 - (number > 0) * 53e6
        mean["tokens_per_second_over_dense"] = 0.95 + number / 100 if number else None
    text = summary_text([cells_section(study, means)])
    assert (
        "tiny has 134,515,008 parameters, of which 81.5 to 134.5 million are not zero, and takes "
        "538 MB on disk: zeros are stored like other numbers. Zeros are also multiplied like other "
        f"numbers: pruned, it processes 0.96 to {0.95 + (len(means) - 1) / 100:.2f} times as many "
        "tokens per second as the dense model." in text
    )


def test_summary_says_how_windows_overlap() -> None:
    study = make_study()
    means = means_over_seeds(make_records(study, PERPLEXITIES))
    for mean in means:
        mean["window_stride"] = 128
    text = summary_text([cells_section(study, means)])
    assert (
        "32 windows of 512 tokens, one every 128 tokens; the last 128 tokens of each are scored."
        in text
    )


def test_summary_says_not_wikitext_only_where_it_knows() -> None:
    config = make_study().as_json()
    config["texts"]["evaluation-text"] = {
        "source": "hub",
        "repository": "some/text",
        "revision": "a" * 40,
        "member": "test.txt",
        "format": "plain",
    }
    study = Study.check(config, "made-up.yaml")
    means = means_over_seeds(make_records(study, PERPLEXITIES))
    text = summary_text([cells_section(study, means)])
    assert "WikiText" not in text
    assert "`test.txt` of some/text at aaaaaaa" in text
