"""What was fetched already for a study.

Studies share what they fetch, by its name. Two of them may give one name to different things, and
then a folder holds what the last one fetched: it tells nothing about the other's.
"""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from freelunch.core.artifact import MANIFEST
from freelunch.study.study import Study


def fetched_model(study: Study, model: str) -> Path | None:
    """Return the folder of a model; None if it, or what its entry now names, is not fetched."""
    return _made_with(study.paths.model(model), study.model(model).deciding())


def fetched_text(study: Study, text: str) -> Path | None:
    """Return the folder of a text or a mixture, as `fetched_model` does that of a model."""
    return _made_with(study.paths.text(text), study.text_settings(text))


def fetched_task(study: Study, task: str) -> Path | None:
    """Return the folder of a task, as `fetched_model` does that of a model."""
    return _made_with(study.paths.task(task), study.config.tasks[task].deciding())


def facts_at(folder: Path) -> dict[str, Any]:
    """Return the facts in a folder's manifest; none if it is missing or damaged."""
    with suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        facts = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["facts"]
        if isinstance(facts, dict):
            return facts
    return {}


def _made_with(folder: Path, settings: dict[str, Any]) -> Path | None:
    return folder if facts_at(folder).get("settings") == settings else None
