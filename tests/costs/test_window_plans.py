"""Windows, candidates and kept hidden states as a plan sees them."""

import re
from pathlib import Path
from typing import Any

import pytest

from configs import QWEN_72B, smoke
from freelunch.core.errors import UserError
from freelunch.costs.fits import decide_window
from freelunch.costs.jobs import jobs_of
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.plan_text import plan_text
from freelunch.costs.reconstruction import reconstruct
from freelunch.costs.retraining import retrain
from freelunch.costs.shapes import Shapes
from freelunch.study.adaptations import Reconstruction
from freelunch.study.cell import Cell
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import adaptation_of, candidates_of
from freelunch.study.study import Study
from freelunch.study.windows import kept_boundaries, split_windows, window_order

MACHINE = Machine.of(1e12, 1e9, 1e8)


def settings_of(**settings: Any) -> Reconstruction:
    found: Reconstruction = read_adaptation({"method": "reconstruction", **settings})
    return found


def adapted(**settings: Any) -> Study:
    """Return the smoke study with settings of its one adaptation, `recon_block`."""
    return smoke({f"adaptations.recon_block.{key}": value for key, value in settings.items()})


# --- Windows


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        ("matrix", [range(0, 1), range(1, 2), range(2, 3)]),
        ("attention_mlp", [range(0, 1), range(1, 2), range(2, 3)]),
        (1, [range(0, 1), range(1, 2), range(2, 3)]),
        (2, [range(0, 2), range(2, 3)]),
        (3, [range(0, 3)]),
        ("all", [range(0, 3)]),
    ],
)
def test_windows_of_three_blocks(window: int | str, expected: list[range]) -> None:
    assert split_windows(3, window) == expected


def test_names_of_windows_are_in_the_order_of_blocks() -> None:
    names = ["10-11", "2.mlp", "2.attention", "0-1"]
    assert sorted(names, key=window_order) == ["0-1", "2.attention", "2.mlp", "10-11"]


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        ("all", range(7)),
        ("none", []),
        ("every_1", range(7)),
        ("every_2", [0, 2, 4, 6]),
        ("every_4", [0, 4, 6]),
        ("every_100", [0, 6]),
    ],
)
def test_kept_boundaries(keep: str, expected: Any) -> None:
    assert kept_boundaries(keep, 6) == set(expected)


# --- Candidates


def test_candidates_are_all_pairs() -> None:
    found = candidates_of("recon", settings_of(learning_rate=[0.001, 1e-5], epochs=[1, 3]))
    assert list(found) == [
        "recon.lr0.001.epochs1",
        "recon.lr0.001.epochs3",
        "recon.lr1e-05.epochs1",
        "recon.lr1e-05.epochs3",
    ]
    for name, settings in found.items():
        expected = settings_of(learning_rate=settings.rate, epochs=settings.passes)
        assert settings.as_json() == expected.as_json()
        assert adaptation_of(name) == "recon"
        cell = Cell("tiny", "wanda", "u50", name, 0)
        assert Cell.parse(str(cell)) == cell
    # What decides among them is no setting of theirs: another way makes none of them again.
    searched = settings_of(learning_rate=[0.001, 1e-5], epochs=[1, 3], select_on="evaluation")
    assert candidates_of("recon", searched) == found
    assert candidates_of("recon", settings_of(learning_rate=0.001)) == {}
    assert list(candidates_of("recon", settings_of(learning_rate=[0.1]))) == ["recon.lr0.1.epochs1"]


def test_a_study_knows_its_candidates() -> None:
    study = adapted(learning_rate=[0.1, 0.2])
    cell = Cell.parse("tiny/wanda-u50/recon_block/seed0")
    candidates = study.candidates(cell)
    assert [one.adaptation for one in candidates] == study.candidate_names("recon_block")
    assert study.adaptation(candidates[1].adaptation).learning_rate == 0.2
    assert study.spec(cell)["selection"] == {"samples": 16}
    assert "selection" not in adapted(learning_rate=[0.1], select_on="evaluation").spec(cell)
    assert "selection" not in adapted(learning_rate=0.1).spec(cell)
    rules = [rule for rule, *_ in jobs_of(study)]
    assert rules.count("reconstruct_window") == 4 and rules.count("evaluate_cell") == 5 + 4


# --- What does not go together


