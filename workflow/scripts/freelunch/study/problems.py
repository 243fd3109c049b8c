"""Messages about wrong values in a file: each line says the key, what was found and expected."""

import json
import re
from collections.abc import Iterable
from datetime import date
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from freelunch.core.errors import UserError, nearest
from freelunch.study.config import BASE, CHOSEN_BY, KINDS, Config, Registries
from freelunch.study.settings import PATTERNS, Settings

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
    """Return what is wrong with one value."""
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
    # Tags of pydantic's own stand in parentheses or brackets.
    parts = [str(part) for part in loc if not str(part).startswith(("(", "["))]
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
    """Return what to write instead of a value that YAML reads as another type."""
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
