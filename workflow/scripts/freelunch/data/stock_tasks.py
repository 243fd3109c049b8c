"""Find lm-eval's tasks without importing lm-eval, which takes many seconds."""

import re
from collections.abc import Mapping
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from freelunch.core.errors import UserError, nearest

# The task's name is on a line of its file.
_NAME = re.compile(rb"^task: *[\"']?([^\s\"'#]+)", re.MULTILINE)


class _Loader(yaml.SafeLoader):
    """Read lm-eval's YAML, with `!function` tags as text."""


_Loader.add_constructor("!function", lambda loader, node: str(node.value))


def stock_task(name: str) -> dict[str, str]:
    """Return the task's file, relative to lm-eval's tasks, and its split.

    Raises:
        UserError: lm-eval has no such task, or the task is of another kind.
    """
    files, where = _stock_files(), f"tasks.{name}"
    if name not in files:
        raise UserError(
            "lm-eval has no such task",
            where=where,
            found=f"lm-eval {version('lm-eval')}",
            expected=nearest(name, files)[:300],
            todo="name a single task, as lm-eval does",
        )
    path = files[name]
    config = _read(path)
    kind = config.get("output_type")
    if kind not in ("multiple_choice", "loglikelihood"):
        raise UserError(
            "not a multiple-choice or log-likelihood task",
            where=where,
            found=kind or "a program",
            expected="multiple_choice or loglikelihood",
            todo="name single tasks of that kind",
        )
    split = config.get("test_split") or config["validation_split"]
    return {"file": str(path.relative_to(_folder())), "split": split}


def _folder() -> Path:
    spec = find_spec("lm_eval")
    assert spec is not None and spec.submodule_search_locations  # A pinned dependency.
    return Path(spec.submodule_search_locations[0]) / "tasks"


@cache
def _stock_files() -> Mapping[str, Path]:
    """Return the file of each of lm-eval's tasks, by its name."""
    found = {}
    for path in sorted(_folder().rglob("*.yaml")):
        if match := _NAME.search(path.read_bytes()):
            found[match[1].decode()] = path
    return found


def _read(path: Path) -> dict[str, Any]:
    """Return the file's settings merged over those of the files it includes."""
    config: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    included: dict[str, Any] = {}
    names = config.pop("include", [])
    for name in [names] if isinstance(names, str) else names:
        included |= _read(path.parent / name)
    return included | config
