"""Candidates: the learning rates and numbers of epochs that an adaptation chooses among.

An entry of `adaptations` may list several of either. Each pair is then a run of its own, named
after the adaptation and the pair, and the best one becomes the adaptation's result.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

from freelunch.study.steps import HELD_OUT, PERPLEXITY

SEARCHED = ("learning_rate", "epochs")


def is_searched(settings: Mapping[str, Any]) -> bool:
    """Tell whether an entry of `adaptations` lists alternatives."""
    return any(isinstance(settings.get(key), list) for key in SEARCHED)


def candidates_of(name: str, settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return each candidate's settings by its name, e.g. `recon_block.lr0.001.epochs1`.

    What decides among them (`select_on`) is not theirs. Empty if the entry lists no alternatives.
    """
    if not is_searched(settings):
        return {}
    shared = {key: value for key, value in settings.items() if key != "select_on"}
    rates, epochs = (
        value if isinstance(value, list) else [value] for value in (settings[k] for k in SEARCHED)
    )
    return {
        f"{name}.lr{rate!r}.epochs{count}": {
            **shared,
            "learning_rate": rate,
            "epochs": count,
        }
        for rate, count in product(rates, epochs)
    }


def chosen_of(choice: Mapping[str, Any] | None, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the candidate that a search chose, or an entry's settings where there was none."""
    found: Mapping[str, Any] = choice["candidates"][choice["chosen"]] if choice else settings
    return found


def choice_text(candidates: Sequence[Mapping[str, Any]], chosen: Mapping[str, Any]) -> str:
    """Return what was chosen, in words; a learning rate at an end of its list is said to be.

    Args:
        candidates: Of one search, each with SEARCHED.
        chosen: That of them which was.
    """
    rates, epochs = ({each[key] for each in candidates} for key in SEARCHED)
    rate, count = (chosen[key] for key in SEARCHED)
    end = ""
    if len(rates) > 1 and rate in (min(rates), max(rates)):
        end = f" (the {'lowest' if rate == min(rates) else 'highest'} tried)"
    words = f"learning rate {rate:g}{end}"
    return words if len(epochs) == 1 else f"{words} and epochs {count}"


def adaptation_of(name: str) -> str:
    """Return the adaptation that a candidate, or an adaptation itself, belongs to."""
    return name.partition(".")[0]


def compared_by(settings: Mapping[str, Any]) -> str:
    """Return what is measured on the candidates of an adaptation to choose among them."""
    return HELD_OUT if settings["select_on"] == "calibration" else PERPLEXITY
