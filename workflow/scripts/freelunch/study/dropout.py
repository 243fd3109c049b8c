"""Dropout in a model's blocks, by its config."""

from collections.abc import Mapping
from typing import Any

from freelunch.core.errors import UserError

# Keys of a config with the rates of dropout within a block, in every family that is tested.
_RATES = ("dropout", "attention_dropout", "hidden_dropout", "resid_pdrop")
# What transformers takes where a config lacks them; all other rates are 0 then.
_DEFAULTS = {"opt": {"dropout": 0.1}}


def dropout_of(config: Mapping[str, Any]) -> float | None:
    """Return the highest rate of dropout within a block, 0 to 1; None if the config has no rate.

    Args:
        config: A transformers config, or an excerpt with the same keys.
    """
    known = {**_DEFAULTS.get(config.get("model_type", ""), {}), **config}
    rates = [float(known[key] or 0.0) for key in _RATES if key in known]
    return max(rates, default=None)


def check_dropout(rate: float | None, model_type: str) -> None:
    """Refuse to keep the dropout of a model active that has none.

    Raises:
        UserError: The rate, which `dropout_of` returns, is 0 or missing.
    """
    if not rate:
        raise UserError(
            "the blocks of this model have no dropout, so `model_dropout` would change nothing",
            where=model_type,
            found="a rate of 0" if rate == 0.0 else "no rate in its config",
            expected=f"a model whose config has a rate above 0 as {', '.join(_RATES)}, such as OPT",
            todo="remove `model_dropout` from the adaptation",
        )
