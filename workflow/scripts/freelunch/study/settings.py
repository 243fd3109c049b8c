"""What all classes of settings share: what they accept, and how they are written down.

A setting stands once, as a field of a class: type, default, bounds and description. The messages
about a wrong value (`study.problems`), the JSON Schema that editors read (`study.schema`) and the
reference in the documentation (`study.reference`) come from it.
"""

import json
from collections.abc import Callable, Mapping
from functools import cache
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    TypeAdapter,
)
from pydantic_core import PydanticCustomError

T = TypeVar("T")

# What a pattern asks for, in words.
PATTERNS = {
    r"^[a-z0-9]+([._-][a-z0-9]+)*$": "lower-case letters and digits, with single . _ or - between",
    r"^[a-z0-9]+(_[a-z0-9]+)*$": "lower-case letters and digits, with single _ between",
    r"^[0-9a-f]{64}$": "64 hexadecimal digits",
    r"^[0-9a-f]{40}$": "a full commit, 40 hexadecimal digits: a branch moves",
    r"^[^/]+/[^/]+$": "owner/name",
    r"^(all|none|every_[1-9][0-9]*)$": "all, none, or every_k with a whole number k",
}
_NAME, _WORD, _SHA256, _COMMIT, _REPOSITORY, _KEPT = PATTERNS


class Settings(BaseModel):
    """A mapping of the config. It cannot be changed, refuses keys that it does not know, and takes
    no value for another one: text is no number, 1.0 no integer, 1 no boolean.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON has them, defaults included, with keys in one order.

        Snakemake compares settings as they are printed: in another order they would be others.
        """
        written = self.model_dump(mode="json")
        return dict(json.loads(json.dumps(written, sort_keys=True)))


def absent(description: str, **bounds: Any) -> Any:
    """Return a field that need not be given, and then is None here and not there in JSON.

    Args:
        description: What it is for, and what holds without it.
        bounds: As for `Field`.
    """
    return Field(
        default=None,
        exclude_if=lambda value: value is None,
        description=description,
        json_schema_extra=_without_null,
        **bounds,
    )


def _not_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("null", "expected a value, or no such key")
    return value


def _without_null(schema: dict[str, Any]) -> None:
    """Leave out of a field's schema that it may be null."""
    schema.pop("default", None)
    options = [option for option in schema.pop("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        schema.update({**options[0], **schema})
    elif options:
        schema["anyOf"] = options


def _unique(values: list[T]) -> list[T]:
    if len(set(map(str, values))) < len(values):
        raise PydanticCustomError("unique", "expected each value only once")
    return values


def _one_or_list(value: object) -> str:
    return "(list)" if isinstance(value, list) else "(one)"


Absent = Annotated[T | None, BeforeValidator(_not_null)]
Name = Annotated[str, StringConstraints(pattern=_NAME)]
Word = Annotated[str, StringConstraints(pattern=_WORD)]
Sha256 = Annotated[str, StringConstraints(pattern=_SHA256)]
Commit = Annotated[str, StringConstraints(pattern=_COMMIT)]
Repository = Annotated[str, StringConstraints(pattern=_REPOSITORY)]
KeptStates = Annotated[str, StringConstraints(pattern=_KEPT)]
Distinct = Annotated[
    list[T],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_unique),
]
# One value, or several that are searched.
Searched = Annotated[
    Annotated[T, Tag("(one)")] | Annotated[Distinct[T], Tag("(list)")], Discriminator(_one_or_list)
]

# The classes among which a key of an entry decides, by the tags that pydantic has for them; and
# that key, by registry.
TAGGED: dict[str, type[Settings]] = {}
KEYS: dict[str, str] = {}


def chosen_by(key: str, registry: str, classes: Mapping[str, type[Settings]]) -> Any:
    """Return the type of an entry whose class is decided by one of its keys.

    Args:
        key: The key, such as `source`.
        registry: Where such entries stand, such as `models`; no two types have the same.
        classes: The class for each value of the key.
    """
    KEYS[registry] = key
    tags = {value: f"({registry}.{value})" for value in classes}
    TAGGED.update({tags[value]: kind for value, kind in classes.items()})
    tagged = [Annotated[kind, Tag(tags[value])] for value, kind in classes.items()]
    union: Any = tagged[0]
    for each in tagged[1:]:
        union = union | each
    return Annotated[union, Discriminator(_chooser(key, tags))]


def _chooser(key: str, tags: Mapping[str, str]) -> Callable[[object], str | None]:
    def choose(value: object) -> str | None:
        found = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
        return tags.get(found, f"{key}={found}") if isinstance(found, str) else None

    return choose


@cache
def reader(entry: Any) -> Callable[[Mapping[str, Any]], Any]:
    """Return what makes an entry's class of its JSON; pydantic's ValidationError if it is not one.

    Args:
        entry: A type that `chosen_by` returned.
    """
    adapter = TypeAdapter(entry)
    return adapter.validate_python
