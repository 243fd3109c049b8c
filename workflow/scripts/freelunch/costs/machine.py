"""What the machine has that plans."""

import os
from pathlib import Path

# The memory limit of the process's control group, as systemd, containers and schedulers set it.
_LIMIT = Path("/sys/fs/cgroup/memory.max")


def memory_bytes() -> int:
    """Return the memory of this machine, or of the part of it that this process may use."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        return min(physical, int(_LIMIT.read_text()))
    except (OSError, ValueError):
        # There is no such file, or it says "max".
        return physical
