"""The settings reference, a page of the documentation: `python -m freelunch settings`."""

import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.study.config import REGISTRIES, StudyBlock
from freelunch.study.schema import config_schema
from freelunch.study.settings import KEYS, PATTERNS, TAGGED

_HEAD = """# Settings

This page lists every setting with its default and bounds. Any other key is refused.
`make settings` writes the page from the classes in `workflow/scripts/freelunch/study/`.

A heading such as `adaptations: lora` stands for the entries of `adaptations` with `method: lora`.
Settings that several kinds of entries share are listed once, in a section of their own, to which
the section of each kind links.
"""
# What several kinds of entries share: the registry, what these kinds are called, and the name of
# the class that they inherit from.
_SHARED = (
    ("models", "every source", "Weights"),
    ("texts", "every file of documents", "Documents"),
    ("tasks", "every source", "TaskDocuments"),
    ("criteria", "every criterion for single weights", "OfWeights"),
    ("criteria", "every criterion for heads and channels", "OfUnits"),
    ("adaptations", "every adaptation that trains", "Training"),
    ("adaptations", "every retraining", "Retraining"),
    ("adaptations", "every retraining of matrices", "OfMatrices"),
)
Row = tuple[str, ...]
Definitions = Mapping[str, Any]


def reference() -> str:
    """Return the page as Markdown."""
    schema = config_schema()
    definitions = schema["$defs"]
    headings = dict(_headings(definitions))
    parts = [_HEAD, _section("The file", _words(schema), _rows(schema, headings))]
    for part in ("study", *REGISTRIES):
        if part in REGISTRIES:
            parts += _of_registry(part, definitions, headings)
        for kind, heading in headings.items():
            # The mappings within an entry or within the `study` block.
            if heading.partition(".")[0] == part:
                definition = definitions[kind]
                parts.append(_section(heading, _words(definition), _rows(definition, headings)))
    return "\n".join(parts)


def _of_registry(
    registry: str, definitions: Definitions, headings: Mapping[str, str]
) -> Iterator[str]:
    """Yield the sections of a registry: first what its kinds of entries share, then each kind."""
    kinds = {
        value: kind
        for tag, kind in TAGGED.items()
        for of, _, value in (tag.strip("()").partition("."),)
        if of == registry
    }
    rows = {value: _rows(definitions[kind.__name__], headings) for value, kind in kinds.items()}
    shared_by: dict[str, list[str]] = {value: [] for value in kinds}
    bases = {base.__name__: base for kind in kinds.values() for base in kind.__mro__}
    for of, words, name in _SHARED:
        if of != registry:
            continue
        base = bases[name]
        heading = f"{registry}: {words}"
        members = [value for value, kind in kinds.items() if issubclass(kind, base)]
        shared = [row for row in rows[members[0]] if all(row in rows[value] for value in members)]
        yield _section(heading, inspect.cleandoc(base.__doc__ or ""), shared)
        for value in members:
            rows[value] = [row for row in rows[value] if row not in shared]
            shared_by[value].append(f"[{words}](#{_anchor(heading)})")
    for value, kind in kinds.items():
        key = KEYS[registry]
        words = f"`{key}: {value}`. {_words(definitions[kind.__name__])}"
        own = [row for row in rows[value] if row[0] != f"`{key}`"]
        if links := shared_by[value]:
            listed = " and ".join(filter(None, [", ".join(links[:-1]), links[-1]]))
            words += f" It has the settings of {listed}{', and:' if own else '.'}"
        yield _section(f"{registry}: {value}", words, own)


def _section(heading: str, words: str, rows: Sequence[Row]) -> str:
    """Return a section of the page; without a table if there are no rows."""
    text = f"## {heading}\n\n{words}\n"
    return f"{text}\n{_table(rows)}" if rows else text


def _headings(definitions: Definitions) -> Iterator[tuple[str, str]]:
    """Yield each definition once: its name, and the heading of its section."""
    seen: set[str] = set()
    yield from _below("study", StudyBlock.__name__, definitions, seen)
    for tag, kind in TAGGED.items():
        registry, _, value = tag.strip("()").partition(".")
        yield from _below(f"{registry}: {value}", kind.__name__, definitions, seen)


def _below(
    heading: str, kind: str, definitions: Definitions, seen: set[str]
) -> Iterator[tuple[str, str]]:
    if kind in seen:
        return
    seen.add(kind)
    yield kind, heading
    for key, schema in definitions[kind]["properties"].items():
        for inner in _references(schema):
            yield from _below(f"{heading.partition(':')[0]}.{key}", inner, definitions, seen)


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield _name(schema)
        for inner in schema.values():
            yield from _references(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _references(inner)


def _name(reference: Mapping[str, str]) -> str:
    return reference["$ref"].removeprefix("#/$defs/")


def _anchor(heading: str) -> str:
    """Return the fragment by which a link reaches a heading."""
    return re.sub(r"[^\w\s-]", "", heading).lower().replace(" ", "-")


def _rows(definition: Mapping[str, Any], headings: Mapping[str, str]) -> list[Row]:
    """Return the rows of a definition's table: key, value, default, description."""
    required = definition.get("required", [])
    return [
        (
            f"`{key}`",
            _form(inner, headings),
            _default(key, inner, required),
            _words(inner).replace("|", "\\|"),
        )
        for key, inner in definition["properties"].items()
    ]


def _form(schema: Mapping[str, Any], headings: Mapping[str, str]) -> str:
    """Return the allowed values, in words."""
    if options := schema.get("oneOf") or schema.get("anyOf"):
        return " or ".join(_form(option, headings) for option in options)
    if "$ref" in schema:
        return f"[a mapping](#{_anchor(headings[_name(schema)])})"
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
    bounds = [
        f"{words} {schema[key]}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "more than"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "less than"),
        )
        if key in schema
    ]
    return " ".join([_TYPES[schema["type"]], *([", ".join(bounds)] if bounds else [])])


_TYPES = {
    "integer": "whole number",
    "number": "number",
    "string": "text",
    "boolean": "true or false",
    "null": "null",
}


def _default(key: str, schema: Mapping[str, Any], required: Sequence[str]) -> str:
    if "default" in schema:
        return f"`{json.dumps(schema['default'])}`"
    return "required" if key in required else ""


def _words(schema: Mapping[str, Any]) -> str:
    """Return the description, escaped so that Markdown does not read it as HTML."""
    return " ".join(schema.get("description", "").split()).replace("<", "&lt;")


def _table(rows: Sequence[Row]) -> str:
    head, *body = [
        "| " + " | ".join(row) + " |" for row in [("key", "value", "default", "description"), *rows]
    ]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"
