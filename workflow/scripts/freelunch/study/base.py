"""The base of a study: a shared file of registries, from which a study takes what it names; or a
whole study, of which it runs a part.
"""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freelunch.core.errors import UserError, nearest
from freelunch.study.config import BASE, REGISTRIES
from freelunch.study.yaml_file import read_yaml

# Where this workflow is, whichever folder it is run in.
REPOSITORY = Path(__file__).resolve().parents[4]
# The key of a `study` block that says which part of the study is run.
PART = "part"
# The defined names of each registry, including those that the study does not take.
Names = dict[str, list[str]]


def with_base(config: object, source: Path) -> tuple[object, Names, list[str]]:
    """Return a config completed with the entries that its study takes from its base.

    An entry of the config replaces the base's entry of the same name as a whole. A base cannot have
    a base of its own.

    A registry of the config that is not a mapping is left unchanged: the settings classes refuse
    it.

    Args:
        config: Content of the study's file.
        source: That file. The base is looked for in its folder first, and then in the repository of
            this workflow.

    Returns:
        The completed config, the defined names of each registry (no registry if the base cannot be
        found), and what is wrong with the key `base`, if anything.

    Raises:
        UserError: The base is not valid YAML, or holds anything but registries.
    """
    if not isinstance(config, Mapping):
        return config, {}, []
    own = {registry: _mapping(config.get(registry)) for registry in REGISTRIES}
    if BASE not in config:
        return config, {registry: _strings([*own[registry]]) for registry in REGISTRIES}, []
    complete = {key: value for key, value in config.items() if key != BASE}
    found = _find(config[BASE], source.parent)
    if isinstance(found, str):
        return {registry: {} for registry in REGISTRIES} | complete, {}, [found]
    base = _read_base(found)
    names = {registry: _strings([*{**base[registry], **own[registry]}]) for registry in REGISTRIES}
    for registry, taken in _taken(config, own, base).items():
        if not isinstance(config.get(registry, {}), Mapping):
            continue
        entries = {**base[registry], **own[registry]}
        # Tables and figures follow the order in which the study names its entries.
        ordered = dict.fromkeys([*taken, *own[registry]])
        complete[registry] = {name: entries[name] for name in ordered if name in entries}
    return complete, names, []


def part_of_base(config: object, source: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the file of the study of which a config is a part, and the config's `study` block;
    None if the config is a study of its own.

    Args:
        config: Content of a study's file. It is a part if it holds `base` and `study.part` alone.
        source: That file.

    Raises:
        UserError: The base cannot be found.
    """
    if not isinstance(config, Mapping) or {*config} != {BASE, "study"}:
        return None
    block = config["study"]
    if not isinstance(block, Mapping) or {*block} != {PART}:
        return None
    found = _find(config[BASE], source.parent)
    if isinstance(found, str):
        raise UserError(f"1 problem in the config\n{found}", where=source)
    return found, dict(block)


def _find(named: object, folder: Path) -> Path | str:
    """Return the file that a study names as its base, or what is wrong with the name."""
    if not isinstance(named, str):
        return f"  {BASE}: found {str(named)[:60]}; expected the name of a file"
    folders = (folder, REPOSITORY)
    for each in folders:
        # Unlike Path.is_file, this returns False for names that no file can have.
        if os.path.isfile(each / named):
            return each / named
    inside = dict.fromkeys((os.path.dirname(named), "config"))
    there = {
        os.path.join(part, file)
        for each in folders
        for part in inside
        if os.path.isdir(each / part)
        for file in os.listdir(each / part)
        if file.endswith((".yaml", ".yml"))
    }
    return (
        f"  {BASE}: there is no file {named[:60]!r}, neither beside the study nor in the "
        f"repository; expected {nearest(named, there)}"
    )


def _read_base(path: Path) -> dict[str, Mapping[str, Any]]:
    base = read_yaml(path)
    where = Path(os.path.relpath(path)) if path.is_relative_to(Path.cwd()) else path
    if not isinstance(base, Mapping):
        raise UserError(
            "a base is a mapping",
            where=where,
            found="an empty file" if base is None else str(base)[:60],
            expected=", ".join(REGISTRIES),
        )
    others = [str(key) for key in base if key not in REGISTRIES]
    if others:
        raise UserError(
            "a base holds registries and nothing else",
            where=where,
            found=", ".join(others),
            expected=", ".join(REGISTRIES),
            todo="move the other keys to the study that names this file as its `base`; or, to run "
            "a part of this study, leave nothing in that one but `base` and `study: {part: ...}`",
        )
    for registry, entries in base.items():
        if not isinstance(entries, Mapping):
            raise UserError(
                "a registry is a mapping",
                where=f"{where}: {registry}",
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
    texts = {**base["texts"], **own["texts"]}
    for name in [*taken["texts"], *own["texts"]]:
        for part in _strings([*_mapping(_mapping(texts.get(name)).get("parts"))]):
            taken["texts"].setdefault(part)
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
