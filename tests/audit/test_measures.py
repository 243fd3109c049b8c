"""Each measure on made-up records that must give each verdict, near misses included."""

import math
from pathlib import Path

import pytest

from claims_for_tests import make_claim, verdicts_on
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import Measurement
from freelunch.audit.verdicts import (
    FAILS,
    HOLDS,
    IN_PART,
    TOO_SMALL,
    UNDECIDED,
    UNTESTED,
    kind,
)
from freelunch.study.config import Part
from freelunch.study.study import Study
from measures_for_tests import BASE, BLOCK, ENTRIES, NOWHERE, audited
from records_for_tests import make_records, make_study


@pytest.mark.parametrize(
    ("adapted", "above", "expected"),
    [
        (40.0, 0, HOLDS),
        (61.5, 0, FAILS),
        (60.1, 0, UNDECIDED),
        (40.0, 0.6, FAILS),
        (30, 0.6, HOLDS),
    ],
)
def test_recovery(adapted: float, above: float, expected: str) -> None:
    part = audited("recovery", {"above": above}, BASE | {"wanda recon_block": adapted})
    assert kind(part["verdict"]) == expected
    (finding,) = part["findings"]
    assert finding["value"] == pytest.approx(math.log(60 / adapted) / math.log(60 / 20))
    assert finding["low"] < finding["value"] < finding["high"]
    assert set(finding["cells"]) == {
        "tiny/dense/none/seed0", "tiny/wanda-u50/none/seed0", "tiny/wanda-u50/recon_block/seed0"
    }  # fmt: skip
    assert "results/made-up/records/tiny__wanda-u50__recon_block__seed0.json" in finding["command"]


@pytest.mark.parametrize(
    ("whole", "expected"),
    [(40.1, HOLDS), (39.9, HOLDS), (45, FAILS), (36, FAILS), (41.7, UNDECIDED), (38.4, UNDECIDED)],
)
def test_window_difference(whole: float, expected: str) -> None:
    """In either direction: a window that gains more than one block is no equal of it."""
    settings = {"beside": 1, "windows": ["all"]}
    values = BASE | {"wanda recon_all": whole, "wanda recon_halves": 55}
    part = audited("window_difference", {"within": 0.1}, values, settings)
    assert kind(part["verdict"]) == expected, part
    (finding,) = part["findings"]
    assert finding["value"] == pytest.approx(math.log(whole / 40) / math.log(60 / 40))
    assert finding["subject"] == "tiny, wanda, u50, windows: whole model vs. one block"
    assert (finding["low"] < 0 < finding["high"]) == (expected == HOLDS)


@pytest.mark.parametrize("other", ["recon_all_cosine", "recon_all_again"])
def test_windows_that_differ_in_more_than_the_window_are_not_compared(other: str) -> None:
    """Another loss, or several passes over a part of the text, might be the cause."""
    settings = {"beside": 1, "windows": ["all"]}
    values = BASE | {f"wanda {other}": 59, "wanda recon_halves": 45}
    (finding,) = audited("window_difference", {"within": 0.1}, values, settings)["findings"]
    assert finding["verdict"] == UNTESTED
    assert finding["reason"] == "windows that were not run with the settings of the others: all"
    # Beside the same window with the settings of the others, it does not count.
    (finding,) = audited(
        "window_difference", {"within": 0.1}, values | {"wanda recon_all": 40}, settings
    )["findings"]
    assert kind(finding["verdict"]) == HOLDS


