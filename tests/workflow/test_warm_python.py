"""Programs in a fork of a process that imported much do what they do in one of their own."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from study_folder import Folder, digests
from warm_python import warm_folder

RECORD = Path("results/smoke/records/tiny__wanda-u50__recon_block__seed0.json")
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
    [
        *("HERE/tells.py 'a b' $c", "-m tells d", "-c print(5)"),
        *("raises.py", "says_why.py", "leaves.py", "dies.py"),
    ],
)
def test_a_program_runs_and_ends_as_it_would(programs: Path, arguments: str) -> None:
    asked = shlex.split(arguments.replace("HERE", str(programs)))
    warm, cold = (python(programs, *asked, warm=warm) for warm in (True, False))
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    # The last line of a traceback.
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]
    assert (warm.returncode == 0) is (len(asked) > 1)


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


def computed(record: Path) -> dict[str, Any]:
    """Return a record without its costs and times, and the digest of all."""
    found: dict[str, Any] = json.loads(record.read_text())
    del found["cost"], found["sha256"], found["provenance"]["finished"]
    return found


def test_a_cell_is_the_same_to_the_bit(finished: Folder, tmp_path: Path) -> None:
    """Jobs in processes of their own make what those of `finished` made, which were forked."""
    cold = Folder.new(tmp_path / "study")
    said = cold.run("--", str(RECORD))
    started = set(re.findall(r"  started   (.+)", said))
    assert len(started) > 8 and started <= set(
        re.findall(r"  started   (.+)", finished.said.read_text())
    )
    # Statistics, hidden states, masks, windows, checkpoints; what each step notes of what it made.
    for pattern in ("results/**/*.safetensors", "results/**/manifest.json"):
        assert digests(cold.path, pattern).items() <= digests(finished.path, pattern).items()
    assert computed(cold.path / RECORD) == computed(finished.path / RECORD)
