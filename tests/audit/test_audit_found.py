"""What a study found, whatever it asks: numbers, an answer in words, and how the page shows it."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from freelunch.analysis.pairing import Records
from freelunch.audit.answers import Level, PrunedModelAnswer, answer_text, gather_answers
from freelunch.audit.audit import audit_study
from freelunch.audit.evidence import Evidence
from freelunch.audit.page import page_text
from freelunch.audit.page_found import found_section
from freelunch.audit.scope import Regime, worth_text
from freelunch.audit.verdicts import UNTESTED
from freelunch.core.files import write_json
from freelunch.records.read import load_records
from freelunch.reporting.results import Results
from freelunch.study.cell import NONE
from freelunch.study.study import Study
from records_for_tests import PERPLEXITIES, make_records, make_study

FULL = {"full": {"method": "full"}, "full_3": {"method": "full", "budget": {"times": 3}}}
WANDA = "tiny/wanda-u50"


def found_of(
    study: Study, perplexities: Mapping[str, float | None]
) -> tuple[list[PrunedModelAnswer], Records]:
    records = make_records(study, PERPLEXITIES | dict(perplexities))
    return gather_answers(Evidence(study, records, Path())), records


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
    assert [each.adaptation for each in found.adaptations] == ["full", "recon_block"]
    full = found.adaptations[0]
    assert found.unadapted and full.gain and full.recovered
    assert found.unadapted.value == pytest.approx(45.0)
    assert full.perplexity.value == pytest.approx(32.5) and full.seeds == 2
    gained = (math.log(40 / 30) + math.log(50 / 35)) / 2
    added = (math.log(40 / 20.5) + math.log(50 / 20.5)) / 2
    assert full.gain.value == pytest.approx(1 - math.exp(-gained))
    assert full.recovered.value == pytest.approx(gained / added)
    low, value, high = (float(str(it)) for it in (full.gain.low, full.gain.value, full.gain.high))
    assert low < value < high
    assert (full.tokens, full.flops) == (8192, 5 * 10**12)


def test_what_is_not_finite_is_last_and_what_has_nothing_beside_it_has_no_gain() -> None:
    study = make_study(
        {"full": {"method": "full"}}, criteria=["wanda"], adaptations=["recon_block", "full"]
    )
    (found,), _ = found_of(study, {f"{WANDA}/recon_block/seed0": None})
    assert [each.adaptation for each in found.adaptations] == ["full", "recon_block"]
    assert found.adaptations[1].perplexity == Level(None, "not finite")
    assert found.unadapted is None
    assert {each.gain for each in found.adaptations} == {None}


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
    answer = answer_text(unfinished, gather_answers(Evidence(unfinished, records, Path())))
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
    answer = answer_text(study, gather_answers(Evidence(study, records, Path())))
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


def test_a_filter_reaches_every_adaptation_by_its_records() -> None:
    found, records = found_of(make_study(seeds=[0, 1]), {})
    shown = found_section(found)
    assert shown is not None and found_section([]) is None
    adapted = {cell.record_name for cell in records if cell.adaptation == "recon_block"}
    rows = [row for group in shown.groups for row in group.rows]
    assert {name for row in rows for name in row.records.split()} == adapted


def test_seeds_that_differ_have_a_column() -> None:
    found, _ = found_of(make_study(seeds=[0, 1]), {})
    shown = found_section(found)
    assert shown is not None and (shown.seeds, shown.heads[-1]) == ("2 seeds", "GB")
    found[0].adaptations[0] = replace(found[0].adaptations[0], seeds=1)
    shown = found_section(found)
    assert shown is not None and (shown.seeds, shown.heads[-1]) == (None, "Seeds")
    assert sorted(row.fields[-1].text for it in shown.groups for row in it.rows) == ["1", "2"]


def test_the_page_of_a_study_that_no_claim_asks_about_says_what_was_found(tmp_path: Path) -> None:
    """Another model, two criteria, one adaptation."""
    study = make_study(models=["tiny-2"])
    perplexities = {name.replace("tiny", "tiny-2"): it for name, it in PERPLEXITIES.items()}
    for cell, record in make_records(study, perplexities).items():
        write_json(tmp_path / "records" / cell.record_name, record)
    audit = audit_study(study, tmp_path / "records")
    assert {claim.verdict for claim in audit.claims} == {UNTESTED}
    results = Results(study, load_records(study, tmp_path / "records"), tmp_path / "records")
    page = page_text(results, audit, tmp_path).replace("\N{NO-BREAK SPACE}", " ")
    assert "the perplexity of tiny-2, pruned by Wanda (50 % unstructured), from 46.0" in page
    assert "7 claims: 7 not testable here." in page
    assert page.count("They need ") == 1 and "<article" not in page


@pytest.mark.parametrize(
    ("samples", "is_rival"), [(31, True), (33, True), (30, False), (35, False), (64, False)]
)
def test_rivals_saw_as_many_tokens(samples: int, is_rival: bool) -> None:
    """But for a twentieth of the 32 sequences."""
    entries = {"full": {"method": "full", "samples": samples}}
    study = make_study(entries, criteria=["wanda"], adaptations=["none", "recon_block", "full"])
    (found,) = gather_answers(Evidence(study, make_records(study, PERPLEXITIES), Path()))
    (full,) = (it for it in found.adaptations if it.adaptation == "full")
    assert (full.beside_first is not None) == is_rival


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
    found = gather_answers(Evidence(study, make_records(study, PERPLEXITIES), Path()))
    assert answer_text(study, found).startswith("On this sample and order (one seed), ")