def test_each_pruned_model_says_which_windows_are_compared() -> None:
    """The second model was reconstructed with another precision alone, and with other windows."""
    half = {"precision": "bfloat16", **BLOCK}
    entries = {
        "recon_block": BLOCK,
        "halves": {**BLOCK, "window": "attention_mlp"},
        "all": {**BLOCK, "window": "all"},
        "half_block": half,
        "half_halves": {**half, "window": "attention_mlp"},
    }
    names = [["none", "recon_block", "halves", "all"], ["none", "half_block", "half_halves"]]
    config = make_study(entries, criteria=["wanda"]).as_json()
    (grid,) = config["study"]["grids"]
    config["study"]["grids"] = [
        {**grid, "models": [model], "adaptations": of}
        for model, of in zip(("tiny", "tiny-2"), names, strict=True)
    ]
    study = Study.check(config, "made-up.yaml")
    levels = {"none": 60.0, "recon_block": 40.0, "half_block": 40.0, "halves": 40.0, "all": 40.0}
    values = {
        str(cell): 20.0 if cell.is_dense else levels.get(cell.adaptation, 55.0)
        for cell in study.cells
    }
    evidence = Evidence(study, make_records(study, values), NOWHERE)
    settings = {"beside": 1, "windows": ["attention_mlp"], "metric": "perplexity"}
    claim = make_claim("window_difference", metric="perplexity", holds={"within": 0.1})
    claim["parts"][0]["settings"] = {"beside": 1, "windows": ["attention_mlp"]}
    asked = list(MEASURES["window_difference"].ask(evidence, settings))
    assert [it.subject for it in asked] == [
        f"{it}, wanda, u50, windows" for it in ("tiny", "tiny-2")
    ]
    (found,) = verdicts_on(evidence, [claim])
    assert [kind(it["verdict"]) for it in found["parts"][0]["findings"]] == [HOLDS, FAILS]


def test_windows_that_were_all_chosen_on_the_evaluation_text_are_compared() -> None:
    """As in the paper; the reason says so."""
    values = {"dense none": 20.0, "wanda none": 60.0}
    values |= {"wanda recon_on_test": 40, "wanda halves_on_test": 45}
    settings = {"beside": 1, "windows": ["attention_mlp"]}
    names = ["none", "recon_on_test", "halves_on_test"]
    part = audited("window_difference", {"within": 0.1}, values, settings, adaptations=names)
    (finding,) = part["findings"]
    assert kind(finding["verdict"]) == FAILS
    assert "halves_on_test, recon_on_test were chosen on the" in finding["reason"]


def test_a_window_that_alone_was_chosen_on_the_evaluation_text_is_not_compared() -> None:
    """It saw the answers; the others did not."""
    settings = {"beside": 1, "windows": ["attention_mlp", "all"]}
    values = BASE | {"wanda recon_all": 40.1, "wanda halves_on_test": 20.0}
    part = audited("window_difference", {"within": 0.1}, values, settings)
    (finding,) = part["findings"]
    assert not any("on_test" in cell for cell in finding["cells"])
    assert "attention_mlp" in finding["reason"]


def test_a_window_with_fewer_seeds_takes_none_from_the_others() -> None:
    """It is not among those that are compared, so it is not missed."""
    names = ["none", "recon_block", "recon_halves", "recon_all"]
    entries = {**ENTRIES, "recon_block": BLOCK}
    study = make_study(entries, criteria=["wanda"], adaptations=names, seeds=[0, 1, 2])
    values = {"none": 60.0, "recon_block": 40.0, "recon_halves": 41.0, "recon_all": 50.0}
    records = make_records(
        study,
        {str(cell): 20.0 if cell.is_dense else values[cell.adaptation] for cell in study.cells},
    )
    for cell in [it for it in records if it.adaptation == "recon_halves" and it.seed > 0]:
        del records[cell]
    evidence = Evidence(study, records, NOWHERE)
    settings = {"beside": 1, "windows": ["all"], "metric": "perplexity"}
    (asked,) = MEASURES["window_difference"].ask(evidence, settings)
    assert isinstance(asked, Measurement)
    assert {cell.seed for cell in asked.cells} == {0, 1, 2}
    (asked,) = MEASURES["halves_missed"].ask(evidence, settings | {"windows": [1, "all"]})
    assert isinstance(asked, Measurement)
    assert {cell.seed for cell in asked.cells} == {0}


