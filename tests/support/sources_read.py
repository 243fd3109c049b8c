"""Digests of code in tests that edit code: what a process has read of a source is stale then."""

from freelunch.core import code_digest as digest


def forget_sources() -> None:
    """Let digests of code read all sources again, as another process would."""
    for known in (digest._parsed, digest._files, digest._cache):
        known.cache_clear()
