"""The settings of an adaptation as it is run: its budget in sequences."""

from freelunch.study.adaptations import Adaptation, Budget, Training
from freelunch.study.config import Config
from freelunch.study.search import adaptation_of, candidates_of


def settled(name: str, config: Config) -> Adaptation:
    """Return the settings of an adaptation, or of one of its candidates, with `samples` in place of
    a budget, as `Study.adaptation` describes it.
    """
    entry: Adaptation = config.adaptations[adaptation_of(name)]
    if name not in config.adaptations:
        entry = candidates_of(adaptation_of(name), entry)[name]
    if not isinstance(entry, Training):
        return entry
    calibration = config.study.calibration
    if entry.budget is not None:
        tokens = budget_tokens(entry.budget, config)
        if isinstance(entry.epochs, list):
            # Each candidate has its own `samples`; they share the budget in tokens.
            budget = entry.budget.model_copy(update={"tokens": tokens, "times": None, "of": None})
            entry = entry.model_copy(update={"budget": budget})
        else:
            samples = _paid_for(tokens, entry, calibration.length)
            entry = entry.model_copy(update={"samples": samples, "budget": None})
    if entry.samples == calibration.samples:
        entry = entry.model_copy(update={"samples": None})
    return entry


def budget_tokens(budget: Budget, config: Config) -> int:
    """Return a budget in tokens, rounded to the nearest whole number.

    Args:
        budget: A checked budget: the adaptation that it is a multiple of lists no alternatives and
            is not a multiple itself.
        config: The study's config.
    """
    if budget.tokens is not None:
        return budget.tokens
    assert budget.of is not None and budget.times is not None
    other = config.adaptations[budget.of]
    assert isinstance(other, Training)
    calibration = config.study.calibration
    if other.budget is not None and other.budget.tokens is not None:
        samples = _paid_for(other.budget.tokens, other, calibration.length)
    else:
        samples = other.samples or calibration.samples
    # It sees whole sequences, which may be fewer tokens than its budget has.
    seen = samples * calibration.length * other.passes
    return round(budget.times * seen)


def _paid_for(tokens: int, entry: Training, length: int) -> int:
    """Return how many sequences a budget pays for: whole ones in whole epochs, so never more."""
    return tokens // (length * entry.passes)
