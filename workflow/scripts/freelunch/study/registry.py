"""What a study's file takes from its base: entries of a shared file of registries."""

import os
from collections.abc import Mapping
from pathlib import Path

from freelunch.core.errors import UserError
from freelunch.study.config import BASE, REGISTRIES, Config, Registries, budget_of
from freelunch.study.problems import TOP, read_settings, refusal
from freelunch.study.sources import Mixture
from freelunch.study.yaml_file import read_yaml

# Where this workflow is, whichever folder it is run in.
REPOSITORY = Path(__file__).resolve().parents[4]


def find_base(named: object, study: Path) -> Path:
    """Return the file that a study names as its base, in the study's folder or else in the
    repository of this workflow; UserError if there is none.
    """
    folders, name = (study.parent, REPOSITORY), named if isinstance(named, str) else ""
    for folder in folders:
        # Unlike Path.is_file, this returns False for names that no file can have.
        if name and os.path.isfile(folder / name):
            return folder / name
    raise UserError(
        "the base of a study is a file beside the study or in the repository",
        where=f"{study}: {BASE}",
        found=repr(named)[:60],
        expected="such a file, as config/registry.yaml",
    )


def read_config(content: object, study: Path, where: object) -> tuple[Config, Config]:
    """Return the config of a study, whose file has this content, with all entries that are defined
    for it, and with those it takes; UserError if values in it or in its base are wrong.

    An entry of the study replaces the base's entry of the same name as a whole.
    """
    if not isinstance(content, Mapping) or BASE not in content:
        config = read_settings(Config, content, where)
        missing = {*REGISTRIES} - config.model_fields_set - {"tasks"}
        if missing:
            raise refusal([f"{TOP}: {registry!r} is missing" for registry in missing], where)
        return config, config
    file = find_base(content[BASE], study)
    base = read_settings(
        Registries,
        read_yaml(file),
        Path(os.path.relpath(file)) if file.is_relative_to(Path.cwd()) else file,
        "a base holds registries only: move other keys to the study that names it",
    )
    own = read_settings(Config, {key: content[key] for key in content if key != BASE}, where)
    entries = {
        registry: {**getattr(base, registry), **getattr(own, registry)} for registry in REGISTRIES
    }
    known = own.model_copy(update=entries)
    taken = {
        # Tables and figures follow the order in which the study names its entries.
        registry: {name: entries[registry][name] for name in names if name in entries[registry]}
        for registry, names in _taken(known, own).items()
    }
    return known, own.model_copy(update=taken)


def _taken(known: Config, own: Config) -> dict[str, list[str]]:
    """Return the names of the entries that a study names or has itself, by registry."""
    evaluation, grids = known.study.evaluation, known.study.grids
    texts = dict.fromkeys([known.study.calibration.text, evaluation.perplexity.text])
    for name in [*texts, *own.texts]:
        text = known.texts.get(name)
        texts |= dict.fromkeys(text.parts if isinstance(text, Mixture) else ())
    adaptations = dict.fromkeys(name for grid in grids for name in grid.adaptations)
    waiting = [*adaptations, *own.adaptations]
    for name in waiting:
        # The adaptation that a budget is a multiple of belongs to the study, too.
        other = budget_of(known.adaptations.get(name))
        if other is not None and other not in adaptations:
            adaptations[other] = None
            waiting.append(other)
    named = {
        "models": [name for grid in grids for name in grid.models],
        "texts": [*texts],
        "tasks": evaluation.tasks.names if evaluation.tasks else [],
        "criteria": [name for grid in grids for name in grid.criteria],
        "adaptations": [*adaptations],
    }
    return {
        registry: list(dict.fromkeys([*names, *getattr(own, registry)]))
        for registry, names in named.items()
    }