@pytest.mark.parametrize(
    ("matrix", "expected"), [(50, HOLDS), (45.1, IN_PART), (42, IN_PART), (39, FAILS)]
)
def test_matrix_penalty(matrix: float, expected: str) -> None:
    """It has to be worse than each of the others."""
    values = BASE | {"wanda recon_all": 45, "wanda recon_matrix": matrix}
    windows = {"windows": [1, "all"]}
    part = audited("matrix_penalty", {"above": 0}, values, {"exact": False, **windows})
    assert kind(part["verdict"]) == expected, part
    other = audited("matrix_penalty", {"above": 0}, values, {"exact": True, **windows})
    assert kind(other["verdict"]) == UNTESTED
    assert "windows that were not run: matrix (solved exactly)" in other["reason"]


def test_matrix_penalty_of_the_exact_solution() -> None:
    values = BASE | {"wanda recon_all": 45, "wanda recon_exact": 50}
    part = audited("matrix_penalty", {"above": 0}, values, {"exact": True, "windows": [1, "all"]})
    assert kind(part["verdict"]) == HOLDS
    assert "recon_exact" in part["findings"][0]["subject"]


@pytest.mark.parametrize(("halves", "expected"), [(38, HOLDS), (46, FAILS)])
def test_halves_missed(halves: float, expected: str) -> None:
    values = BASE | {"wanda recon_all": 41, "wanda recon_halves": halves}
    settings = {"windows": [1, "all"]}
    assert kind(audited("halves_missed", {"below": 0.05}, values, settings)["verdict"]) == expected


def test_halves_memory() -> None:
    """Jobs' own work is compared: their libraries take most of the 1 GB that each has in all."""
    values = BASE | {"wanda recon_all": 41, "wanda recon_halves": 42}
    peaks = {"recon_halves": [200_000_000] * 3, "recon_block": [100_000_000] * 3}
    settings = {"windows": [1]}
    for below, expected in ((2.1, HOLDS), (1.2, FAILS)):
        part = audited(
            "halves_memory", {"below": below}, values, settings, peaks=peaks, seeds=[0, 1, 2]
        )
        assert part["verdict"] == expected
        assert part["findings"][0]["value"] == pytest.approx(2)
        assert part["findings"][0]["seeds"] == 3 and "3 seeds" in part["scope"]
        assert "--forcerun reconstruct_window" in part["findings"][0]["command"]
    # Of two windows, the smaller one may be so by chance, which the interval has to contain.
    spread = [97_000_000, 100_000_000, 103_000_000]
    noisy = {"recon_block": spread, "recon_all": spread}
    one, two = (
        audited(
            *("halves_memory", {"below": 2.1}, values, {"windows": windows}),
            peaks=peaks | noisy,
            seeds=[0, 1, 2],
        )["findings"][0]
        for windows in ([1], [1, "all"])
    )
    assert two["value"] == one["value"] and two["high"] == one["high"]
    assert two["low"] < one["low"]
    varied = peaks | {"recon_halves": [190_000_000, 200_000_000, 210_000_000]}
    part = audited("halves_memory", {"below": 2.1}, values, settings, peaks=varied, seeds=[0, 1, 2])
    (finding,) = part["findings"]
    # The standard error is 0.0577 times; Student's t of two degrees of freedom is 4.30.
    assert finding["low"] == pytest.approx(2 - 0.0577 * 4.30, abs=0.02)
    assert finding["high"] == pytest.approx(2 + 0.0577 * 4.30, abs=0.02)
    assert part["verdict"] == UNDECIDED
    part = audited("halves_memory", {"below": 2.1}, values, settings, peaks=peaks)
    assert part["verdict"] == UNTESTED and "measured with 1 of 3 seeds" in part["reason"]
    # Systems other than Linux do not tell what a process held before its work.
    part = audited("halves_memory", {"below": 2.1}, values, settings, seeds=[0, 1, 2])
    assert part["verdict"] == UNTESTED and "some records lack the peak memory" in part["reason"]
    # A matrix that was solved exactly tells nothing of the memory that training takes.
    for others in ({}, {"wanda recon_exact": 45}):
        part = audited("halves_memory", {"below": 1.1}, values | others, {"windows": ["matrix", 1]})
        assert part["verdict"] == UNTESTED and "not run: matrix" in part["reason"]


