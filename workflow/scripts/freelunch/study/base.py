"""The base of a study: registries that stand once, of which a study takes what it names."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from freelunch.core.errors import UserError
from freelunch.study.config import BASE, REGISTRIES

# The names that are defined, by registry: also those that a study does not take.
Names = dict[str, list[str]]


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says.

    Raises:
        UserError: It is not there, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError("there is no such file", where=path) from error
    except (yaml.YAMLError, ValueError) as error:
        # A ValueError: bytes that are no text, or a date that there is not, such as 2026-13-01.
        raise UserError("this is not YAML", where=path, found=error) from error


def with_base(config: object, source: str, root: Path = Path()) -> tuple[object, Names]:
    """Return a config with the entries that its study takes from its base, and all defined names.

    An entry of the config's own takes the place of one that has the same name in the base, as a
    whole. A base has no base itself.

    A registry of the config's own that is not a mapping is left for the classes of settings to
    refuse.

    Args:
        config: As a study's file says it.
        source: That file, for messages.
        root: The repository, to which the base's path is relative.

    Raises:
        UserError: The base is not there, or holds anything but registries.
    """
    if not isinstance(config, Mapping):
        return config, {}
    own = {registry: _mapping(config.get(registry)) for registry in REGISTRIES}
    if BASE not in config:
        return config, {registry: _strings([*own[registry]]) for registry in REGISTRIES}
    base = _read_base(config[BASE], source, root)
    names = {registry: _strings([*{**base[registry], **own[registry]}]) for registry in REGISTRIES}
    complete = {key: value for key, value in config.items() if key != BASE}
    for registry, taken in _taken(config, own, base).items():
        if not isinstance(config.get(registry, {}), Mapping):
            continue
        entries = {**base[registry], **own[registry]}
        # In the order in which the study names them, which is that of tables and figures.
        ordered = dict.fromkeys([*taken, *own[registry]])
        complete[registry] = {name: entries[name] for name in ordered if name in entries}
    return complete, names


def _read_base(named: object, source: str, root: Path) -> dict[str, Mapping[str, Any]]:
    where = f"{source}: {BASE}"
    if not isinstance(named, str) or not os.path.isfile(root / named):
        raise UserError(
            "there is no such file",
            where=where,
            found=str(named)[:60],
            expected="a file of registries, absolute or relative to the repository",
        )
    base = read_yaml(root / named)
    if not isinstance(base, Mapping):
        raise UserError("a base is a mapping", where=named, expected=", ".join(REGISTRIES))
    others = [str(key) for key in base if key not in REGISTRIES]
    if others:
        raise UserError(
            "a base holds registries and nothing else",
            where=named,
            found=", ".join(others),
            expected=", ".join(REGISTRIES),
            todo="move the other keys to the study, which names its base by `base:`",
        )
    for registry, entries in base.items():
        if not isinstance(entries, Mapping):
            raise UserError(
                "a registry is a mapping",
                where=f"{named}: {registry}",
                found=str(entries)[:60],
                expected="entries by name",
            )
    return {registry: base.get(registry, {}) for registry in REGISTRIES}


def _taken(
    config: Mapping[str, Any],
    own: Mapping[str, Mapping[str, Any]],
    base: Mapping[str, Mapping[str, Any]],
) -> dict[str, list[str]]:
    """Return the names that a study uses, by registry, in the order in which it names them."""
    taken: dict[str, dict[str, None]] = {registry: {} for registry in REGISTRIES}
    for registry, name in _named(config.get("study")):
        taken[registry].setdefault(name)
    entries = {**base["adaptations"], **own["adaptations"]}
    waiting = [*taken["adaptations"], *own["adaptations"]]
    for name in waiting:
        # What a budget is a multiple of has a part in the study, too.
        budget = _mapping(_mapping(entries.get(name)).get("budget"))
        other = budget.get("of")
        if isinstance(other, str) and other not in taken["adaptations"]:
            taken["adaptations"].setdefault(other)
            waiting.append(other)
    return {registry: list(names) for registry, names in taken.items()}


def _named(study: object) -> Iterator[tuple[str, str]]:
    """Yield the registry and name of all that a `study` block names, whatever its form."""
    block = _mapping(study)
    evaluation = _mapping(block.get("evaluation"))
    for part in (block.get("calibration"), evaluation.get("perplexity")):
        yield from (("texts", name) for name in _strings([_mapping(part).get("text")]))
    tasks = _mapping(evaluation.get("tasks")).get("names")
    yield from (("tasks", name) for name in _strings(tasks))
    for grid in _list(block.get("grids")):
        for registry in ("models", "criteria", "adaptations"):
            yield from ((registry, name) for name in _strings(_mapping(grid).get(registry)))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _strings(value: object) -> list[str]:
    return [each for each in _list(value) if isinstance(each, str)]
