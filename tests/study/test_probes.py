"""The rule by which learning rates are found: which probes, and which rates they try."""

import math
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from freelunch.study.retraining import read_adaptation
from freelunch.study.search import (
    HIGHEST_RATE,
    LOWEST_RATE,
    best_rate,
    chosen_rate,
    first_rate,
    next_rate,
    probe_of,
)

# The loss of a rate, given by its decades above 0.001, as a share of the pruned model's.
Loss = Callable[[float], float]


def walk(loss: Loss, most: int = 99) -> dict[float, float]:
    losses: dict[float, float] = {}
    while (rate := next_rate(0.001, losses, most)) is not None:
        assert rate not in losses
        losses[rate] = loss(math.log10(rate / 0.001))
    return losses


@pytest.mark.parametrize(
    ("loss", "best"),
    [
        (lambda at: 0.5 + at**2, 1e-3),
        (lambda at: 0.5 + (at + 1.1) ** 2 / 9, 1e-4),
        (lambda at: 0.5 + abs(at - 0.5), 3e-3),
        (lambda at: math.inf if at > -2.2 else 0.5 + (at + 2.6) ** 2, 3e-6),
        (lambda at: 1.0 if at > -1.2 else 0.9 + (at + 1.5) ** 2, 3e-5),
    ],
    ids=["at the start", "below", "above", "diverging above", "no better than pruned above"],
)
def test_a_walk_ends_between_worse_rates(loss: Loss, best: float) -> None:
    losses = walk(loss)
    found = best_rate(losses)
    beside = [rate for rate in losses if 0.2 < rate / found < 5 and rate != found]
    assert len(beside) == 2 and min(losses[rate] for rate in beside) >= losses[found]
    assert found == best


def test_a_walk_takes_as_few_rates_as_it_can() -> None:
    assert [*walk(lambda at: 0.5 + at**2)] == [1e-3, 3e-3, 3e-4]
    assert [*walk(lambda at: 1.5 + (at + 0.5) ** 2)] == [1e-3, 3e-4, 1e-4]
    assert [*walk(lambda at: 0.5 + (at - 0.5) ** 2)] == [1e-3, 3e-3, 1e-2]


@pytest.mark.parametrize(("slope", "end"), [(1, LOWEST_RATE), (-1, HIGHEST_RATE)])
def test_a_walk_ends_at_a_bound(slope: float, end: float) -> None:
    losses = walk(lambda at: 0.5 + slope * at / 10)
    assert best_rate(losses) == end


def test_it_ends_where_everything_diverges() -> None:
    losses = walk(lambda at: math.inf)
    assert min(losses) == LOWEST_RATE and math.isinf(losses[best_rate(losses)])


@given(st.randoms(use_true_random=False), st.integers(1, 6))
def test_noise_does_not_make_it_long(random: object, most: int) -> None:
    losses = walk(lambda at: 0.5 + random.random(), most)  # type: ignore[attr-defined]
    assert 1 <= len(losses) <= most and losses[best_rate(losses)] == min(losses.values())


@given(
    st.integers(1, 600),
    st.integers(1, 80),
    st.integers(1, 10),
    st.sampled_from([1, 2, 8, 32]),
)
@example(58, 1, 1, 8)
def test_probes_take_no_longer_than_one_run(
    samples: int, windows: int, epochs: int, batch: int
) -> None:
    """In passes of a sequence through a window; one in training takes three times as long."""
    entry = {"method": "full", "learning_rate": "auto", "epochs": epochs, "batch": batch}
    probe = probe_of(read_adaptation(entry), samples, windows)
    if probe is None:
        return
    whole = windows * (3 * samples * epochs + 2 * min(8, samples))
    each = len(probe.windows) * (3 * probe.sequences * probe.epochs + 2 * probe.held_out)
    assert probe.rates >= 3 and probe.rates * each <= whole
    assert probe.held_out >= 1 and probe.held_out + probe.sequences <= samples
    assert 1 <= probe.epochs <= epochs
    assert probe.windows[0] == 0 and probe.windows[-1] == windows - 1


@pytest.mark.parametrize("windows", [1, 6, 18, 30])
def test_usual_samples_suffice(windows: int) -> None:
    for samples in (16, 32, 512):
        probe = probe_of(read_adaptation({"method": "masklora"}), samples, windows)
        assert probe is not None and probe.rates >= 4


def test_the_first_rate_goes_with_the_size_of_the_weights() -> None:
    """SmolLM2-135M and Gemma 3 270M, whose best rates differ by a factor of ten."""
    for method, smollm2, gemma in (("full", 3e-4, 1e-4), ("masklora", 3e-3, 3e-4)):
        settings = read_adaptation({"method": method})
        assert (first_rate(settings, 0.193), first_rate(settings, 0.033)) == (smollm2, gemma)
    settings = read_adaptation({"method": "reconstruction"})
    assert (first_rate(settings, 0.193), first_rate(settings, 0.033)) == (1e-3, 1e-4)


def test_probes_that_all_raise_the_loss_choose_the_first_rate() -> None:
    assert chosen_rate(0.001, {0.001: 1.1, 0.0003: 1.01, 0.0001: 1.0}) == 0.001
    assert chosen_rate(0.001, {0.001: math.inf, 0.0003: 1.01, 0.0001: 1.0}) == 0.0001
    assert chosen_rate(0.001, {0.001: 1.1, 0.0003: 0.99, 0.0001: 1.0}) == 0.0003
