"""The base of all settings classes: the values they accept, and their form as JSON.

Each setting is defined once, as a field of a class, with type, default, bounds and description.
Messages about wrong values (`study.registry`), the JSON Schema for editors and the page of the
documentation (`study.schema`) are generated from these fields.
"""

import ast
import json
import sys
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar, get_args

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
    field_validator,
)
from pydantic_core import PydanticCustomError

from freelunch.study.cell import NAME, WORD

T = TypeVar("T")
# An entry of a registry, as JSON.
Entry = Mapping[str, Any]

# Names become parts of file names, of which a record's joins three: none may be longer than 255.
NAME_LENGTH = 50
# Whatever is larger counts nothing that exists, and would overflow floating-point numbers.
_LARGEST = 10**15
COMMIT = "[0-9a-f]{40}"
# The meaning of each regular expression of a setting, in words.
PATTERNS: dict[str, str] = {}


def _like(pattern: str, words: str, longest: int | None = None) -> StringConstraints:
    """Return the constraint that a text matches a regular expression, which words describe."""
    PATTERNS[f"^{pattern}$"] = words
    return StringConstraints(pattern=f"^{pattern}$", max_length=longest)


@cache
def _descriptions(module: str) -> dict[str, dict[str, str]]:
    """Return the texts that stand below the settings of each class of a module. Pydantic's own
    `use_attribute_docstrings` parses each class by itself, which takes 0.2 seconds.
    """
    tree = ast.parse(Path(str(sys.modules[module].__file__)).read_bytes())
    return {
        kind.name: {
            ast.unparse(setting.target): " ".join(str(text.value.value).split())
            for setting, text in pairwise(kind.body)
            if isinstance(setting, ast.AnnAssign) and isinstance(text, ast.Expr)
            if isinstance(text.value, ast.Constant)
        }
        for kind in tree.body
        if isinstance(kind, ast.ClassDef)
    }


class Settings(BaseModel):
    """A mapping in the config. It is immutable, refuses unknown keys, and converts no types: text
    is not a number, 1.0 is not an integer, and 1 is not a boolean. The text below a setting is its
    description.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        # A job then pays only for the entries that it reads.
        defer_build=True,
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for name, words in _descriptions(cls.__module__).get(cls.__name__, {}).items():
            cls.model_fields[name].description = words

    @field_validator("*")
    @classmethod
    def _counts_what_exists(cls, value: Any) -> Any:
        if isinstance(value, int | float) and abs(value) > _LARGEST:
            raise PydanticCustomError("too_large", f"expected at most {_LARGEST:.0e}")
        return value

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON data, with defaults, and with keys in a fixed order.

        Snakemake compares settings by their printed form, so another order would count as a change.
        """
        written = self.model_dump(mode="json")
        return dict(json.loads(json.dumps(written, sort_keys=True)))


def absent(description: str | None = None, **bounds: Any) -> Any:
    """Return an optional field, with bounds as for `Field`; without it, its value is None and it is
    absent from JSON.
    """
    return Field(
        default=None,
        exclude_if=lambda value: value is None,
        description=description,
        json_schema_extra=_without_null,
        **bounds,
    )


def _without_null(schema: dict[str, Any]) -> None:
    """Remove null from the values that a field's schema allows."""
    schema.pop("default", None)
    options = [option for option in schema.pop("anyOf", []) if option != {"type": "null"}]
    if len(options) == 1:
        schema.update({**options[0], **schema})
    elif options:
        schema["anyOf"] = options


def one_of(values: tuple[str, ...]) -> Any:
    """Return the type of a text that is one of these."""
    return Literal[values]


def _not_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("null", "expected a value, or no such key")
    return value


def _unique(values: list[T]) -> list[T]:
    if len(set(map(str, values))) < len(values):
        raise PydanticCustomError("unique", "expected each value only once")
    return values


def _inside(member: str) -> str:
    path = PurePosixPath(member)
    odd = "\\" in member or not member.isprintable()
    if path.is_absolute() or ".." in path.parts or odd or not path.name:
        raise PydanticCustomError("member", "expected a path inside, without `..`")
    return member


Absent = Annotated[T | None, BeforeValidator(_not_null)]
Name = Annotated[
    str, _like(NAME, "lower-case letters and digits, with single . _ or - between", NAME_LENGTH)
]
Word = Annotated[
    str, _like(WORD, "lower-case letters and digits, with single _ between", NAME_LENGTH)
]
# A package and its version are passed to pip as one argument, which must not be a URL or an option.
Package = Annotated[
    str,
    _like(
        "[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?",
        "a package's name: letters and digits, with . _ or - between",
        100,
    ),
]
Version = Annotated[
    str, _like("[0-9](?:[A-Za-z0-9.!+_-]*[A-Za-z0-9])?", "a version, such as 1.2.0", 100)
]
Tags = Annotated[
    str,
    _like(
        r"[a-z]+[0-9]+(?:\.[a-z]+[0-9]+)*-[a-z0-9_]+-[A-Za-z0-9_]+(?:\.[A-Za-z0-9_]+)*",
        "a wheel's tags, such as cp311-cp311-manylinux_2_28_x86_64",
        200,
    ),
]
Member = Annotated[str, StringConstraints(max_length=500), AfterValidator(_inside)]
Sha256 = Annotated[str, _like("[0-9a-f]{64}", "64 hexadecimal digits")]
Commit = Annotated[str, _like(COMMIT, "a full commit, 40 hexadecimal digits")]
Revision = Annotated[
    str,
    _like("[A-Za-z0-9_](?:[A-Za-z0-9._/-]*[A-Za-z0-9_])?", "a branch, a tag or a full commit", 200),
]
Repository = Annotated[
    str, _like("[A-Za-z0-9_][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*", "owner/name")
]
KeptStates = Annotated[
    str,
    _like("(all|none|every_[1-9][0-9]*)", "all, none, or every_k with a whole number k"),
    # For `true`, quotes would be no help.
    BeforeValidator(str),
]
Distinct = Annotated[
    list[T],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_unique),
]
# One value, or a list to choose from.
Searched = Annotated[
    Annotated[T, Tag("(one)")] | Annotated[Distinct[T], Tag("(list)")],
    Discriminator(lambda value: "(list)" if isinstance(value, list) else "(one)"),
]
# One value, a list to choose from, or `auto`: it is found.
Found = Annotated[
    Annotated[T, Tag("(one)")]
    | Annotated[Distinct[T], Tag("(list)")]
    | Annotated[Literal["auto"], Tag("(name)")],
    Discriminator(
        lambda value: (
            "(list)"
            if isinstance(value, list)
            # Not 1e-3, which YAML reads as text.
            else "(name)"
            if isinstance(value, str) and value.isalpha()
            else "(one)"
        )
    ),
]


def classes_of(entry: Any) -> dict[str, type[Settings]]:
    """Return the classes of a registry's entries, a union annotated with the key that chooses the
    class, by the value of that key.
    """
    union, field = get_args(entry)
    kinds: tuple[type[Settings], ...] = get_args(union)
    return {get_args(kind.model_fields[field.discriminator].annotation)[0]: kind for kind in kinds}


@cache
def _adapter(entry: Any) -> TypeAdapter[Any]:
    return TypeAdapter(entry)


def read_entry(entry: Any, settings: Entry) -> Any:
    """Return an entry, as one of a union of classes, from its JSON, with defaults; may raise
    pydantic's ValidationError.
    """
    return _adapter(entry).validate_python(settings)
