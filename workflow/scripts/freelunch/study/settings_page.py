"""The page of the documentation with every setting: `python -m freelunch settings`."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from freelunch.study.adaptations import Training
from freelunch.study.config import CHOSEN_BY, KINDS, Config, StudyBlock
from freelunch.study.criteria import OfUnits, OfWeights
from freelunch.study.problems import settings_in
from freelunch.study.retraining import OfMatrices, Retraining
from freelunch.study.schema import config_schema, without_titles
from freelunch.study.settings import PATTERNS, Settings
from freelunch.study.sources import Documents, TaskDocuments, Weights

_HEAD = """# Settings

This page lists every setting with its default and bounds. Any other key is refused.
`make settings` writes the page from the classes in `workflow/scripts/freelunch/study/`.

A heading such as `adaptations: lora` stands for the entries of `adaptations` with `method: lora`.
Settings that several kinds of entries share are listed once, in a section of their own, to which
the section of each kind links; what a kind lists itself replaces what is there.
"""
# The classes that several kinds of entries inherit from, with the headings of their sections.
_SHARED: dict[type[Settings], str] = {
    Weights: "models: every source",
    Documents: "texts: every file of documents",
    TaskDocuments: "tasks: every source",
    OfWeights: "criteria: every criterion for single weights",
    OfUnits: "criteria: every criterion for heads and channels",
    Training: "adaptations: every adaptation that trains",
    Retraining: "adaptations: every retraining",
    OfMatrices: "adaptations: every retraining of matrices",
}
_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
# The heading of each class.
Headings = dict[type[Settings], str]
Schema = Mapping[str, Any]


def settings_page() -> str:
    """Return the page as Markdown."""
    headings: Headings = {}
    _add(headings, StudyBlock, "study")
    for registry, kinds in KINDS.items():
        for base, heading in _SHARED.items():
            if heading.startswith(f"{registry}: "):
                _add(headings, base, heading)
        for value, kind in kinds.items():
            _add(headings, kind, f"{registry}: {value}")
    file = _section("The file", Config, config_schema(), headings)
    sections = (
        _section(heading, kind, without_titles(kind.model_json_schema()), headings)
        for kind, heading in headings.items()
    )
    return "\n".join([_HEAD, file, *sections])


def _add(headings: Headings, kind: type[Settings], heading: str) -> None:
    """Add the heading of a class, and those of the mappings within it."""
    if kind in headings:
        return
    headings[kind] = heading
    for key, field in kind.model_fields.items():
        if (inner := settings_in(field.annotation)) is not None:
            _add(headings, inner, f"{heading.partition(':')[0]}.{key}")


def _section(heading: str, kind: type[Settings], schema: Schema, headings: Headings) -> str:
    """Return a section of the page; without a table if all settings of the class are shared."""
    words = inspect.cleandoc(kind.__doc__ or "").partition("\n\nAttributes:")[0]
    registry, _, value = heading.partition(": ")
    chosen_by = CHOSEN_BY.get(registry) if value else None
    if KINDS.get(registry, {}).get(value) is kind:
        words = f"`{chosen_by}: {value}`. {words}"
    shared = [base for base in _SHARED if base is not kind and issubclass(kind, base)]
    inherited = {ancestor for base in shared for ancestor in base.mro()}
    rows = [
        row
        for key, row in _rows(schema, {kind.__name__: name for kind, name in headings.items()})
        if key != chosen_by and _owner(kind, key) not in inherited
    ]
    links = [f"[{_SHARED[base].partition(': ')[2]}](#{_anchor(_SHARED[base])})" for base in shared]
    if links:
        *others, last = links
        joined = f"{', '.join(others)} and {last}" if others else last
        words += f" It has the settings of {joined}{', and:' if rows else '.'}"
    table = ["", "| key | value | default | description |", "|---|---|---|---|", *rows]
    return "\n".join([f"## {heading}", "", _escaped(words), *(table if rows else []), ""])


def _owner(kind: type[Settings], key: str) -> type:
    """Return the class that defines a field of a class last."""
    return next((each for each in kind.mro() if key in inspect.get_annotations(each)), kind)


def _rows(schema: Schema, headings: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the keys of a schema with their rows in a table: key, value, default, description."""
    for key, inner in schema["properties"].items():
        default = "required" if key in schema.get("required", []) else ""
        if "default" in inner:
            default = f"`{json.dumps(inner['default'])}`"
        words = _escaped(inner.get("description", "")).replace("|", "\\|")
        yield key, f"| `{key}` | {_form(inner, headings)} | {default} | {words} |"


def _form(schema: Schema, headings: Mapping[str, str]) -> str:
    """Return the allowed values, in words."""
    if options := schema.get("oneOf") or schema.get("anyOf"):
        return " or ".join(_form(option, headings) for option in options)
    if "$ref" in schema:
        return f"[a mapping](#{_anchor(headings[schema['$ref'].removeprefix('#/$defs/')])})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "pattern" in schema:
        return PATTERNS[schema["pattern"]]
    if schema.get("type") == "array":
        return f"a list of: {_form(schema['items'], headings)}"
    if schema.get("type") == "object":
        (value,) = schema["patternProperties"].values()
        return f"by name: {_form(value, headings)}" if "type" in value else "entries by name"
    bounds = ", ".join(f"{words} {schema[key]}" for key, words in _BOUNDS.items() if key in schema)
    return f"{_TYPES[schema['type']]} {bounds}".strip()


def _anchor(heading: str) -> str:
    """Return the fragment by which a link reaches a heading."""
    return re.sub(r"[^\w\s-]", "", heading).lower().replace(" ", "-")


def _escaped(words: str) -> str:
    """Return words in one line that Markdown does not read as HTML."""
    return " ".join(words.split()).replace("<", "&lt;")
