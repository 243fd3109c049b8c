"""Entries of the config's registries of models and texts."""

from collections.abc import Mapping
from typing import Any

# What describes an entry without deciding a number.
DESCRIPTIVE = ("licence", "architecture")


def deciding(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return what of an entry decides a number, which its licence and announced shapes do not."""
    return {key: value for key, value in entry.items() if key not in DESCRIPTIVE}
