"""Where the repository is that the tests are of, and the environment of a shell there."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def shell_environment(*others: str) -> dict[str, str]:
    """Return the variables of the environment without those of a `make` that runs the tests.

    Args:
        others: Names of variables to leave out, too.
    """
    ours = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", *others}
    return {key: value for key, value in os.environ.items() if key not in ours}
