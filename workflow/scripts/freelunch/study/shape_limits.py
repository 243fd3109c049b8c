"""Numbers that no model's config can hold: they are taken for damage or for malice.

The largest shapes are far beyond any published model's. A module tree of a billion blocks would
otherwise be built before anything says so.
"""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from freelunch.core.errors import UserError
from freelunch.study.families import OTHER_NAMES

# Largest value of each key of a transformers config that decides shapes; the least is 1.
LARGEST = {
    "num_hidden_layers": 1_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 100_000,
    "vocab_size": 10_000_000,
    "max_position_embeddings": 1_000_000_000,
}
_LARGEST_BY_NAME = LARGEST | {
    other: LARGEST[ours]
    for ours, others in OTHER_NAMES.items()
    if ours in LARGEST
    for other in others
}


def check_shapes(config: Any, where: object) -> None:
    """Refuse shapes that no model can have, and numbers that are not finite.

    Args:
        config: A transformers config, or any JSON data: what is not a config is left to its reader.
        where: The model, for messages.

    Raises:
        UserError: A shape is not a whole number from 1 to its largest value, or a number is NaN or
            infinite, which Python's JSON admits.
    """
    for key, number in _numbers(config):
        if not math.isfinite(number):
            raise UserError(
                "no model has this number",
                where=where,
                found=f"{key} = {number}",
                expected="a finite number",
                todo="use a sound config.json",
            )
    for part in (config, config.get("text_config")) if isinstance(config, Mapping) else ():
        for key, value in part.items() if isinstance(part, Mapping) else ():
            largest = _LARGEST_BY_NAME.get(key)
            if largest is None or value is None:
                continue
            if type(value) is not int or not 1 <= value <= largest:
                raise UserError(
                    "no model has this shape",
                    where=where,
                    found=f"{key} = {repr(value)[:40]}",
                    expected=f"a whole number from 1 to {largest:,}",
                    todo="use a sound config.json",
                )


def _numbers(config: Any, inside: str = "") -> Iterator[tuple[str, float]]:
    """Yield each number with a fraction in a config, and its dotted key; lists are passed over."""
    for key, value in config.items() if isinstance(config, Mapping) else ():
        if isinstance(value, float):
            yield f"{inside}{key}", value
        yield from _numbers(value, f"{inside}{key}.")
