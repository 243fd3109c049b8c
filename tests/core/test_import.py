"""What importing the library sets for the libraries below it."""

import os
import subprocess
import sys

import pytest

from freelunch.core.code_digest import SCRIPTS


@pytest.mark.parametrize(("chosen", "found"), [(None, "AUTO"), ("COMPATIBLE", "COMPATIBLE")])
def test_sums_are_reproducible_unless_the_user_chose_otherwise(
    chosen: str | None, found: str
) -> None:
    """MKL reads its mode once, when torch loads it, so it must be set before."""
    environment = {key: value for key, value in os.environ.items() if key != "MKL_CBWR"}
    environment |= {"PYTHONPATH": str(SCRIPTS)} | ({"MKL_CBWR": chosen} if chosen else {})
    code = "import freelunch, os, sys; print(os.environ['MKL_CBWR'], 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [found, "False"]