@pytest.mark.parametrize(
    ("adaptation", "message"),
    [
        ({"window": 0}, "recon_block.window: found 0"),
        ({"window": "blocks"}, "recon_block.window: found"),
        ({"window": 2.5}, "recon_block.window: found 2.5"),
        ({"window": "auto"}, "recon_block.memory_gb: `window: auto` needs a memory budget"),
        ({"memory_gb": 4}, "recon_block.memory_gb: only `window: auto` has a memory budget"),
        ({"targets": "local"}, "recon_block.targets: with dense inputs"),
        ({"window": "matrix"}, "recon_block.train_norms: a window of one matrix holds no norm"),
        ({"learning_rate": []}, "recon_block.learning_rate"),
        ({"learning_rate": [0.1, 0.1]}, "recon_block.learning_rate"),
        ({"learning_rate": [0.1, 0.0]}, "recon_block.learning_rate.1"),
        ({"epochs": [1, 1.5]}, "recon_block.epochs.1"),
        ({"window_blocks": 2}, "recon_block.window_blocks: unknown key; expected"),
    ],
)
def test_what_is_refused(adaptation: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        adapted(**adaptation)
    assert message in str(error.value)


def test_a_window_larger_than_the_model_is_refused_in_the_plan() -> None:
    with pytest.raises(UserError, match="larger than the model") as error:
        Plan.of(adapted(window=5))
    text = str(error.value)
    assert "recon_block" in text and "5 blocks" in text and "at most 4" in text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"linears": ["q_poj"]}, "linears: 'q_poj' names no linear layer of this model"),
        ({"linears": ["fc1"]}, "linears: 'fc1' names no linear layer of this model"),
        ({"linears": ["k_proj"], "rank": 17}, "rank: found 17; expected at most 16"),
        ({"linears": ["mlp.down_proj", "q_proj"], "rank": 17}, None),
    ],
)
def test_linears_and_ranks_of_them_are_seen_in_the_plan(
    changes: dict[str, Any], message: str | None
) -> None:
    """Where the model's sizes are known: of two key heads of 8 a matrix has 16 rows."""
    study = smoke({"adaptations.recon_block": {"method": "masklora", **changes}})
    if message is None:
        Plan.of(study)
        return
    with pytest.raises(UserError) as error:
        Plan.of(study)
    assert f"adaptations.recon_block.{message}" in str(error.value)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"method": "biases"}, True),
        ({"method": "reconstruction", "trains": "biases"}, True),
        ({"method": "biases_norms"}, False),
        ({"method": "full", "train_norms": False}, False),
    ],
)
def test_a_model_without_biases_is_seen_in_the_plan(entry: dict[str, Any], said: bool) -> None:
    study = smoke({"adaptations.recon_block": entry})
    if not said:
        Plan.of(study)
        return
    with pytest.raises(UserError, match="recon_block: it trains biases alone"):
        Plan.of(study)


