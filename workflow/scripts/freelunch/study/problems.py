"""Messages about a wrong config: each line says the key, what was found and what was expected."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import date
from typing import Annotated, Any, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from freelunch.core.errors import nearest
from freelunch.study.config import BASE, Config
from freelunch.study.settings import KEYS, PATTERNS, TAGGED, Settings
from freelunch.study.windows import WINDOWS

_EXPONENT = re.compile(r"[-+]?[\d.]+e[-+]?\d+", re.IGNORECASE)
# What to do about a name that YAML reads as other than text.
_QUOTES = " (put it in quotes)"
# Where in a file the whole content is meant.
_TOP = "(top)"
# What else a setting with several kinds of values may be, by pydantic's tag of the kind that the
# value was taken for.
_KINDS = {
    "(name)": ", or a number of blocks",
    "(blocks)": f", or one of: {', '.join(sorted(WINDOWS))}",
    "(one)": ", or a list of them",
}
# The expected type in words, by pydantic's name of the error.
_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "invalid_key": "text",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}


def violations(error: ValidationError) -> Iterator[str]:
    """Yield one line for each value that a settings class refuses."""
    for each in error.errors(include_url=False):
        loc, is_key = _above_key(each)
        where, field, kind = _place(loc)
        if is_key:
            yield f"  {where}: found the key {_shown(each['input'])}; {_expected(each)}{_QUOTES}"
        else:
            yield _line(each, where, field, kind)


def as_far_as_valid(config: object) -> Config:
    """Return the valid part of a config, for checks of settings that have to go together.

    Invalid parts are left out: reading one raises AttributeError, even if it has a default.
    """
    found: Config = _valid_part(Config, config)
    return found


class _Invalid(Exception):
    """A value has no valid part."""


def _valid_part(kind: Any, value: object) -> Any:
    """Return the valid part of a value; raises _Invalid if it has none.

    Settings always have a valid part, which may have no fields, so a list of settings keeps its
    positions.
    """
    try:
        return TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        loc = error.errors()[0]["loc"]
    bare = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    if get_origin(bare) is dict and isinstance(value, Mapping):
        return dict(_parts(get_args(bare)[1], value.items()))
    if get_origin(bare) is list and isinstance(value, list):
        if parts := [part for _, part in _parts(get_args(bare)[0], enumerate(value))]:
            return parts
        raise _Invalid
    settings = TAGGED.get(str(loc[0])) if loc else None
    if settings is None and get_origin(bare) not in (dict, list):
        settings = _settings_in(bare)
    if settings is None:
        raise _Invalid
    return _valid_settings(kind, settings, value)


def _valid_settings(kind: Any, settings: type[Settings], value: object) -> Settings:
    """Return settings without their invalid fields."""
    given = value if isinstance(value, Mapping) else {}
    fields: dict[str, Any] = {}
    for name, field in settings.model_fields.items():
        if name in given:
            fields.update(_parts(_annotation(field), [(name, given[name])]))
    left_out = set(given) - set(fields)
    if given is not value or _is_refused(kind, {name: given[name] for name in fields}):
        left_out = set(settings.model_fields)
    found = settings.model_construct(**fields)
    for name in left_out:
        # Otherwise, reading it would return its default.
        found.__dict__.pop(name, None)
    return found


def _is_refused(kind: Any, value: Mapping[str, Any]) -> bool:
    """Return whether a mapping is refused as a whole, apart from errors in its values."""
    try:
        TypeAdapter(kind).validate_python(value, strict=True)
    except ValidationError as error:
        return any(not each["loc"] for each in error.errors())
    return False


def _parts(kind: Any, values: Iterable[tuple[Any, Any]]) -> Iterator[tuple[Any, Any]]:
    for key, value in values:
        with suppress(_Invalid):
            yield key, _valid_part(kind, value)


def _annotation(field: FieldInfo) -> Any:
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _settings_in(annotation: Any) -> type[Settings] | None:
    """Return the only settings class in a type; None if there is none or more than one."""
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return annotation
    found = {_settings_in(part) for part in get_args(annotation)} - {None}
    return found.pop() if len(found) == 1 else None


def _above_key(error: ErrorDetails) -> tuple[tuple[int | str, ...], bool]:
    """Return the place of an error, and whether it is a mapping with a key that is no text.

    YAML reads keys such as `no`, `null`, `7` and `2024-05-01` as other than text.
    """
    loc = error["loc"]
    if error["type"] == "invalid_key":
        return loc[:-1], True
    if error["type"] == "string_type" and loc[-1] == "[key]":
        return loc[:-2], True
    return loc, False


def _place(loc: tuple[int | str, ...]) -> tuple[str, FieldInfo | None, type[Settings]]:
    """Return the dotted key of an error, its field, and the class that has the field."""
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
    return ".".join(keys) or _TOP, field, kind


def _line(error: ErrorDetails, where: str, field: FieldInfo | None, kind: type[Settings]) -> str:
    parent, _, last = where.rpartition(".")
    if error["type"] == "extra_forbidden":
        # `base` is the only key of a file that is not a setting: it is read earlier.
        valid = [*kind.model_fields, BASE] if kind is Config else kind.model_fields
        return f"  {where}: unknown key; expected {nearest(last, valid)}"
    description = f" ({field.description})" if field and field.description else ""
    if error["type"] == "missing":
        return f"  {parent or _TOP}: {last!r} is missing{description}"
    if error["type"].startswith("union_tag"):
        return _unchosen(error, where)
    hint = ""
    if error["type"] in ("int_type", "float_type") and _EXPONENT.fullmatch(str(error["input"])):
        hint = f" (YAML reads this as text: write {_as_number(error['input'])})"
    if error["type"] == "string_type" and type(error["input"]) in (bool, int, float, date):
        hint = _QUOTES
    if where == _TOP and error["input"] is None:
        return f"  {_TOP}: the file is empty; expected a study"
    expected = _expected(error) + _otherwise(error, field)
    return f"  {where}: found {_shown(error['input'])}; {expected}{hint}{description}"


def _as_number(text: str) -> str:
    """Return a number with an exponent as YAML reads it: as a whole number, or with a point."""
    value = float(text)
    if math.isfinite(value) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    digits, _, exponent = repr(value).partition("e")
    return f"{digits if '.' in digits else digits + '.0'}e{exponent}" if exponent else digits


def _otherwise(error: ErrorDetails, field: FieldInfo | None) -> str:
    """Return what else a setting may be, where a value of another kind was found."""
    if error["type"] not in (*_TYPES, "literal_error") or field is None:
        return ""
    also = _KINDS.get(str(error["loc"][-1]), "")
    # An optional setting may be left out, but not be null; it alone is excluded from JSON.
    nullable = type(None) in get_args(field.annotation) and field.exclude_if is None
    return f"{also} or null" if nullable else also


def _expected(error: ErrorDetails) -> str:
    kind, context = error["type"], error.get("ctx", {})
    if kind in _TYPES:
        return f"expected {_TYPES[kind]}"
    if kind in _BOUNDS:
        words, bound = _BOUNDS[kind]
        return f"expected {words} {context[bound]}"
    if kind == "literal_error":
        names = re.findall(r"'([^']*)'", context["expected"])
        return f"expected {_nearest(error['input'], names)}"
    if kind == "string_too_long":
        return f"expected at most {context['max_length']} characters"
    if kind == "string_pattern_mismatch":
        return f"expected {PATTERNS[context['pattern']]}"
    if kind == "too_short":
        return f"expected a list of at least {context['min_length']}"
    # The messages of our own validators already say what was expected.
    return error["msg"]


def _unchosen(error: ErrorDetails, where: str) -> str:
    """Return the line for an entry that names no kind, or an unknown one."""
    registry, entry = where.partition(".")[0], error["input"]
    if not isinstance(entry, Mapping):
        return f"  {where}: found {_shown(entry)}; expected a mapping"
    key = KEYS[registry]
    names = [tag[len(registry) + 2 : -1] for tag in TAGGED if tag.startswith(f"({registry}.")]
    if key not in entry:
        return f"  {where}: {key!r} is missing (one of: {', '.join(sorted(names))})"
    found = entry[key]
    return f"  {where}.{key}: found {_shown(found)}; expected {_nearest(found, names)}"


def _nearest(found: object, names: Iterable[str]) -> str:
    return nearest(found if isinstance(found, str) else "", names)


def _shown(value: object) -> str:
    try:
        shown = json.dumps(value, default=str)
    except (TypeError, ValueError):
        # A key that JSON does not allow, such as a date; a number of thousands of digits; a cycle.
        shown = "a value that JSON cannot express"
    return shown if len(shown) < 60 else shown[:57] + "..."
