"""How long-running functions say how far they are."""

from collections.abc import Callable

# done, total, what is counted (and anything worth saying about the last one)
Report = Callable[[int, int, str], None]


def silent(done: int, total: int, note: str) -> None:
    """Say nothing."""
