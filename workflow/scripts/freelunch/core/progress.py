"""How long-running functions report their progress."""

from collections.abc import Callable

# Arguments: done, total, and a note of what is counted, perhaps with a remark on the last one.
Report = Callable[[int, int, str], None]


def silent(done: int, total: int, note: str) -> None:
    """Report nothing."""
