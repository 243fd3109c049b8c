"""The settings reference, a page of the documentation: `python -m freelunch settings`."""

import json
from collections.abc import Iterator
from typing import Any

from freelunch.study.config import REGISTRIES, StudyBlock
from freelunch.study.schema import config_schema
from freelunch.study.settings import PATTERNS, TAGGED

_HEAD = """# Settings

Every setting with its default and bounds. Any other key is refused. `python -m freelunch settings`
writes this page from the classes in `workflow/scripts/freelunch/study/`.
"""


def reference() -> str:
    """Return the page as Markdown."""
    schema = config_schema()
    definitions = schema["$defs"]
    sections = [(heading, definitions[kind]) for heading, kind in _sections(definitions)]
    parts = [_HEAD]
    for heading, definition in [("The file", schema), *sections]:
        parts.append(f"## {heading}\n\n{_words(definition)}\n")
        required = definition.get("required", [])
        rows = [
            (
                f"`{key}`",
                _form(inner, definitions),
                _default(key, inner, required),
                _words(inner).replace("|", "\\|"),
            )
            for key, inner in definition["properties"].items()
        ]
        parts.append(_table([("key", "value", "default", "description"), *rows]))
    return "\n".join(parts)


def _sections(definitions: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each definition once: its heading and its name."""
    seen: set[str] = set()
    yield from _below("study", StudyBlock.__name__, definitions, seen)
    for registry in REGISTRIES:
        for tag, kind in TAGGED.items():
            if tag.startswith(f"({registry}."):
                value = tag.strip("()").partition(".")[2]
                yield from _below(f"{registry}: {value}", kind.__name__, definitions, seen)


def _below(
    heading: str, kind: str, definitions: dict[str, Any], seen: set[str]
) -> Iterator[tuple[str, str]]:
    if kind in seen:
        return
    seen.add(kind)
    yield heading, kind
    for key, schema in definitions[kind]["properties"].items():
        for inner in _references(schema):
            yield from _below(f"{heading.partition(':')[0]}.{key}", inner, definitions, seen)


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, dict):
        if "$ref" in schema:
            yield schema["$ref"].removeprefix("#/$defs/")
        for inner in schema.values():
            yield from _references(inner)
    elif isinstance(schema, list):
        for inner in schema:
            yield from _references(inner)


def _form(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """Return the allowed values, in words."""
    if options := schema.get("oneOf") or schema.get("anyOf"):
        return " or ".join(_form(option, definitions) for option in options)
    if "$ref" in schema:
        return "a mapping, below"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "pattern" in schema:
        return PATTERNS[schema["pattern"]]
    if schema.get("type") == "array":
        return f"a list of: {_form(schema['items'], definitions)}"
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
    "object": "entries by name",
}


def _default(key: str, schema: dict[str, Any], required: list[str]) -> str:
    if "default" in schema:
        return f"`{json.dumps(schema['default'])}`"
    return "required" if key in required else ""


def _words(schema: dict[str, Any]) -> str:
    """Return the description, escaped so that Markdown does not read it as HTML."""
    return " ".join(schema.get("description", "").split()).replace("<", "&lt;")


def _table(rows: list[tuple[str, ...]]) -> str:
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body]) + "\n"
