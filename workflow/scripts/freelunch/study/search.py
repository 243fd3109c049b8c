"""Searches over the learning rates and numbers of epochs of an adaptation.

An entry of `adaptations` may list several of either. Each pair is then run separately, as a
candidate named after the adaptation and the pair. The best candidate becomes the adaptation's
result.

With `learning_rate: auto`, the candidates are probes, short trainings on a part of the sample, and
the rate of the best one is that of the adaptation. Rates are tried one after another, each three
times as high or low as one before, until the best one has worse ones on both sides.
"""

import math
from collections.abc import Mapping
from itertools import product
from typing import NamedTuple, TypeGuard

from freelunch.study.adaptations import Adaptation, Reconstruction, Training
from freelunch.study.methods import FULL, SCALELORA, SPP
from freelunch.study.settings import Entry
from freelunch.study.steps import CHECK_SEQUENCES, HELD_OUT, PERPLEXITY
from freelunch.study.windows import ALL

SEARCHED = ("learning_rate", "epochs")
# The text on which probes are compared, beside those of `select_on`.
PROBES = "probes"
# Rates beyond these are not tried; the lowest is that of the paper's grid.
LOWEST_RATE, HIGHEST_RATE = 1e-7, 1.0
# Probes are as short as it takes to try this many rates in the time of one run; a plan counts them.
PLANNED_RATES = 4
# Fewer rates do not tell that one is better than those on both of its sides.
_FEWEST_RATES = 3
# How many windows are probed: the first, a middle one and the last.
_WINDOWS = 3


def is_searched(settings: Adaptation | None) -> TypeGuard[Training]:
    """Return whether an adaptation lists alternatives."""
    return isinstance(settings, Training) and settings.is_searched


def finds_rate(settings: Adaptation | None) -> TypeGuard[Training]:
    """Return whether probes find an adaptation's learning rate."""
    return isinstance(settings, Training) and settings.finds_rate


def candidates_of(name: str, settings: Adaptation | None) -> dict[str, Training]:
    """Return each candidate's settings by its name, e.g. `recon_block.lr0.001.epochs1`; none if the
    adaptation lists no alternatives.
    """
    if not is_searched(settings):
        return {}
    pairs = product(settings.rates, settings.epoch_counts)
    return dict(candidate_of(name, settings, rate, count) for rate, count in pairs)


def candidate_of(name: str, settings: Training, rate: float, epochs: int) -> tuple[str, Training]:
    """Return the name and the settings of a candidate."""
    # How candidates are compared is not a setting of a candidate.
    chosen = {"learning_rate": rate, "epochs": epochs, "select_on": "calibration"}
    return f"{name}.lr{rate!r}.epochs{epochs}", settings.model_copy(update=chosen)


def chosen_of(choice: Entry | None, settings: Entry) -> Entry:
    """Return the candidate that a search chose, or the entry's own settings without a search."""
    candidate: Entry = choice["candidates"][choice["chosen"]] if choice else settings
    return candidate


def adaptation_of(name: str) -> str:
    """Return the adaptation that a candidate, or an adaptation itself, belongs to."""
    return name.partition(".")[0]


def compared_by(settings: Adaptation) -> str:
    """Return the measurement by which the candidates of an adaptation are compared."""
    on_evaluation = isinstance(settings, Training) and settings.select_on == "evaluation"
    return PERPLEXITY if on_evaluation else HELD_OUT


# --- Probes


class Probe(NamedTuple):
    """A short training: its losses are measured on the first `held_out` sequences of the sample,
    and it trains on the next `sequences`, in so many epochs, in these windows, by their indices. At
    most so many rates are tried.
    """

    held_out: int
    sequences: int
    epochs: int
    windows: list[int]
    rates: int