@pytest.mark.parametrize(
    ("magnitude", "expected"),
    [
        (50.0, HOLDS),
        (150.0, FAILS),
        (80.2, UNDECIDED),
        # In the other order, with a smaller and with a larger gap.
        (32.0, HOLDS),
        (14.0, FAILS),
    ],
)
def test_gap_left(magnitude: float, expected: str) -> None:
    values = BASE | {"magnitude none": 120.0, "magnitude recon_block": magnitude}
    part = audited(
        "gap_left",
        {"within": 1},
        values,
        {"groups": [["magnitude"], ["wanda"]]},
        criteria=["magnitude", "wanda"],
    )
    assert kind(part["verdict"]) == expected, part
    wanted = math.log(magnitude / 40) / math.log(120 / 60)
    assert part["findings"][0]["value"] == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (90.0, 50.0, HOLDS),
        (90.0, 80.0, FAILS),
        # In the other order, with a smaller and with a larger gap.
        (90.0, 32.0, HOLDS),
        (90.0, 22.0, FAILS),
        # Where there was no gap, a share of it would be no number.
        (60.1, 50.0, FAILS),
        (60.1, 40.1, UNDECIDED),
    ],
)
def test_gap_growth(before: float, after: float, expected: str) -> None:
    values = BASE | {"magnitude none": before, "magnitude recon_block": after}
    settings = {"groups": [["wanda"], ["magnitude"]]}
    part = audited("gap_growth", {"below": 0}, values, settings, criteria=["magnitude", "wanda"])
    assert kind(part["verdict"]) == expected, part
    wanted = abs(math.log(after / 40)) - abs(math.log(before / 60))
    assert part["findings"][0]["value"] == pytest.approx(wanted)


def test_only_the_criteria_that_are_named_count() -> None:
    values = BASE | {"magnitude none": 120.0, "magnitude recon_block": 50}
    criteria = ["magnitude", "wanda"]
    settings = {"groups": [[it] for it in (*criteria, "ria")]}
    part = audited("gap_left", {"below": 1}, values, settings, criteria=criteria)
    assert kind(part["verdict"]) == UNTESTED
    assert "no cells of ria" in part["reason"]


@pytest.mark.parametrize(
    ("large", "expected"),
    # The last gap turns around, and is larger than what is left in the small model.
    [(45.0, HOLDS), (118.0, FAILS), (20.0, FAILS)],
)
def test_gap_left_by_size(large: float, expected: str) -> None:
    """Of tiny-2, which is twice as large; the gap of tiny is half of what it was."""
    values = {
        "tiny/wanda-u50/none/seed0": 60.0,
        "tiny/wanda-u50/recon_block/seed0": 40.0,
        "tiny/magnitude-u50/none/seed0": 120.0,
        "tiny/magnitude-u50/recon_block/seed0": 40 * math.sqrt(2),
        "tiny-2/wanda-u50/none/seed0": 60.0,
        "tiny-2/wanda-u50/recon_block/seed0": 40.0,
        "tiny-2/magnitude-u50/none/seed0": 120.0,
        "tiny-2/magnitude-u50/recon_block/seed0": large,
    }
    grid = {"models": ["tiny-2", "tiny"], "criteria": ["magnitude", "wanda"]}
    settings = {"groups": [["magnitude"], ["wanda"]], "across_families": False}
    part = audited("gap_left_by_size", {"below": 0}, values, settings, **grid)
    assert kind(part["verdict"]) == expected, part
    (finding,) = part["findings"]
    assert finding["value"] == pytest.approx(abs(math.log(large / 40)) / math.log(2) - 0.5)
    one = audited("gap_left_by_size", {"below": 0}, values, settings, criteria=grid["criteria"])
    assert kind(one["verdict"]) == UNTESTED and "models of several sizes" in one["reason"]


