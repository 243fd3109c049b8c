"""The settings of adaptations as they are run: with budgets in sequences."""

from freelunch.study.adaptations import Adaptation, Budget, Training
from freelunch.study.config import Config
from freelunch.study.search import candidates_of


def resolve_budgets(config: Config) -> dict[str, Adaptation]:
    """Return the settings of each adaptation and of each of its candidates, by name.

    A budget is replaced by the `samples` that it pays for; for an adaptation that lists epochs,
    this happens in its candidates. `samples` is left out if it equals the calibration sample's.
    """
    resolved: dict[str, Adaptation] = {}
    for name, entry in config.adaptations.items():
        for run, settings in {name: entry, **candidates_of(name, entry)}.items():
            resolved[run] = _resolved(settings, config)
    return resolved


def _resolved(entry: Adaptation, config: Config) -> Adaptation:
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
    other, calibration = config.adaptations[budget.of], config.study.calibration
    assert isinstance(other, Training)
    if other.budget is not None and other.budget.tokens is not None:
        samples = _paid_for(other.budget.tokens, other, calibration.length)
    else:
        samples = other.samples or calibration.samples
    # It sees whole sequences, which may be fewer tokens than its budget has.
    return round(budget.times * (samples * calibration.length * other.passes))


def _paid_for(tokens: int, entry: Training, length: int) -> int:
    """Return how many sequences a budget pays for: whole ones in whole epochs, so never more."""
    return tokens // (length * entry.passes)
