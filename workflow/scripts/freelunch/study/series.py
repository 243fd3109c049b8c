"""Series: adaptations that differ in nothing but how much they see."""

import json
from collections.abc import Mapping

from freelunch.study.adaptations import Adaptation

# Settings of how much an adaptation sees and of what is chosen for that; and those that change the
# memory it takes and, but for rounding, nothing else.
AMOUNTS = ("samples", "budget", "epochs", "learning_rate", "select_on")
MEMORY = ("micro_batch", "gradient_checkpointing")


def series_of(adaptations: Mapping[str, Adaptation]) -> dict[str, str]:
    """Return what the series of each adaptation is called, by its name.

    A series is called after its method; a second one of a method after its first adaptation too.
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
            label = settings.label
            kinds[kind] = f"{label} ({name})" if label in kinds.values() else label
        found[name] = kinds[kind]
    return found
