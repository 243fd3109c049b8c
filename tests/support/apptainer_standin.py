"""A stand-in for `apptainer`, since no image can be made here.

It notes how it was called, and runs the command with the Python of the tests in place of the
image's.
"""

import json
import os
import sys
from pathlib import Path

APPTAINER = """\
#!{python}
import argparse, json, os, sys
from pathlib import Path

if sys.argv[1:] == ["--version"]:
    sys.exit(print("apptainer version 1.4.5"))
parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("verb", choices=["exec"])
parser.add_argument("--home", type=Path, required=True)
parser.add_argument("--bind", action="append", default=[])
parser.add_argument("--nv", action="store_true")
parser.add_argument("image", type=Path)
parser.add_argument("command", nargs=argparse.REMAINDER)
asked = parser.parse_args()
places = [asked.image, asked.home, *(Path(bind.partition(":")[0]) for bind in asked.bind)]
if missing := [str(place) for place in places if not place.exists()]:
    sys.exit(f"FATAL: there is no {{missing}}")
with open("{folder}/calls.jsonl", "a") as calls:
    print(json.dumps([str(asked.image), asked.nv, asked.bind, asked.command]), file=calls)
os.environ |= {{"HOME": str(asked.home), "PATH": "{folder}/image:/usr/bin:/bin"}}
os.execvp(asked.command[0], asked.command)
"""


class Apptainer:
    """The stand-in, in a folder of its own.

    Args:
        folder: The folder, which is made.

    Attributes:
        path: What PATH has to be, so that the stand-in is found.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "image").mkdir(parents=True)
        python = folder / "image" / "python"
        program = folder / "apptainer"
        python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        program.write_text(APPTAINER.format(python=sys.executable, folder=folder))
        for path in (python, program):
            path.chmod(0o755)
        self.path = f"{folder}{os.pathsep}{os.environ['PATH']}"

    def calls(self) -> list[tuple[str, bool, list[str], list[str]]]:
        """Return image, whether GPUs were asked for, mounts and command of each call."""
        lines = (self._folder / "calls.jsonl").read_text().splitlines()
        return [tuple(json.loads(line)) for line in lines]
