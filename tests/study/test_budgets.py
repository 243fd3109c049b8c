"""How much an adaptation sees: samples, budgets, searches; and series of adaptations."""

import math
from typing import Any

import pytest

from configs import changed, checked, problems, with_adaptations
from freelunch.study.adaptations import Training
from freelunch.study.study import Study


@pytest.mark.parametrize(
    ("entry", "samples", "seen"),
    [
        ({}, None, 4),
        ({"samples": 4}, None, 4),
        ({"samples": 7}, 7, 7),
        ({"samples": 7, "epochs": 3}, 7, 21),
        ({"samples": 7, "epochs": [1, 5]}, 7, 7),
        ({"budget": {"tokens": 80}}, 10, 10),
        ({"budget": {"tokens": 80}, "epochs": 2}, 5, 10),
        ({"budget": {"times": 3, "of": "recon_block"}}, 12, 12),
        ({"budget": {"times": 3, "of": "recon_block"}, "epochs": 3}, None, 12),
        ({"budget": {"times": 0.5, "of": "recon_block"}}, 2, 2),
        ({"budget": {"times": 2, "of": "other"}}, 10, 10),
        ({"budget": {"times": 2, "of": "epochs"}}, 24, 24),
        # Whole sequences in whole epochs, and never more than the budget.
        ({"budget": {"tokens": 87}}, 10, 10),
        ({"budget": {"tokens": 80}, "epochs": 3}, 3, 9),
        ({"budget": {"times": 0.7, "of": "other"}}, 3, 3),
        # 95.6 tokens are 96, not 95: twelve sequences.
        ({"budget": {"times": 2.39, "of": "other"}}, 12, 12),
        # A multiple is of what the other sees, not of what it may see.
        ({"budget": {"times": 10, "of": "odd"}}, 30, 30),
        ({"budget": {"times": 10, "of": "odd_epochs"}}, 40, 40),
    ],
)
@pytest.mark.parametrize("method", ["full", "reconstruction"])
def test_a_budget_decides_how_many_sequences(
    method: str, entry: dict[str, Any], samples: int | None, seen: int
) -> None:
    """Of 8 tokens; 4 sequences, the calibration sample, need not be said. Repeats count as seen. A
    sample that is extended leaves out the held-out text.
    """
    others = {
        "other": {"method": "full", "budget": {"tokens": 40}},
        "epochs": {"method": "full", "epochs": 3},
        "odd": {"method": "full", "budget": {"tokens": 31}},
        "odd_epochs": {"method": "full", "epochs": 2, "budget": {"tokens": 47}},
    }
    found = Study.check(with_adaptations(x={"method": method, **entry}, **others), "config.yaml")
    settings = found.adaptation("x")
    assert isinstance(settings, Training)
    assert (settings.samples, settings.budget) == (samples, None)
    assert found.samples("x") == (samples or 4) and found.comparisons.sequences["x"] == seen
    (cell,) = [cell for cell in found.cells if cell.adaptation == "x" and "wanda" in str(cell)]
    extended = (samples or 0) > 4
    assert ("selection" in found.spec(cell)) == (extended or settings.is_searched)


def test_candidates_share_a_budget() -> None:
    """Twice the epochs see half the sequences."""
    entry = {"method": "full", "epochs": [1, 2], "budget": {"times": 4, "of": "recon_block"}}
    found = Study.check(with_adaptations(x=entry), "config.yaml")
    assert [found.samples(name) for name in found.candidate_names("x")] == [16, 8]
    cell = next(cell for cell in found.cells if cell.adaptation == "x")
    assert found.spec(cell)["adaptation"]["budget"] == {"tokens": 128}
    assert "selection" in found.spec(cell)


@pytest.mark.parametrize(
    ("entry", "key", "expected"),
    [
        ({"method": "full", "budget": {"tokens": 15}}, "budget", "at least 16, one step"),
        ({"method": "full", "budget": {"times": 0.1, "of": "recon_block"}}, "budget", "at least"),
        (
            {"method": "full", "budget": {"tokens": 40}, "epochs": [1, 3]},
            "budget",
            "at least 48, one step",
        ),
        (
            {"method": "full", "budget": {"times": math.inf, "of": "recon_block"}},
            "budget.times",
            "found Infinity",
        ),
        ({"method": "full", "budget": {"tokens": 10**15}}, "budget.tokens", "1000000000000"),
        (
            {"method": "full", "budget": {"times": 2, "of": "recon_blok"}},
            "budget.of",
            "recon_block",
        ),
        ({"method": "full", "budget": {"times": 2, "of": "searched"}}, "budget.of", "settled"),
        ({"method": "full", "budget": {"times": 2, "of": "multiple"}}, "budget.of", "settled"),
        ({"method": "full", "budget": {"times": 2, "of": "exact"}}, "budget.of", "settled"),
        ({"method": "full", "budget": {"times": 2}}, "budget", "`tokens`, or `times` and `of`"),
        ({"method": "full", "budget": {"tokens": 64}, "samples": 3}, "x", "one of them"),
        ({"method": "full", "batch": 5}, "batch", "at most 4, the size of the sample"),
    ],
)
def test_amounts_that_are_refused(entry: dict[str, Any], key: str, expected: str) -> None:
    others: dict[str, dict[str, Any]] = {
        "searched": {"method": "full", "learning_rate": [0.1, 0.2]},
        "multiple": {"method": "full", "budget": {"times": 2, "of": "recon_block"}},
        "exact": {"method": "least_squares"},
    }
    (line,) = problems(with_adaptations(x=entry, **others))
    assert line.startswith(f"adaptations.x{'' if key == 'x' else '.' + key}: ")
    assert expected in line


