"""Digests of code in tests that edit code: what a process has read of a source is stale then."""

from freelunch.core import code_digest as digest


def forget_sources() -> None:
    """Let digests of code read all sources again, as another process would."""
    for function in vars(digest).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