def probe_of(settings: Training, samples: int, windows: int) -> Probe | None:
    """Return the probes of an adaptation that trains so many windows (1 for a retraining) on so
    many sequences; None if the sample is too small for three of them in the time of the adaptation.
    """
    passes = max(settings.epoch_counts)
    held_out = min(CHECK_SEQUENCES, samples // 8)
    # The losses before and after, in passes of a sequence through a window in training, which takes
    # three times as long.
    checks, whole_checks = (2 * count / 3 for count in (held_out, min(CHECK_SEQUENCES, samples)))
    whole = windows * (samples * passes + whole_checks)
    probed = sorted({at * (windows - 1) // (_WINDOWS - 1) for at in range(_WINDOWS)})
    share = whole / PLANNED_RATES / len(probed) - checks
    # Whole steps, and rather one epoch of more text than several of less.
    sequences = int(min(samples - held_out, max(share, 0))) // settings.batch * settings.batch
    sequences = max(sequences, settings.batch)
    epochs = min(passes, max(1, int(share / sequences)))
    rates = int(whole / (len(probed) * (sequences * epochs + checks)))
    if not held_out or sequences > samples - held_out or rates < _FEWEST_RATES:
        return None
    return Probe(held_out, sequences, epochs, probed, rates)


def probe_settings(settings: Training, probe: Probe) -> Training:
    """Return the settings of probes; their windows do not wait for adapted ones before them."""
    changed: dict[str, object] = {"epochs": probe.epochs}
    if isinstance(settings, Reconstruction) and settings.is_sequential:
        targets = "dense" if settings.local_targets else settings.targets
        changed |= {"inputs": "dense", "targets": targets, "lost_residual": False}
    return settings.model_copy(update=changed)


def first_rate(settings: Training, size: float) -> float:
    """Return the rate that is tried first: what AdamW moves a weight by in a step is about the
    rate, so it depends on the size of the weights, the root of their mean square. The shares are
    those that were best for SmolLM2-135M.
    """
    trained = settings.trained
    if settings.optimiser == "sgd":
        return 0.01
    if trained.weights is None or trained.weights in (SCALELORA, SPP):
        # Norms, or factors of the weights.
        return 0.003
    whole = settings.is_retraining or getattr(settings, "window", None) == ALL
    share = 0.01 if trained.weights != FULL else 0.002 if whole else 0.005
    size = min(max(share * size, LOWEST_RATE), HIGHEST_RATE)
    return _rate(round(2 * math.log10(size)))


def next_rate(first: float, losses: Mapping[float, float], most: int) -> float | None:
    """Return the rate to try next; None if the best one has worse ones on both sides, or is beside
    a rate that is not tried, or so many were tried.

    Args:
        losses: The loss of each rate that was tried, as a share of the pruned model's; infinite if
            it diverged. Ties: the lower rate is better.
    """
    if not losses:
        return first
    best = best_rate(losses)
    # A rate that helps may be too low, and one that does not is too high.
    sides = (1, -1) if losses[best] < 1 else (-1, 1)
    beside = (_beside(best, side) for side in sides)
    open_ = [rate for rate in beside if rate not in losses]
    open_ = [rate for rate in open_ if LOWEST_RATE <= rate <= HIGHEST_RATE]
    return open_[0] if open_ and len(losses) < most else None


def best_rate(losses: Mapping[float, float]) -> float:
    """Return the rate with the lowest loss; ties: the lower rate."""
    return min(losses, key=lambda rate: (losses[rate], rate))


def chosen_rate(first: float, losses: Mapping[float, float]) -> float:
    """Return the rate to take: the best one, but the first if no probe lowers the loss. Such probes
    are too short to tell rates apart, and the one that changes the model least would seem best.
    """
    best = best_rate(losses)
    return first if losses[best] >= 1 and math.isfinite(losses[first]) else best


def _beside(rate: float, side: int) -> float:
    """Return the rate above (1) or below (-1) one of those that are tried."""
    return _rate(round(2 * math.log10(rate)) + side)


def _rate(at: int) -> float:
    """Return one of the rates that are tried: 0.1, 0.3, 1, 3, 10 ..., of which 1 is at 0."""
    return float(f"{(1, 3)[at % 2]}e{at // 2}")
