"""Patterns that would prune nothing, although a cell's name says so."""

import math

from freelunch.study.patterns import Pattern


def nothing_of(pattern: Pattern, size: int, what: str, *alternatives: str) -> str | None:
    """Return what is wrong, and what to do, if a pattern's share of a set is less than one member.

    Nothing would be pruned although the cell's name says so.

    Args:
        pattern: The pattern.
        size: Number of members of the set.
        what: Name of the members, for the message.
        alternatives: Other settings that would help, for the message.

    Returns:
        The message; None if at least one member is pruned.
    """
    if pattern.zeros_in_group(size):
        return None
    least = [f"at least {pattern.name[0]}{math.ceil(100 / size):02d}"] if size > 1 else []
    expected = ", or ".join([*least, *alternatives]) or "more than one"
    return f"{pattern.name} of {size} {what} rounds down to none; expected {expected}"
