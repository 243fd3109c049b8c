"""Pins: the commits that stand for the branches and tags of a study.

A branch moves, so a run needs a commit. `freelunch pin` asks the hub for it and writes it into a
file beside the study, named as the study with `.pins` at the end: so no pattern for studies, such
as `studies/*.yaml`, takes it for a study, and nobody takes it for the lock of a running process. A
pin belongs to a repository and a revision, whatever the entries of the study are called. If a
study asks for another revision, the pin does not apply.
"""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from freelunch.core.errors import UserError, first_of
from freelunch.study.problems import read_settings
from freelunch.study.settings import Commit, Repository, Revision, Settings
from freelunch.study.sources import Hub, HubFile
from freelunch.study.study import Study
from freelunch.study.yaml_file import read_yaml

SUFFIX = ".pins"
_HEAD = """\
# Commits of the branches and tags that {study} names, written by `{command}`.
# Keep this file with the study. The command changes no pin that is here, and takes those of other
# studies: to move one to the newest commit, remove its entry from all files of pins and run the
# command again. What depends on it then runs again.
"""


class Pin(Settings):
    """The commit that a revision stands for."""

    commit: Commit
    """The full commit."""
    resolved: date
    """The day on which the hub named it."""


Revisions = dict[Repository, dict[Revision, Pin]]
# Kind of repository, its name, and a revision.
Key = tuple[str, str, str]


class Pins(Settings):
    """The pins of a study: by repository, then by the revision that the study names."""

    datasets: Revisions = Field(default={})
    """Repositories of texts and tasks."""
    models: Revisions = Field(default={})
    """Repositories of models."""

    @classmethod
    def joined(cls, pins: Mapping[Hub, Pin], others: "Pins | None" = None) -> "Pins":
        """Return the pins of entries, and the others' of revisions that have none here."""
        kinds: dict[str, dict[str, dict[str, Pin]]] = {"datasets": {}, "models": {}}
        named = others.names() if others else {}
        named |= {_key(entry): pin for entry, pin in pins.items()}
        for (kind, repository, revision), pin in named.items():
            kinds[kind].setdefault(repository, {})[revision] = pin
        return cls(**kinds)

    def names(self) -> dict[Key, Pin]:
        """Return the pins by kind, repository and revision."""
        return {
            (kind, repository, revision): pin
            for kind in type(self).model_fields
            for repository, revisions in getattr(self, kind).items()
            for revision, pin in revisions.items()
        }

    def of(self, entry: Hub) -> Pin | None:
        """Return the pin of an entry; None if its repository and revision have none."""
        return self.names().get(_key(entry))

    def text(self, study: str) -> str:
        """Return the content of the file beside a study, in alphabetical order."""
        written = {kind: pins for kind, pins in self.model_dump().items() if pins}
        return _HEAD.format(study=study, command=pin_command(study)) + yaml.safe_dump(written)


def _key(entry: Hub) -> Key:
    kind = "datasets" if isinstance(entry, HubFile) else "models"
    return kind, entry.repository, entry.revision


def pins_file(study: str) -> Path:
    """Return the file of the pins of a study's file."""
    return Path(f"{study}{SUFFIX}")


def pin_command(study: str) -> str:
    """Return the command that pins a study."""
    return f"make pin STUDY={shlex.quote(study)}"


def read_pins(study: str) -> Pins:
    """Return the pins beside a study; none without such a file, UserError if it is damaged."""
    path = pins_file(study)
    if not path.exists():
        return Pins()
    todo = f"restore the file; or remove it and run `{pin_command(study)}`"
    return read_settings(Pins, read_yaml(path), path, todo)


def pins_of_others(study: str) -> dict[Path, Pins]:
    """Return the pins of the other studies here, by their files; UserError if one is damaged."""
    files = [*Path().glob(f"*{SUFFIX}"), *Path("studies").glob(f"*{SUFFIX}")]
    others = sorted(file for file in files if file != pins_file(study))
    return {file: read_pins(str(file).removesuffix(SUFFIX)) for file in others}


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
    pins, config = read_pins(study.source), study.config

    def pinned(entry: Any) -> Any:
        pin = pins.of(entry) if isinstance(entry, Hub) and not entry.is_commit else None
        return entry if pin is None else entry.model_copy(update={"revision": pin.commit})

    update = {
        registry: {name: pinned(entry) for name, entry in getattr(config, registry).items()}
        for registry in ("models", "texts", "tasks")
    }
    return replace(study, config=config.model_copy(update=update))


def unpinned(study: Study) -> dict[str, Hub]:
    """Return what a study, with its pins, takes from the hub at a branch or a tag, by its place."""
    return {where: entry for where, entry in hub_entries(study).items() if not entry.is_commit}


def check_pinned(study: Study) -> None:
    """Refuse a study that names a branch or a tag without a pin, and say what pins it."""
    if moving := unpinned(study):
        named = [f"{where}.revision: {entry.revision}" for where, entry in moving.items()]
        raise UserError(
            "the study names branches or tags, which move, and their commits are not pinned",
            where=study.source,
            found=", ".join(first_of(named)),
            expected=f"full commits, or pins in {pins_file(study.source)}",
            todo=f"run `{pin_command(study.source)}{study.part_words}`, which asks the hub for the "
            "commits",
        )