@pytest.mark.parametrize(
    ("across", "expected"),
    [
        (False, {("opt-1.3b", "opt-6.7b"), ("llama-2-7b", "llama-2-70b")}),
        (
            True,
            {("opt-1.3b", "opt-6.7b"), ("opt-1.3b", "llama-2-7b"), ("llama-2-7b", "llama-2-70b")},
        ),
    ],
)
def test_a_model_is_compared_with_the_next_that_is_clearly_smaller(
    across: bool, expected: set[tuple[str, ...]]
) -> None:
    billions = {"opt-1.3b": 1.3, "opt-6.7b": 5.0, "llama-2-7b": 6.8, "llama-2-70b": 70.0}
    study = Study.load(Path("studies/paper.yaml")).of_part(Part(models=list(billions)))
    records = make_records(study, {})
    for record in records.values():
        model = record["cell"].partition("/")[0]
        record["identity"]["parameters"] = int(1e9 * billions[model])
    groups = [["magnitude"], ["wanda", "ria", "sparsegpt"]]
    settings = {"groups": groups, "across_families": across}
    claim = make_claim("gap_left_by_size", metric="perplexity", settings=settings)
    (verdict,) = verdicts_on(Evidence(study, records, NOWHERE), [claim])
    compared = {
        tuple(dict.fromkeys(cell.partition("/")[0] for cell in finding["cells"]))
        for finding in verdict["parts"][0]["findings"]
    }
    assert compared == expected


def test_models_are_compared_in_whichever_order_their_criteria_are() -> None:
    """Magnitude pruning is the worse of the two in the small model, and the better in the large."""
    settings = {"groups": [["magnitude"], ["wanda"]], "across_families": False}
    values = {f"{model}/wanda-u50/none/seed0": 60.0 for model in ("tiny", "tiny-2")}
    values |= {f"{model}/wanda-u50/recon_block/seed0": 40.0 for model in ("tiny", "tiny-2")}
    values |= {f"{model}/magnitude-u50/recon_block/seed0": 42 for model in ("tiny", "tiny-2")}
    values |= {"tiny/magnitude-u50/none/seed0": 120.0, "tiny-2/magnitude-u50/none/seed0": 40.0}
    grid = {"models": ["tiny-2", "tiny"], "criteria": ["magnitude", "wanda"]}
    part = audited("gap_left_by_size", {"below": 0}, values, settings, **grid)
    (finding,) = part["findings"]
    small = math.log(42 / 40) / math.log(120 / 60)
    large = math.log(40 / 42) / math.log(60 / 40)
    assert finding["value"] == pytest.approx(abs(large) - abs(small), abs=1e-3)


@pytest.mark.parametrize(("other", "expected"), [(40.02, UNDECIDED), (45, FAILS)])
def test_perplexity_difference(other: float, expected: str) -> None:
    values = BASE | {"magnitude none": 70.0, "magnitude recon_block": other}
    settings = {"criteria": ["wanda", "magnitude"], "dense_at_most": 21}
    part = audited(
        "perplexity_difference", {"within": 0.1}, values, settings, criteria=["magnitude", "wanda"]
    )
    assert kind(part["verdict"]) == expected, part
    part = audited(
        "perplexity_difference", {"within": 9}, values, settings, criteria=["magnitude", "wanda"]
    )
    assert kind(part["verdict"]) == HOLDS
    other = settings | {"dense_at_most": 8}
    part = audited(
        "perplexity_difference", {"below": 9}, values, other, criteria=["magnitude", "wanda"]
    )
    assert kind(part["verdict"]) == UNTESTED
    assert "the dense perplexity is 20.0, not at most 8" in part["reason"]


def test_planned_memory() -> None:
    settings = {"study": "studies/qwen72b.yaml", "adaptation": "recon_block"}
    for below, expected in ((80, HOLDS), (20, FAILS)):
        part = audited("planned_memory", {"below": below}, BASE, settings)
        assert kind(part["verdict"]) == expected
        assert part["findings"][0]["text"] == "24.02 GB"
        assert part["findings"][0]["command"] == "make plan STUDY=studies/qwen72b.yaml"


def test_a_criterion_that_the_study_lacks_is_not_an_error() -> None:
    settings = {"criteria": ["wanda", "sparsegpt"], "dense_at_most": 30}
    part = audited("perplexity_difference", {"below": 1}, BASE, settings)
    assert kind(part["verdict"]) == UNTESTED


