"""Pins: the commits that stand for branches and tags on the hub.

A branch moves, so a run needs a commit. `freelunch pin` asks the hub for it and writes it into one
file for all studies of a folder, since these share what is fetched. A pin belongs to a repository
and a revision, whatever the entries of a study are called.
"""

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from freelunch.core.errors import UserError, first_of
from freelunch.core.files import write_atomically
from freelunch.study.registry import read_settings
from freelunch.study.settings import Commit, Settings
from freelunch.study.sources import Hub, HubFile
from freelunch.study.study import Study
from freelunch.study.yaml_file import read_yaml

PINS = Path("pins.yaml")
_HEAD = """\
# The commits of branches and tags on the hub, for all studies in this folder: keep this file with
# them. `make pin STUDY=...` adds what is missing. To move a pin to the newest commit, remove its
# line and run the command again; what depends on it then runs again.
"""


class Pins(Settings):
    """The content of the file."""

    commits: dict[str, Commit]
    """The commit of each revision, as `pin_name` names it."""

    def write(self) -> None:
        """Write the file, in alphabetical order."""
        write_atomically(PINS, _HEAD + yaml.safe_dump(self.model_dump(), width=1000))


def read_pins() -> Pins:
    """Return the pins of this folder; none without the file, UserError if it is damaged."""
    if not PINS.exists():
        return Pins(commits={})
    todo = "restore the file; or remove it and run `make pin STUDY=...`"
    return read_settings(Pins, read_yaml(PINS), PINS, todo)


def pin_name(entry: Hub) -> str:
    """Return the name of the pin of an entry, such as `models/facebook/opt-125m@main`."""
    kind = "datasets" if isinstance(entry, HubFile) else "models"
    return f"{kind}/{entry.repository}@{entry.revision}"


def pin_command(study: str) -> str:
    """Return the command that pins a study."""
    return f"make pin STUDY={shlex.quote(study)}"


def hub_entries(study: Study) -> dict[str, Hub]:
    """Return what a study takes from the hub, by the place of the entry."""
    entries: dict[str, Any] = {f"models.{name}": study.model(name) for name in study.models}
    entries |= {f"texts.{name}": study.text(name) for name in study.texts}
    entries |= {f"tasks.{name}": study.config.tasks[name] for name in study.tasks.get("tasks", {})}
    return {where: entry for where, entry in entries.items() if isinstance(entry, Hub)}


def with_pins(study: Study) -> Study:
    """Return a study in which pinned commits stand in place of branches and tags.

    So all that depends on the revision (settings of jobs, records) depends on the commit.
    """
    commits, config = read_pins().commits, study.config

    def pinned(entry: Any) -> Any:
        commit = commits.get(pin_name(entry)) if isinstance(entry, Hub) else None
        return entry.model_copy(update={"revision": commit}) if commit else entry

    update = {
        registry: {name: pinned(entry) for name, entry in getattr(config, registry).items()}
        for registry in ("models", "texts", "tasks")
    }
    return replace(study, config=config.model_copy(update=update))


def unpinned(study: Study) -> dict[str, Hub]:
    """Return what a study takes from the hub at a branch or a tag, by the place of the entry."""
    return {where: entry for where, entry in hub_entries(study).items() if not entry.is_commit}


def check_pinned(study: Study) -> None:
    """Refuse a study that names a branch or a tag without a pin, and say what pins it."""
    if moving := unpinned(study):
        named = [f"{where}.revision: {entry.revision}" for where, entry in moving.items()]
        raise UserError(
            "the study names branches or tags, which move, and their commits are not pinned",
            where=study.source,
            found=", ".join(first_of(named)),
            expected=f"full commits, or pins in {PINS}",
            todo=f"run `{pin_command(study.source)}{study.part_words}`, which asks the hub for the "
            "commits",
        )
