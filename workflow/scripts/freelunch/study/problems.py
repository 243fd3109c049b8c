"""What is wrong with a config, in lines that say the key, what was found and what was expected."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from freelunch.core.errors import nearest
from freelunch.study.config import Config
from freelunch.study.settings import PATTERNS, TAGGED, Settings

_EXPONENT = re.compile(r"[-+]?[\d.]+e[-+]?\d+", re.IGNORECASE)
# What a value of another type was expected to be, by pydantic's name of the error.
_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def violations(error: ValidationError) -> Iterator[str]:
    """Yield one line for each value that a class of settings refuses."""
    for each in error.errors(include_url=False):
        where, field, kind = _place(each["loc"])
        yield _line(each, where, field, kind)


def as_far_as_valid(config: object) -> Config:
    """Return what of a config is valid, for checks of what goes together.

    What is not valid is left out: reading it raises AttributeError.
    """
    found: Config = _valid_part(Config, config)
    return found


class _Invalid(Exception):
    """A value has no valid part."""


def _valid_part(kind: Any, value: object) -> Any:
    """Return the valid part of a value; raises _Invalid if it has none."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        tag = next((part for part in error.errors()[0]["loc"][:1] if part in TAGGED), None)
    settings = _settings_in(kind) or (TAGGED[str(tag)] if tag else None)
    if get_origin(kind) is Annotated and settings is None:
        return _valid_part(get_args(kind)[0], value)
    if get_origin(kind) is dict and isinstance(value, Mapping):
        inner = get_args(kind)[1]
        return {str(key): part for key, part in _parts(inner, value.items())}
    if get_origin(kind) is list and isinstance(value, list):
        return [part for _, part in _parts(get_args(kind)[0], enumerate(value))]
    if settings is None or not isinstance(value, Mapping):
        raise _Invalid
    fields = {}
    for name, field in settings.model_fields.items():
        if name in value:
            for _, part in _parts(_annotation(field), [(name, value[name])]):
                fields[name] = part
    return settings.model_construct(**fields)


def _parts(kind: Any, values: Any) -> Iterator[tuple[Any, Any]]:
    for key, value in values:
        try:
            yield key, _valid_part(kind, value)
        except _Invalid:
            continue


def _annotation(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _settings_in(annotation: Any) -> type[Settings] | None:
    """Return the one class of settings that a value of a type is made of; None if it is not one."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    found = {_settings_in(part) for part in get_args(annotation)} - {None}
    return found.pop() if len(found) == 1 else None


def _place(loc: tuple[int | str, ...]) -> tuple[str, FieldInfo | None, type[Settings]]:
    """Return the dotted key of an error, its field, and the class that the field is of."""
    keys: list[str] = []
    kind: type[Settings] = Config
    field: FieldInfo | None = None
    within: type[Settings] | None = Config
    for part in loc:
        if part in TAGGED:
            within = TAGGED[str(part)]
        elif not (isinstance(part, str) and part.startswith(("(", "["))):
            keys.append(str(part))
            if within is not None and isinstance(part, str):
                kind, field = within, within.model_fields.get(part)
                within = _settings_in(field.annotation) if field else None
    return ".".join(keys) or "(top)", field, kind


def _line(error: ErrorDetails, where: str, field: FieldInfo | None, kind: type[Settings]) -> str:
    parent, _, last = where.rpartition(".")
    if error["type"] == "extra_forbidden":
        return f"  {where}: unknown key; expected {nearest(last, kind.model_fields)}"
    description = f" ({field.description})" if field and field.description else ""
    if error["type"] == "missing":
        return f"  {parent or '(top)'}: {last!r} is missing{description}"
    if error["type"].startswith("union_tag"):
        return _unchosen(error, where)
    found = json.dumps(error["input"], default=str)
    found = found if len(found) < 60 else found[:57] + "..."
    hint = ""
    if _EXPONENT.fullmatch(str(error["input"])) and isinstance(error["input"], str):
        hint = " (YAML reads 1e-3 as text: write 1.0e-3 or 0.001)"
    return f"  {where}: found {found}; {_expected(error)}{hint}{description}"


def _expected(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _TYPES:
        return f"expected {_TYPES[kind]}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"expected {words} {context[bound]}"
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        return f"expected {nearest(str(error['input']), names)}"
    if kind == "string_pattern_mismatch":
        return f"expected {PATTERNS[context['pattern']]}"
    if kind == "too_short":
        return f"expected at least {context['min_length']}"
    # Those of our own say themselves what was expected.
    return error["msg"]


def _unchosen(error: ErrorDetails, where: str) -> str:
    """Return the line of an entry whose kind is not known."""
    context = error.get("ctx", {})
    if "tag" not in context:
        key = _KEYS[where.partition(".")[0]]
        if isinstance(error["input"], Mapping) and key not in error["input"]:
            return f"  {where}: {key!r} is missing"
        if isinstance(error["input"], Mapping):
            where, found = f"{where}.{key}", error["input"][key]
            return f"  {where}: found {json.dumps(found, default=str)}; expected a name"
        return f"  {where}: found {json.dumps(error['input'], default=str)}; expected a mapping"
    key, _, found = context["tag"].partition("=")
    names = re.findall(r"\([a-z]+\.([a-z_]+)\)", context["expected_tags"])
    return f"  {where}.{key}: found {found!r}; expected {nearest(found, names)}"


# The key that decides what an entry of a registry is.
_KEYS = {
    "models": "source",
    "texts": "source",
    "tasks": "source",
    "criteria": "score",
    "adaptations": "method",
}