def test_series_are_what_differs_in_more_than_the_budget() -> None:
    entries: dict[str, dict[str, Any]] = {
        "full_1": {"method": "full"},
        "full_3": {"method": "full", "samples": 12},
        "distilled": {"method": "full", "loss": "distillation"},
        "low": {"method": "reconstruction", "trains": "masklora", "rank": 2},
        # The larger budget that takes less memory for the same steps.
        "full_9": {
            "method": "full",
            "samples": 36,
            "micro_batch": 1,
            "gradient_checkpointing": True,
        },
        "branches": {"method": "reconstruction", "trains": "lora"},
    }
    found = Study.check(with_adaptations(**entries), "config.yaml")
    assert found.comparisons.of_budgets
    assert found.comparisons.series == {
        "recon_block": "reconstruction, window 1",
        "recon_two": "reconstruction, window 2",
        "full_1": "full",
        "full_3": "full",
        "distilled": "full, distilled",
        "low": "reconstruction, window 1, masklora",
        "full_9": "full",
        "branches": "reconstruction, window 1, lora, dense",
    }
    assert "branches" not in found.comparisons.references
    assert not checked().comparisons.of_budgets


def test_the_first_finding_compares_reconstruction_with_both_kinds_of_retraining() -> None:
    """On as much text, of one seed of the pruned model that most adaptations start from."""
    changed = with_adaptations(
        full_long={"method": "full", "samples": 36},
        full={"method": "full"},
        norms={"method": "norms"},
        masklora={"method": "masklora"},
    )
    (grid,) = changed["study"]["grids"]
    few = {**grid, "criteria": ["magnitude"], "adaptations": ["none", "recon_block"]}
    most = {**grid, "criteria": ["wanda"], "adaptations": ["none", *changed["adaptations"]]}
    changed["study"]["grids"] = [few, {**most, "seeds": [3, 4]}]
    first, second = Study.check(changed, "config.yaml").comparisons.first
    assert [cell.adaptation for cell in first] == ["none", "recon_block", "norms"]
    assert [cell.adaptation for cell in second] == ["full"]
    assert {(cell.criterion, cell.seed) for cell in (*first, *second)} == {("wanda", 3)}
    changed["study"]["grids"] = [{**grid, "adaptations": ["none"]}]
    assert Study.check(changed, "config.yaml").comparisons.first == []


def test_a_reconstruction_chosen_on_the_evaluation_text_is_the_last_reference() -> None:
    tuned = {
        "method": "reconstruction",
        "learning_rate": [0.001, 0.003],
        "select_on": "evaluation",
    }
    local = {"method": "reconstruction", "inputs": "sparse", "targets": "local"}
    found = Study.check(with_adaptations(tuned=tuned, local=local), "config.yaml")
    assert found.comparisons.references == ["recon_block", "recon_two", "local", "tuned"]


def test_the_reference_sees_as_much_text_as_most_others() -> None:
    """If budgets are numbers of tokens, none is a multiple of another."""
    block = {"method": "reconstruction"}
    entries: dict[str, Any] = {
        "small": {**block, "budget": {"tokens": 16}},
        "middle": {**block, "budget": {"tokens": 64}},
        "large": {**block, "budget": {"tokens": 128}},
        "full_middle": {"method": "full", "budget": {"tokens": 64}},
        "norms_middle": {"method": "norms", "samples": 8},
        "full_large": {"method": "full", "budget": {"tokens": 128}},
    }
    found = Study.check(with_adaptations(**entries), "config.yaml")
    assert found.comparisons.references[0] == "middle"
    assert found.comparisons.budgets_of("middle", entries) == ["small", "middle", "large"]
    assert found.comparisons.budgets_of("middle", ["none", "middle", "full_middle"]) == ["middle"]
    tuned = {**block, "budget": {"tokens": 32}, "learning_rate": [0.1, 0.2]}
    tuned["select_on"] = "evaluation"
    again = {**block, "budget": {"tokens": 64}, "learning_rate": 0.5}
    more = Study.check(with_adaptations(**entries, tuned=tuned, again=again), "config.yaml")
    assert more.comparisons.budgets_of("middle", [*entries, "tuned", "again"]) == [
        "small",
        "middle",
        "large",
    ]


@pytest.mark.parametrize("most", [6, 10**6])
def test_a_models_max_length_shortens_its_sequences_and_never_lengthens_them(most: int) -> None:
    perplexity = {"text": "wiki", "length": 16, "stride": 12, "cut": "joined"}
    changes = {"models.one.max_length": most, "study.evaluation.perplexity": perplexity}
    study = checked(changed(changes))
    assert study.calibration_of("one").length == min(study.calibration.length, most)
    assert study.perplexity_of("one").length == min(16, most)
    assert study.perplexity_of("one").stride == min(12, most)
