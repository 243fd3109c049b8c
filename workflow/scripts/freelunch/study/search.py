"""Searches over the learning rates and numbers of epochs that an adaptation lists.

An entry of `adaptations` may list several of either. Each pair is then run separately, as a
candidate named after the adaptation and the pair. The best candidate becomes the adaptation's
result.
"""

from itertools import product
from typing import TypeGuard

from freelunch.study.adaptations import Adaptation, Training
from freelunch.study.settings import Entry
from freelunch.study.steps import HELD_OUT, PERPLEXITY

SEARCHED = ("learning_rate", "epochs")


def is_searched(settings: Adaptation | None) -> TypeGuard[Training]:
    """Return whether an adaptation lists alternatives."""
    return isinstance(settings, Training) and settings.is_searched


def candidates_of(name: str, settings: Adaptation | None) -> dict[str, Training]:
    """Return each candidate's settings by its name, e.g. `recon_block.lr0.001.epochs1`; none if the
    adaptation lists no alternatives.
    """
    if not is_searched(settings):
        return {}
    return {
        f"{name}.lr{rate!r}.epochs{count}": settings.model_copy(
            # How candidates are compared is not a setting of a candidate.
            update={"learning_rate": rate, "epochs": count, "select_on": "calibration"}
        )
        for rate, count in product(settings.rates, settings.epoch_counts)
    }


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
