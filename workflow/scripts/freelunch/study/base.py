"""The base of a study: a shared file of registries, from which a study takes what it names."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from freelunch.core.errors import UserError
from freelunch.study.config import BASE, REGISTRIES

# The defined names of each registry, including those that the study does not take.
Names = dict[str, list[str]]


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file.

    Raises:
        UserError: The file does not exist or is not valid YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise UserError("there is no such file", where=path) from error
    except (yaml.YAMLError, ValueError) as error:
        # ValueError: bytes that are not text, or an impossible date such as 2026-13-01.
        raise UserError("not a valid YAML file", where=path, found=error) from error


def with_base(config: object, source: str, root: Path = Path()) -> tuple[object, Names]:
    """Return a config completed with the entries that its study takes from its base, and all names.

    An entry of the config replaces the base's entry of the same name as a whole. A base cannot have
    a base of its own.

    A registry of the config that is not a mapping is left unchanged: the settings classes refuse
    it.

    Args:
        config: Content of the study's file.
        source: Name of that file, for messages.
        root: The repository, to which the base's path is relative.

    Returns:
        The completed config, and the defined names of each registry.

    Raises:
        UserError: The base does not exist, or holds anything but registries.
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
        # Tables and figures follow the order in which the study names its entries.
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
            todo="move the other keys to the study that names this file as its `base`",
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
        # The adaptation that a budget is a multiple of belongs to the study, too.
        budget = _mapping(_mapping(entries.get(name)).get("budget"))
        other = budget.get("of")
        if isinstance(other, str) and other not in taken["adaptations"]:
            taken["adaptations"].setdefault(other)
            waiting.append(other)
    return {registry: list(names) for registry, names in taken.items()}


def _named(study: object) -> Iterator[tuple[str, str]]:
    """Yield the registry and name of each entry that a `study` block names, however malformed."""
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
