"""Programs in a fork of a process that imported much do what they do in one of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from study_folder import Folder, digests
from warm_python import warm_folder

RESULTS = Path("results/smoke")
# What holds no time, no path and no cost.
COMPUTED = ("**/*.safetensors", "calibration/**/*", "metrics/**/*.json", "tables/*.csv")
TELLS = """
import json, os, sys
import library
seen = [sys.argv, __name__, __file__, os.getcwd(), os.environ["SAID"], library.__file__]
print(json.dumps([*seen, sys.path[:2], sys.stdin.read()]))
print("beside", file=sys.stderr)
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with programs, and a library beside it."""
    root = tmp_path_factory.mktemp("programs")
    for name, text in {
        "library/library.py": "",
        "tells.py": TELLS,
        "raises.py": "1 / 0",
        "says_why.py": "import sys; sys.exit('for no reason')",
        "leaves.py": "import atexit; atexit.register(print, 'at last'); raise SystemExit(3)",
        "dies.py": "import os; os.kill(os.getpid(), 15)",
        "sleeps.py": "import os, time; print(os.getpid(), flush=True); time.sleep(600)",
        "guesses.py": "import numpy, random; print(random.random(), numpy.random.rand())",
    }.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text)
    return root


def python(folder: Path, *arguments: object, warm: bool) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(warm_folder())] * warm + [str(Path(sys.executable).parent)])
    return subprocess.run(
        ["python", *map(str, arguments)],
        cwd=folder,
        env={"PATH": path, "PYTHONPATH": str(folder / "library"), "SAID": "ä"},
        input="given",
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "arguments",
    [("tells.py", "a b", "$c"), ("-m", "tells", "d"), ("-c", "print(5)")],
    ids=["script", "module", "code"],
)
def test_a_program_is_run_as_it_is_asked_for(programs: Path, arguments: tuple[str, ...]) -> None:
    warm, cold = (python(programs, *arguments, warm=warm) for warm in (True, False))
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    assert warm.stderr == cold.stderr and warm.returncode == 0


@pytest.mark.parametrize("name", ["raises", "says_why", "leaves", "dies"])
def test_it_ends_as_it_would(programs: Path, name: str) -> None:
    warm, cold = (python(programs, f"{name}.py", warm=warm) for warm in (True, False))
    assert warm.returncode == cold.returncode != 0
    assert warm.stdout == cold.stdout
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


def test_no_two_share_their_random_numbers(programs: Path) -> None:
    said = [python(programs, "guesses.py", warm=True).stdout.split() for _ in range(2)]
    assert not set(said[0]) & set(said[1])


def test_a_program_ends_with_whoever_waits_for_it(programs: Path) -> None:
    with subprocess.Popen(
        [warm_folder() / "python", "sleeps.py"], cwd=programs, stdout=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdout
        pid = int(waiting.stdout.readline())
        waiting.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "it still runs"
        time.sleep(0.05)


def without_costs(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without what a second run measures anew, and the digest of all."""
    provenance = {**record["provenance"], "environments": None, "finished": None}
    return {**record, "cost": None, "provenance": provenance, "sha256": None}


def test_a_study_is_the_same_to_the_bit(finished: Folder, tmp_path: Path) -> None:
    """`finished` ran in processes of their own."""
    warm = Folder.new(tmp_path / "study").warm()
    said = warm.run()
    assert said.count("  finished  ") == finished.said.read_text().count("  finished  ")
    ours, theirs = (folder.path / RESULTS for folder in (warm, finished))
    for pattern in COMPUTED:
        assert digests(ours, pattern) == digests(theirs, pattern)
    for path in (theirs / "records").iterdir():
        records = [json.loads((root / "records" / path.name).read_text()) for root in (ours, theirs)]
        assert without_costs(records[0]) == without_costs(records[1])
