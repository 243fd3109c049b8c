"""A study's config from its file and its base: entries of a shared file of registries. Of wrong
values, each line of a message says the key, what was found and expected.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from freelunch.core.errors import UserError, nearest
from freelunch.study.config import BASE, CHOSEN_BY, KINDS, REGISTRIES, Config, Registries, budget_of
from freelunch.study.settings import PATTERNS, Settings
from freelunch.study.sources import Mixture
from freelunch.study.yaml_file import read_yaml

# Where this workflow is, whichever folder it is run in.
REPOSITORY = Path(__file__).resolve().parents[4]

AnySettings = TypeVar("AnySettings", bound=Settings)
_EXPONENT = re.compile(r"[-+]?[\d.]+e[-+]?\d+", re.IGNORECASE)
# What pydantic says, in our words.
_WORDS = {
    "Input should be": "expected",
    "greater than or equal to": "at least",
    "greater than": "more than",
    "less than or equal to": "at most",
    "a valid integer": "a whole number",
    "a valid number": "a number",
    "a valid string": "text",
    "a valid boolean": "true or false",
    "a valid list": "a list",
    "Value error, ": "",
}
TAGS = ("(one)", "(list)", "(name)", "(blocks)", "[key]")
# Where in a file the whole content is meant.
TOP = "(top)"


def read_settings(
    kind: type[AnySettings], content: object, where: object, todo: str | None = None
) -> AnySettings:
    """Return the content of a file as settings; UserError, which lists every wrong value with its
    key, if it is not valid.
    """
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        lines = [_line(each, kind) for each in error.errors(include_url=False)]
    raise refusal(lines, where, todo)


def refusal(problems: Iterable[str], where: object, todo: str | None = None) -> UserError:
    """Return the error that lists problems, each of which begins with its key."""
    lines = sorted(set(problems))
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return UserError("\n  ".join([f"{count} in the config", *lines]), where=where, todo=todo)


def _line(error: ErrorDetails, kind: type[Settings]) -> str:
    keys, field, kind = _place(error["loc"], kind)
    where, parent = ".".join(keys) or TOP, ".".join(keys[:-1]) or TOP
    description = f" ({field.description})" if field and field.description else ""
    if error["type"] == "extra_forbidden":
        # `base` is the only key of a file that is not a setting: it is read earlier.
        valid = [*kind.model_fields, BASE] if kind is Config else kind.model_fields
        return f"{where}: unknown key; expected {nearest(keys[-1], valid)}"
    if error["type"] == "missing":
        return f"{parent}: {keys[-1]!r} is missing{description}"
    found: Any = error["input"]
    is_key = error["type"] == "string_type" and error["loc"][-1] == "[key]"
    if is_key or error["type"] == "invalid_key":
        # YAML reads keys such as `no`, `null`, `7` and `2024-05-01` as other than text.
        return f"{parent}: found the key {_shown(found)}; expected text (put it in quotes)"
    if error["type"].startswith("union_tag"):
        key, names = CHOSEN_BY[keys[0]], KINDS[keys[0]]
        if key not in found:
            return f"{where}: {key!r} is missing (one of: {', '.join(sorted(names))})"
        return (
            f"{where}.{key}: found {_shown(found[key])}; expected {nearest(str(found[key]), names)}"
        )
    return f"{where}: found {_shown(found)}; {_expected(error)}{_hint(error)}{description}"


def _place(
    loc: tuple[int | str, ...], kind: type[Settings]
) -> tuple[list[str], FieldInfo | None, type[Settings]]:
    """Return the keys that lead to an error, its field, and the class that has the field."""
    # Some of what stands between the keys are tags of unions. A file's own key may look like one.
    parts = [str(part) for part in loc if part not in TAGS or part == loc[0]]
    keys: list[str] = []
    within: type[Settings] | None = kind
    if issubclass(kind, Registries) and len(parts) > 2 and parts[0] in KINDS:
        registry, name, chosen, *parts = parts
        keys, within = [registry, name], KINDS[registry][chosen]
    field: FieldInfo | None = None
    for part in parts:
        keys.append(part)
        if within is not None and not part.isdigit():
            kind, field = within, within.model_fields.get(part)
            within = settings_in(field.annotation) if field else None
    return keys, field, kind


def settings_in(annotation: Any) -> type[Settings] | None:
    """Return the only settings class in a type; None if there is none or more than one."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    found = {settings_in(part) for part in get_args(annotation)} - {None}
    return found.pop() if len(found) == 1 else None


def _expected(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in ("dict_type", "model_type", "model_attributes_type"):
        return "expected a mapping"
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        return f"expected {nearest(str(error['input']), names)}"
    if kind == "string_pattern_mismatch":
        return f"expected {PATTERNS[context['pattern']]}"
    words: str = error["msg"]
    for theirs, ours in _WORDS.items():
        words = words.replace(theirs, ours)
    return words


def _hint(error: ErrorDetails) -> str:
    kind, found = error["type"], error["input"]
    if kind in ("int_type", "float_type") and _EXPONENT.fullmatch(str(found)[:99]):
        return " (YAML reads this as text: write 0.001 or 1.0e-3, not 1e-3; 10, not 1e1)"
    if kind == "string_type" and isinstance(found, bool | int | float | date):
        return " (put it in quotes)"
    return ""


def _shown(value: object) -> str:
    try:
        shown = json.dumps(value, default=str)
    except (TypeError, ValueError):
        # A key that JSON does not allow, such as a date; a number of thousands of digits; a cycle.
        shown = "a value that JSON cannot express"
    return shown if len(shown) < 60 else shown[:57] + "..."


# --- The base


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
        # The adaptation that a budget is a multiple of, or that another starts from, belongs to the
        # study, too.
        entry = known.adaptations.get(name)
        for other in (budget_of(entry), entry.after if entry else None):
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
