"""Follow the recipes of `docs/recipes/` to the letter.

A step is a sentence that ends with a colon, and the block of code below it:

    Create `path`:                               the block is the content of the file
    In `path`, after `text`, insert:             the block follows the only occurrence of the text
"""

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

RECIPES = Path(__file__).resolve().parents[2] / "docs" / "recipes"
_STEP = re.compile(
    r"^(?:Create `(?P<new>[^`\n]+)`|In `(?P<old>[^`\n]+)`, after `(?P<after>[^`\n]+)`, insert):\n"
    r"\n```\w+\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def files_of(name: str) -> list[str]:
    """Return the files that a recipe touches, in the recipe's order."""
    text = (RECIPES / f"{name}.md").read_text()
    return list(dict.fromkeys(step["new"] or step["old"] for step in _STEP.finditer(text)))


def follow(name: str, root: Path) -> None:
    """Carry out the steps of a recipe in a copy of the repository."""
    text = (RECIPES / f"{name}.md").read_text()
    steps = list(_STEP.finditer(text))
    assert steps, f"{name}.md has no step"
    for step in steps:
        if step["new"]:
            path = root / step["new"]
            assert not path.exists(), f"{path} already exists"
            path.write_text(step["code"])
            continue
        path = root / step["old"]
        before, after = path.read_text(), step["after"]
        assert before.count(after) == 1, f"{path} holds {after!r} {before.count(after)} times"
        path.write_text(before.replace(after, after + "\n" + step["code"].rstrip("\n")))


def succeed(*command: str, folder: Path, environment: Mapping[str, str]) -> str:
    """Run a module of Python with arguments in a folder; return what it printed.

    Raises:
        AssertionError: It fails.
    """
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
