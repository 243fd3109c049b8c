"""What a study found, whatever it asks: numbers, and an answer in words."""

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest

from freelunch.audit.answers import Level, answer_text, gather_answers
from freelunch.audit.evidence import Evidence
from freelunch.study.cell import NONE
from records_for_tests import PERPLEXITIES, make_records, make_study

WANDA = "tiny/wanda-u50"


def study_of(*methods, seeds=(0,), **entries):
    """Return a study of Wanda with these retrainings beside the reconstruction."""
    more = {name: {"method": name} for name in methods} | entries
    names = ["none", "recon_block", *more]
    return make_study(more, criteria=["wanda"], adaptations=names, seeds=list(seeds))


def found_of(study, perplexities=None):
    """Return what was found, given perplexities by adaptation, or by adaptation and seed."""
    known = {f"{WANDA}/{name}": value for name, value in (perplexities or {}).items()}
    of_cells = {
        str(cell): known[name]
        for cell in study.cells
        for name in (str(cell), str(cell).removesuffix(f"/seed{cell.seed}"))
        if name in known
    }
    records = make_records(study, PERPLEXITIES | of_cells)
    return gather_answers(Evidence(study, records, Path()))


def answer_of(study, perplexities=None):
    return answer_text(study, found_of(study, perplexities))


def test_adaptations_are_ranked_beside_the_pruned_model_of_the_same_seeds():
    given = {"none/seed0": 40.0, "none/seed1": 50.0, "full/seed0": 30.0, "full/seed1": 35.0}
    (found,) = found_of(study_of("full", seeds=(0, 1)), {**given, "recon_block": 38.0})
    assert [each.adaptation for each in found.adaptations] == ["full", "recon_block"]
    full = found.adaptations[0]
    assert found.unadapted and full.gain and full.recovered
    assert found.unadapted.value == pytest.approx(45.0)
    assert full.perplexity.value == pytest.approx(32.5) and full.seeds == 2
    gained = (math.log(40 / 30) + math.log(50 / 35)) / 2
    added = (math.log(40 / 20.5) + math.log(50 / 20.5)) / 2
    assert full.gain.value == pytest.approx(1 - math.exp(-gained))
    assert full.recovered.value == pytest.approx(gained / added)
    assert full.gain.low < full.gain.value < full.gain.high
    assert (full.tokens, full.flops) == (8192, 5 * 10**12)


def test_the_answer_is_about_the_reference_and_its_first_rivals_on_as_many_tokens():
    """In the order of the config, in which the better one comes second."""
    larger = {"method": "full", "budget": {"times": 20, "of": "recon_block"}}
    answer = answer_of(
        study_of("full", "masklora", full_20=larger),
        {"full": 37.0, "masklora": 36.0, "full_20": 30.0},
    )
    assert answer.startswith(
        "Single-seed: Reconstruction (one block) lowers the perplexity of "
        "tiny, pruned by Wanda (50 % unstructured), from 46.0 to "
    )
    assert " of the loss that pruning adds; on as many tokens, retraining reaches " in answer
    lower = r"[\d.]+ % below that, 95 %: [\d.]+ to [\d.]+ %\)"
    assert re.search(rf"37.0 \(all weights; {lower} and 36.0 \(MaskLoRA; {lower}\.$", answer)
    more = {"full": 290.0, "masklora": 40.0, "lora": 41.0, "biases": 42.0}
    answer = answer_of(study_of(*more), more)
    assert "290 (all weights; higher) and 40.0 (MaskLoRA; " in answer
    assert answer.endswith(", and 2 more are ranked below.")


@pytest.mark.parametrize(
    ("seeds", "start"),
    [
        ((0,), "Single-seed: Reconstruction"),
        ((0, 1), "With 2 seeds: Reconstruction"),
        ((0, 1, 2), "Reconstruction"),
    ],
)
def test_an_answer_from_few_seeds_says_so(seeds, start):
    """The smallest comparison counts."""
    assert answer_of(study_of(seeds=seeds)).startswith(f"{start} (one block) ")


def test_the_answer_compares_the_seeds_that_both_have_and_counts_them():
    """As in an unfinished study, whose cells finish in no fixed order."""
    study = study_of(seeds=(0, 1, 2))
    given = {f"{WANDA}/none/seed{seed}": 40.0 + seed for seed in range(3)}
    given |= {f"{WANDA}/recon_block/seed{seed}": 30.0 + seed for seed in range(3)}
    records = make_records(study, PERPLEXITIES | given)
    for cell in [cell for cell in records if cell.adaptation == NONE and cell.seed > 0]:
        del records[cell]
    unfinished = replace(study, finished=frozenset(records))
    answer = answer_text(unfinished, gather_answers(Evidence(unfinished, records, Path())))
    assert answer.startswith("Single-seed: Reconstruction")
    assert ", from 40.0 to 30.0 (dense" in answer


@pytest.mark.parametrize(
    ("perplexity", "verb"),
    [
        (39.0, "lowers"),
        (90.0, "raises"),
        (46.01, "does not significantly change"),
        (None, "changes"),
    ],
)
def test_the_answer_goes_no_further_than_the_interval(perplexity, verb):
    answer = answer_of(study_of(), {"recon_block": perplexity})
    words = "the perplexity of tiny, pruned by Wanda (50 % unstructured)"
    assert f"Reconstruction (one block) {verb} {words}" in answer
    assert ("recovers" in answer) == (perplexity == 39.0)
    assert ("to not finite" in answer) == (perplexity is None)


def test_a_loss_that_is_too_large_for_a_perplexity():
    study = study_of()
    records = make_records(study, PERPLEXITIES)
    (cell,) = (cell for cell in records if cell.adaptation == "recon_block")
    metrics = records[cell]["metrics"]["perplexity"]
    metrics["window_losses"] = [900 + loss for loss in metrics["window_losses"]]
    metrics["perplexity"] = None
    answer = answer_text(study, gather_answers(Evidence(study, records, Path())))
    assert "raises the perplexity of tiny" in answer and "to not finite" in answer


def test_an_answer_where_there_is_little():
    """What is not finite is last, and what has nothing beside it has no gain."""
    full = {"full": {"method": "full"}}
    alone = make_study(full, criteria=["wanda"], adaptations=["recon_block", "full"])
    (found,) = found_of(alone, {"recon_block": None})
    assert [each.adaptation for each in found.adaptations] == ["full", "recon_block"]
    assert found.adaptations[1].perplexity == Level(None, "not finite")
    assert (found.unadapted, {each.gain for each in found.adaptations}) == (None, {None})
    assert answer_of(alone).startswith(
        "Single-seed: Reconstruction (one block) gives tiny, pruned by "
        "Wanda (50 % unstructured), a perplexity"
    )
    pruned = make_study(criteria=["wanda"], adaptations=["none"])
    expected = "The perplexity of tiny, pruned by Wanda (50 % unstructured), is 46.0 (dense model: "
    assert answer_of(pruned).startswith(f"{expected}20.50)")
    assert answer_text(pruned, []) == "This study measures dense models only."


@pytest.mark.parametrize(
    ("samples", "is_rival"), [(31, True), (33, True), (30, False), (35, False), (64, False)]
)
def test_rivals_saw_as_many_tokens(samples, is_rival):
    """But for a twentieth of the 32 sequences."""
    (found,) = found_of(study_of(full={"method": "full", "samples": samples}))
    (full,) = (it for it in found.adaptations if it.adaptation == "full")
    assert (full.beside_first is not None) == is_rival
