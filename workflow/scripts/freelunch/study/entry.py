"""Entries of the config's registries: what of them decides numbers, how much they ask for."""

from collections.abc import Mapping
from typing import Any

# What describes an entry without deciding a number.
DESCRIPTIVE = ("licence", "architecture")


def deciding(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an entry decides a number, which its licence and announced shapes do not."""
    return {key: value for key, value in entry.items() if key not in DESCRIPTIVE}


def budget_tokens(budget: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """Return how many tokens a budget of an entry of `adaptations` is, to the nearest.

    Args:
        budget: Checked: what it is a multiple of has no alternatives and no multiple itself.
        config: A study's config, with or without its defaults.
    """
    if "tokens" in budget:
        return int(budget["tokens"])
    other = config["adaptations"][budget["of"]]
    if "budget" in other:
        seen = other["budget"]["tokens"]
    else:
        calibration = config["study"]["calibration"]
        samples = other.get("samples", calibration["samples"])
        seen = samples * calibration["length"] * other.get("epochs", 1)
    tokens: int = round(budget["times"] * seen)
    return tokens
