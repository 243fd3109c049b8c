"""No tensor is left on the CPU where a job runs on a GPU, shown without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fake_gpu


@pytest.fixture(scope="module")
def errors() -> dict[str, str | None]:
    """Run all cases in a process of their own, because the device stays registered in it."""
    path = os.pathsep.join(entry for entry in sys.path if entry)
    command = [sys.executable, str(Path(fake_gpu.__file__))]
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    found: dict[str, str | None] = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    # An error in a thread of torch's ends the process.
    return {case: found.get(case, done.stderr[-3000:]) for case in fake_gpu.CASES}


@pytest.mark.parametrize("case", fake_gpu.CASES)
def test_all_tensors_are_on_the_device(case: str, errors: dict[str, str | None]) -> None:
    assert errors[case] is None, errors[case]
