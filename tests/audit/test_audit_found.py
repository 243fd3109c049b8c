"""What a study found, whatever it asks: numbers, an answer in words, and how the page shows it."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from freelunch.analysis.pairing import Records
from freelunch.audit.audit import audit_study
from freelunch.audit.evidence import Evidence
from freelunch.audit.found import answer_text, gather_found
from freelunch.audit.page import page_text
from freelunch.audit.page_found import shown_found
from freelunch.audit.page_marks import _CORNERS, _HALVES, symbol_id, symbols
from freelunch.audit.page_scatter import SIZE, VIEWS, Axis, scatter
from freelunch.audit.scope import Regime, worth_text
from freelunch.audit.verdicts import UNTESTED
from freelunch.core.files import write_json
from freelunch.reporting.drawing.marks import Mark, marks
from freelunch.study.cell import NONE
from freelunch.study.study import Study
from records_for_tests import PERPLEXITIES, make_records, make_study

FULL = {"full": {"method": "full"}, "full_3": {"method": "full", "budget": {"times": 3}}}
WANDA = "tiny/wanda-u50"


def found_of(
    study: Study, perplexities: Mapping[str, float | None]
) -> tuple[list[dict[str, Any]], Records]:
    records = make_records(study, PERPLEXITIES | dict(perplexities))
    return gather_found(Evidence(study, records, Path())), records


def answer_of(perplexities: Mapping[str, float | None], study: Study) -> str:
    return answer_text(study, found_of(study, perplexities)[0])


# --- Numbers


def test_adaptations_are_ranked_beside_the_pruned_model_of_the_same_seeds() -> None:
    study = make_study(
        {"full": {"method": "full"}},
        criteria=["wanda"],
        adaptations=["none", "recon_block", "full"],
        seeds=[0, 1],
    )
    given = {
        **{f"{WANDA}/none/seed{seed}": value for seed, value in enumerate((40.0, 50.0))},
        **{f"{WANDA}/full/seed{seed}": value for seed, value in enumerate((30.0, 35.0))},
        **{f"{WANDA}/recon_block/seed{seed}": 38.0 for seed in range(2)},
    }
    (found,), _ = found_of(study, given)
    assert [each["adaptation"] for each in found["adaptations"]] == ["full", "recon_block"]
    assert found["unadapted"]["value"] == pytest.approx(45.0)
    full = found["adaptations"][0]
    assert full["perplexity"]["value"] == pytest.approx(32.5) and full["seeds"] == 2
    gained = (math.log(40 / 30) + math.log(50 / 35)) / 2
    added = (math.log(40 / 20.5) + math.log(50 / 20.5)) / 2
    assert full["gain"]["value"] == pytest.approx(1 - math.exp(-gained))
    assert full["recovered"]["value"] == pytest.approx(gained / added)
    assert full["gain"]["low"] < full["gain"]["value"] < full["gain"]["high"]
    assert (full["tokens"], full["flops"]) == (8192, 5 * 10**12)


def test_what_is_not_finite_is_last_and_what_has_nothing_beside_it_has_no_gain() -> None:
    study = make_study(
        {"full": {"method": "full"}}, criteria=["wanda"], adaptations=["recon_block", "full"]
    )
    (found,), _ = found_of(study, {f"{WANDA}/recon_block/seed0": None})
    assert [each["adaptation"] for each in found["adaptations"]] == ["full", "recon_block"]
    assert found["adaptations"][1]["perplexity"] == {"value": None, "text": "not finite"}
    assert found["unadapted"] is None
    assert {each["gain"] for each in found["adaptations"]} == {None}
    assert scatter(found) is not None, "the other one is shown"


def test_what_is_far_beyond_the_pruned_model_squeezes_no_other_in_the_plot() -> None:
    study = make_study(
        {"full": {"method": "full"}},
        criteria=["wanda"],
        adaptations=["none", "recon_block", "full"],
    )
    (found,), _ = found_of(study, {f"{WANDA}/full/seed0": 1e6})
    plot = scatter(found)
    assert plot is not None
    block, full = sorted(plot["points"], key=lambda point: point["beyond"] is not None)
    assert full["beyond"] == found["adaptations"][-1]["perplexity"]["text"]
    assert full["y"] == plot["top"] < block["y"] and full["bar"] is None
    (pruned, *_) = plot["lines"]
    assert block["y"] - pruned["at"] > 20


# --- In words


def test_the_answer_is_about_the_reference_and_its_rival_on_as_many_tokens() -> None:
    study = make_study(
        {
            "full": {"method": "full"},
            "masklora": {"method": "masklora"},
            "full_20": {"method": "full", "budget": {"times": 20, "of": "recon_block"}},
        },
        adaptations=["none", "recon_block", "full", "masklora", "full_20"],
    )
    given = {"full": 37.0, "masklora": 36.0, "full_20": 30.0}
    answer = answer_of(
        {
            f"{criterion}/{name}/seed0": value
            for name, value in given.items()
            for criterion in (WANDA, "tiny/magnitude-u50")
        },
        study,
    )
    assert answer.startswith(
        "On this sample and order (one seed), reconstruction (one block) lowers the perplexity of "
        "tiny, pruned by Wanda (50 % unstructured), from 46.0 to "
    )
    assert " of the loss that pruning adds; on as many tokens, retraining reaches " in answer
    # In the order of the config: the better one comes second.
    lower = r"[\d.]+ % lower, 95 %: [\d.]+ to [\d.]+ %\)"
    assert re.search(rf"37.0 \(all weights; {lower} and 36.0 \(MaskLoRA; {lower}\.$", answer)


@pytest.mark.parametrize(
    ("seeds", "start"),
    [
        ([0], "On this sample and order (one seed), reconstruction"),
        ([0, 1], "With 2 seeds, reconstruction"),
        ([0, 1, 2], "Reconstruction"),
    ],
)
def test_an_answer_from_few_seeds_says_so(seeds: list[int], start: str) -> None:
    study = make_study(criteria=["wanda"], seeds=seeds)
    assert answer_of({}, study).startswith(f"{start} (one block) ")


def test_the_answer_compares_the_seeds_that_both_have_and_counts_them() -> None:
    """As in an unfinished study, whose cells finish in no fixed order."""
    study = make_study(criteria=["wanda"], seeds=[0, 1, 2])
    given = {f"{WANDA}/none/seed{seed}": 40.0 + seed for seed in range(3)}
    given |= {f"{WANDA}/recon_block/seed{seed}": 30.0 + seed for seed in range(3)}
    records = make_records(study, PERPLEXITIES | given)
    late = [cell for cell in records if cell.adaptation == NONE and cell.seed > 0]
    for cell in late:
        del records[cell]
    unfinished = replace(study, finished=frozenset(records))
    answer = answer_text(unfinished, gather_found(Evidence(unfinished, records, Path())))
    assert answer.startswith("On this sample and order (one seed), reconstruction")
    assert ", from 40.0 to 30.0 (dense" in answer


def test_the_answer_names_two_rivals_and_says_how_many_more_there_are() -> None:
    methods = ("full", "masklora", "lora", "biases")
    study = make_study(
        {name: {"method": name} for name in methods},
        adaptations=["none", "recon_block", *methods],
    )
    values = {"full": 290.0, "masklora": 40.0, "lora": 41.0, "biases": 42.0}
    cells = {
        f"{criterion}/{name}/seed0": value
        for name, value in values.items()
        for criterion in (WANDA, "tiny/magnitude-u50")
    }
    answer = answer_of(cells, study)
    assert "290 (all weights; higher) and 40.0 (MaskLoRA; " in answer
    assert answer.endswith(", and 2 more are ranked below.")


@pytest.mark.parametrize(
    ("perplexity", "expected"),
    [
        (39.0, "lowers the perplexity of tiny, pruned by Wanda (50 % unstructured), from 46.0 to"),
        (90.0, "raises the perplexity of tiny, pruned by Wanda (50 % unstructured), from 46.0 to"),
        (46.01, "does not clearly change the perplexity of tiny, pruned by Wanda (50 % unstru"),
        (None, "changes the perplexity of tiny, pruned by Wanda (50 % unstructured), from 46.0 to"),
    ],
)
def test_the_answer_goes_no_further_than_the_interval(
    perplexity: float | None, expected: str
) -> None:
    answer = answer_of({f"{WANDA}/recon_block/seed0": perplexity}, make_study(criteria=["wanda"]))
    assert f"reconstruction (one block) {expected}" in answer
    assert ("recovers" in answer) == (perplexity == 39.0)
    assert ("not finite" in answer) == (perplexity is None)


def test_a_loss_that_is_too_large_for_a_perplexity() -> None:
    study = make_study(criteria=["wanda"])
    records = make_records(study, PERPLEXITIES)
    (cell,) = (cell for cell in records if cell.adaptation == "recon_block")
    metrics = records[cell]["metrics"]["perplexity"]
    metrics["window_losses"] = [900 + loss for loss in metrics["window_losses"]]
    metrics["perplexity"] = None
    answer = answer_text(study, gather_found(Evidence(study, records, Path())))
    assert "raises the perplexity of tiny" in answer and "to not finite" in answer


def test_an_answer_where_there_is_little() -> None:
    alone = make_study(criteria=["wanda"], adaptations=["recon_block"])
    assert answer_of({}, alone).startswith(
        "On this sample and order (one seed), reconstruction (one block) gives tiny, pruned by "
        "Wanda (50 % unstructured), a perplexity"
    )
    pruned = make_study(criteria=["wanda"], adaptations=["none"])
    assert answer_of({}, pruned).startswith(
        "The perplexity of tiny, pruned by Wanda (50 % unstructured), is 46.0 (dense model: 20.50)"
    )
    assert answer_text(pruned, []) == "This study measures dense models only."


@pytest.mark.parametrize(
    ("regimes", "seeds", "expected"),
    [
        (
            {"C1": Regime(128, 4096)},
            [0],
            "At most 1.6 % of the paper's smallest calibration sample for",
        ),
        (
            {"C1": Regime(32, 256)},
            [0, 1, 2],
            "At least the paper's smallest calibration sample for most models (8,192 tokens)",
        ),
        (
            {},
            [0],
            "The paper's scale is not known, and what comes from fewer than three seeds holds",
        ),
    ],
)
def test_what_a_study_is_worth(regimes: dict[str, Regime], seeds: list[int], expected: str) -> None:
    study = make_study(seeds=seeds)
    worth = worth_text(study, make_records(study, {}), regimes)
    assert worth.startswith(expected)
    assert ("on this sample and order only" in worth) == (len(seeds) < 3)


def test_a_study_without_reconstruction_settles_nothing() -> None:
    study = make_study(adaptations=["none"])
    worth = worth_text(study, make_records(study, {}), {"C1": Regime(32, 256)})
    assert worth.startswith("No model was reconstructed, so this settles no claim of the paper")


# --- On the page


def test_points_lie_in_the_plot_and_apart() -> None:
    names = [f"full_{number}" for number in range(12)]
    study = make_study(
        {name: {"method": "full", "learning_rate": 1e-5} for name in names},
        criteria=["wanda"],
        adaptations=["none", *names],
    )
    (found,), _ = found_of(study, {f"{WANDA}/{name}/seed0": 40.0 for name in names})
    plot = scatter(found)
    assert plot is not None and len(plot["points"]) == len(names)
    for view in range(len(VIEWS)):
        places = [(float(point["places"].split()[view]), point["y"]) for point in plot["points"]]
        assert all(plot["top"] <= y <= plot["bottom"] for _, y in places)
        for number, (x, y) in enumerate(places):
            for other_x, other_y in places[:number]:
                assert max(abs(x - other_x), abs(y - other_y)) >= SIZE
    for point in plot["points"]:
        assert point["x"] == float(point["places"].split()[0])
        low, high = point["bar"]
        assert plot["top"] <= low <= point["y"] <= high <= plot["bottom"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([512, 81_920], ["500", "1k", "2k", "5k", "10k", "20k", "50k", "100k"]),
        ([513.1, 513.9], ["513", "513.5", "514"]),
        ([33.3, 45.5], ["35", "40", "45"]),
        ([2e9, 3e9], ["2G", "2.5G", "3G"]),
        ([1e8, 1e13], ["100M", "1G", "10G", "100G", "1T", "10T"]),
    ],
)
def test_ticks_are_round_and_differ(values: list[float], expected: list[str]) -> None:
    ticks = Axis.around(values, 0, 100).ticks()
    assert [tick["text"] for tick in ticks] == expected
    assert all(0 <= tick["at"] <= 100 for tick in ticks)


def test_a_filter_reaches_every_point_by_its_records() -> None:
    study = make_study(seeds=[0, 1])
    found, records = found_of(study, {})
    shown = shown_found(study, found)
    assert shown is not None
    adapted = {cell.record_name for cell in records if cell.adaptation == "recon_block"}
    rows = [row for group in shown["groups"] for row in group["rows"]]
    points = [point for group in shown["plots"] for point in group["plot"]["points"]]
    for each in (rows, points):
        assert {name for it in each for name in it["records"].split()} == adapted


def test_pruned_models_with_one_adaptation_are_plotted_only_if_no_other_has_more() -> None:
    study = make_study()
    found, _ = found_of(study, {})
    shown = shown_found(study, found)
    assert shown is not None and len(shown["plots"]) == 2
    found[1]["adaptations"] += found[1]["adaptations"]
    shown = shown_found(study, found)
    assert shown is not None and len(shown["plots"]) == 1
    assert shown["groups"][0]["label"] == shown["plots"][0]["label"], "it comes first"
    assert shown_found(study, []) is None


def test_every_mark_of_the_figures_has_a_symbol_of_its_own() -> None:
    study = Study.load(Path("studies/full.yaml"), Path(__file__).resolve().parents[2])
    looks = marks(study.as_json()["adaptations"])
    shown = symbols(looks.values())
    assert {symbol_id(look) for look in looks.values()} == set(shown)
    assert len({str(text).partition(">")[2] for text in shown.values()}) == len(shown)
    every = [
        Mark("", "", "#000000", marker, fill, "-")
        for marker in _CORNERS
        for fill in ("full", "none", *_HALVES)
    ]
    assert len(symbols(every)) == len(every)


def test_the_page_of_a_study_that_no_claim_asks_about_says_what_was_found(tmp_path: Path) -> None:
    """Another model, two criteria, one adaptation."""
    study = make_study(models=["tiny-2"])
    perplexities = {name.replace("tiny", "tiny-2"): it for name, it in PERPLEXITIES.items()}
    for cell, record in make_records(study, perplexities).items():
        write_json(tmp_path / "records" / cell.record_name, record)
    audit = audit_study(study, tmp_path / "records")
    assert {claim["verdict"] for claim in audit["claims"]} == {UNTESTED}
    page = page_text(study, audit, tmp_path).replace("\N{NO-BREAK SPACE}", " ")
    assert "the perplexity of tiny-2, pruned by Wanda (50 % unstructured), from 46.0" in page
    assert "7 claims: 7 not testable here." in page
    assert page.count('<g class="point"') == 2
    assert page.count("They need ") == 1 and "<article" not in page


@pytest.mark.parametrize(
    ("samples", "is_rival"), [(31, True), (33, True), (30, False), (35, False), (64, False)]
)
def test_rivals_saw_as_many_tokens(samples: int, is_rival: bool) -> None:
    """But for a twentieth of the 32 sequences."""
    entries = {"full": {"method": "full", "samples": samples}}
    study = make_study(entries, criteria=["wanda"], adaptations=["none", "recon_block", "full"])
    (found,) = gather_found(Evidence(study, make_records(study, PERPLEXITIES), Path()))
    (full,) = (it for it in found["adaptations"] if it["adaptation"] == "full")
    assert (full["beside_first"] is not None) == is_rival


def test_the_answer_is_of_as_many_seeds_as_its_smallest_comparison() -> None:
    config = make_study(
        {"full": {"method": "full"}},
        criteria=["wanda"],
        adaptations=["none", "recon_block"],
        seeds=[0, 1, 2],
    ).as_json()
    (grid,) = config["study"]["grids"]
    config["study"]["grids"].append({**grid, "adaptations": ["full"], "seeds": [0]})
    study = Study.check(config, "made-up.yaml")
    found = gather_found(Evidence(study, make_records(study, PERPLEXITIES), Path()))
    assert answer_text(study, found).startswith("On this sample and order (one seed), ")
