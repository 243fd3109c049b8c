"""Series: adaptations that differ only in how much text they see."""

import json
from collections.abc import Mapping

from freelunch.study.adaptations import Adaptation, Reconstruction
from freelunch.study.methods import FULL

# Settings of how much text an adaptation sees and of what is chosen for that amount, and settings
# that change only the memory an adaptation takes and, through rounding, the last digits.
AMOUNTS = ("samples", "budget", "epochs", "learning_rate", "select_on")
MEMORY = ("micro_batch", "gradient_checkpointing", "residency")


def series_of(adaptations: Mapping[str, Adaptation]) -> dict[str, str]:
    """Return the name of each adaptation's series, by the adaptation's name.

    A series is named after its method. A second series of a method also gets the name of its first
    adaptation.
    """
    kinds: dict[str, str] = {}
    found = {}
    for name, settings in adaptations.items():
        rest = {
            key: value
            for key, value in settings.as_json().items()
            if key not in (*AMOUNTS, *MEMORY)
        }
        kind = json.dumps(rest)
        if kind not in kinds:
            label = _label(settings)
            kinds[kind] = f"{label} ({name})" if label in kinds.values() else label
        found[name] = kinds[kind]
    return found


def _label(settings: Adaptation) -> str:
    """Return the name of the series of adaptations of this kind."""
    dense = ", dense" if settings.becomes_dense else ""
    if isinstance(settings, Reconstruction):
        name = f"{settings.method}, window {settings.window}"
        return name if settings.trains in (None, FULL) else f"{name}, {settings.trains}{dense}"
    return settings.method + dense + (", distilled" if settings.distils else "")