def test_a_search_needs_documents(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.safetensors"
    tokens.touch()
    ready = {
        "adaptations.recon_block.learning_rate": [0.1, 0.2],
        "texts.ready": {"source": "tokens", "path": str(tokens)},
        "study.calibration.text": "ready",
    }
    with pytest.raises(UserError, match=r"recon_block\.select_on"):
        smoke(ready)
    smoke({**ready, "adaptations.recon_block.select_on": "evaluation"})


# --- Memory


def test_auto_takes_the_largest_window_that_fits() -> None:
    shapes = Shapes.of(QWEN_72B, "bfloat16")
    needs = {
        window: reconstruct(shapes, 8, 256, settings_of(window=window)).memory_bytes
        for window in ("attention_mlp", 1, 2, 3, "all")
    }
    assert sorted(needs.values()) == list(needs.values()), "a larger window needs more"
    for window, needed in needs.items():
        budget = settings_of(window="auto", memory_gb=needed / 1e9)
        found, why = decide_window(shapes, 8, 256, budget)
        assert found == window and f"window {window} needs" in why
        if window != "all":
            assert re.search(r"; window \d+ would need", why)
    budget = settings_of(window="auto", memory_gb=0.999 * needs["attention_mlp"] / 1e9)
    with pytest.raises(UserError, match="no window fits") as error:
        decide_window(shapes, 8, 256, budget)
    assert "attention_mlp" in str(error.value), "norms are trained, so matrices are no way out"
    matrices = budget.model_copy(update={"train_norms": False})
    assert decide_window(shapes, 8, 256, matrices)[0] == "matrix"
    assert decide_window(shapes, 8, 256, settings_of(window=3)) == (3, None)


def test_a_distillation_makes_again_what_the_dense_pass_left_nowhere() -> None:
    """Of text beyond the calibration sample, or where nothing is kept."""
    shapes, length = Shapes.of(QWEN_72B, "bfloat16"), 128
    settings = read_adaptation({"method": "norms", "loss": "distillation"})
    kept, made = (retrain(shapes, 4, length, settings, keep).flops for keep in ("every_4", "none"))
    assert made - kept == shapes.forward_flops(4 * length, length)
    plain = read_adaptation({"method": "norms"})
    assert retrain(shapes, 4, length, plain, "none") == retrain(shapes, 4, length, plain, "all")


@pytest.mark.parametrize("length", [256, 304, 336, 352, 384])
def test_the_budget_that_is_advised_is_enough(length: int) -> None:
    shapes = Shapes.of(QWEN_72B, "bfloat16")
    with pytest.raises(UserError) as error:
        decide_window(shapes, 8, length, settings_of(window="auto", memory_gb=1))
    (advised,) = re.findall(r"at least ([\d.]+) GB", str(error.value))
    assert decide_window(shapes, 8, length, settings_of(window="auto", memory_gb=float(advised)))


@pytest.mark.parametrize(
    "changes", [{"model_type": "stablelm"}, {"model_type": "opt", "do_layer_norm_before": False}]
)
def test_auto_takes_no_half_that_the_family_cannot_have(changes: dict[str, Any]) -> None:
    shapes = Shapes.of({**QWEN_72B, **changes}, "bfloat16")
    half, block = (
        reconstruct(shapes, 8, 256, settings_of(window=window)).memory_bytes
        for window in ("attention_mlp", 1)
    )
    budget = settings_of(window="auto", memory_gb=(half + block) / 2e9, train_norms=False)
    assert decide_window(shapes, 8, 256, budget)[0] == "matrix"


def test_auto_with_a_search_over_epochs() -> None:
    """The budget is of memory, which epochs do not change."""
    one, several = (
        plan_text(Plan.of(adapted(window="auto", memory_gb=4, epochs=epochs)), MACHINE)
        for epochs in (1, [1, 2])
    )
    (row,) = re.findall(r".* window all needs .* GB\n", one)
    assert row in several


def test_a_batch_is_never_larger_than_the_sample() -> None:
    shapes = Shapes.of(QWEN_72B, "bfloat16")
    needs = [reconstruct(shapes, 8, 256, settings_of(batch=batch)) for batch in (8, 64)]
    assert needs[0].memory_bytes == needs[1].memory_bytes


def test_one_matrix_at_a_time_is_solved() -> None:
    shapes = Shapes.of(QWEN_72B, "bfloat16")
    settings = read_adaptation({"method": "least_squares"})
    wide = 29568
    solving = 8 * (2 * wide**2 + 4 * wide * 8192)
    found = reconstruct(shapes, 8, 256, settings).memory_bytes
    assert solving < found < 1.5 * solving


def test_where_layers_are_fused_the_largest_is_the_fused_one() -> None:
    sizes = {**QWEN_72B, "model_type": "phi3"}
    fused, apart = Shapes.of(sizes, "bfloat16"), Shapes.of(QWEN_72B, "bfloat16")
    assert fused.largest_matrix == 2 * apart.largest_matrix
    assert fused.weights == apart.weights and fused.block_weights == apart.block_weights


def test_solving_depends_on_how_much_is_kept() -> None:
    plan = Plan.of(smoke({"adaptations.recon_block": {"method": "least_squares"}}))
    half, most = (
        plan.step("reconstruct_window", "tiny", "wanda", "recon_block", pattern)
        for pattern in ("u50", "u80")
    )
    assert half is not None and most is not None and most.flops < half.flops


def test_a_budget_nothing_fits_into_is_refused_in_the_plan() -> None:
    with pytest.raises(UserError, match="no window fits into the memory budget") as error:
        Plan.of(adapted(window="auto", memory_gb=0.1))
    assert "raise memory_gb" in str(error.value)


def test_the_plan_says_which_window_and_why() -> None:
    text = plan_text(Plan.of(adapted(window="auto", memory_gb=4)), MACHINE)
    (line,) = [line for line in text.splitlines() if line.split()[1:2] == ["recon_block"]]
    assert "all" in line.split() and "of 4 GB" in line
    assert "a matrix product at 1 TFLOP/s as given" in text


def test_disk_follows_what_is_kept() -> None:
    def disk(keep: str) -> int:
        step = Plan.of(smoke({"study.keep_hidden_states": keep})).step("capture_dense", "tiny")
        assert step is not None
        return step.disk_bytes

    one = 8 * 32 * 4 * Plan.of(smoke()).shapes["tiny"].hidden
    assert disk("all") - disk("none") == 5 * one
    assert disk("every_2") - disk("none") == 3 * one


def test_only_ways_that_differ_are_compared() -> None:
    assert not smoke().comparisons.of_windows
    both = {"study.grids.0.adaptations": ["none", "recon_block", "other"]}
    for settings, differ in (({"window": 2}, True), ({"learning_rate": 0.5}, False)):
        other = {"method": "reconstruction", **settings}
        assert smoke({**both, "adaptations.other": other}).comparisons.of_windows is differ