def test_recovery_at_size() -> None:
    wanda = {"criteria": ["wanda"]}
    part = audited("recovery_at_size", {"above": 0}, BASE, {"parameters": 1000, **wanda})
    assert kind(part["verdict"]) == HOLDS
    part = audited("recovery_at_size", {"above": 0}, BASE, {"parameters": 1001, **wanda})
    assert kind(part["verdict"]) == UNTESTED
    assert "the largest model of this study has 1,000" in part["reason"]
    missing = {"parameters": 1000, "criteria": ["ria"]}
    part = audited("recovery_at_size", {"above": 0}, BASE, missing, adaptations=["none"])
    assert "no reconstruction of them is there" in part["reason"]
    assert part["bearing"] != TOO_SMALL


def test_accuracy_is_a_loss_of_wrong_answers(tmp_path: Path) -> None:
    answers = {"dense": "1" * 90 + "0" * 10, "none": "1" * 50 + "0" * 50}
    answers["recon_block"] = "1" * 70 + "0" * 30
    part = audited(
        "recovery", {"above": 0}, BASE, metric="accuracy", folder=tmp_path, answers=answers
    )
    assert kind(part["verdict"]) == HOLDS
    assert part["findings"][0]["value"] == pytest.approx(0.5)
    assert " --forcerun evaluate_cell -- " in part["findings"][0]["command"]


@pytest.mark.parametrize(
    ("adapted", "expected"), [("1" * 70 + "0" * 30, HOLDS), ("1" * 52 + "0" * 48, UNDECIDED)]
)
def test_gain_of_answers(tmp_path: Path, adapted: str, expected: str) -> None:
    """Only cells that answered tasks have one."""
    answers = {"none": "1" * 50 + "0" * 50, "recon_block": adapted}
    part = audited("gain", {"above": 0}, BASE, metric="accuracy", folder=tmp_path, answers=answers)
    (finding,) = part["findings"]
    assert kind(part["verdict"]) == expected
    assert finding["value"] == pytest.approx(adapted.count("1") / 100 - 0.5)
    assert " points (95 %" in finding["text"]


def test_what_was_not_measured_is_not_testable() -> None:
    for metric in ("accuracy", "held_out_perplexity"):
        part = audited("recovery", {"above": 0}, BASE, metric=metric)
        assert kind(part["verdict"]) == UNTESTED
        assert f"some of these cells have no {metric}" in part["reason"]


def test_the_reason_names_what_is_not_finite() -> None:
    values = BASE | {"magnitude none": 120, "magnitude recon_block": None}
    settings = {"groups": [["magnitude"], ["wanda"]]}
    criteria = ["magnitude", "wanda"]
    part = audited("gap_left", {"within": 1}, values, settings, criteria=criteria)
    (finding,) = part["findings"]
    diverged = "tiny/magnitude-u50/recon_block/seed0"
    assert finding["reason"] == f"a loss of {diverged} is not finite"
    assert finding["text"] == "not finite" and finding["verdict"] == UNDECIDED


def test_a_loss_that_is_not_finite_decides_nothing() -> None:
    part = audited("recovery", {"above": 0}, BASE | {"wanda recon_block": None})
    assert kind(part["verdict"]) == UNDECIDED
    assert part["findings"][0]["value"] is None


def test_seeds_are_shown() -> None:
    values = {f"tiny/wanda-u50/none/seed{seed}": 60.0 for seed in (0, 1)}
    values |= {"tiny/wanda-u50/recon_block/seed0": 40.0, "tiny/wanda-u50/recon_block/seed1": 45.0}
    part = audited("recovery", {"above": 0}, {"dense none": 20.0, **values}, seeds=[0, 1])
    (finding,) = part["findings"]
    wanted = [math.log(60 / adapted) / math.log(3) for adapted in (40, 45)]
    assert finding["of_seeds"] == pytest.approx(wanted)
    # Two seeds say little: the t of one degree of freedom is 12.7.
    assert finding["low"] < 0 and finding["high"] > 0.9
    assert "one seed" not in finding["reason"]
