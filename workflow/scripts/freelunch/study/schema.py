"""What is generated from the settings classes: the JSON Schema of a study's file, for editors, and
from it the page of the documentation with every setting (`python -m freelunch settings`).
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from freelunch.study.config import BASE, CHOSEN_BY, KINDS, REGISTRIES, Config
from freelunch.study.settings import PATTERNS

SCHEMA = Path(__file__).resolve().parents[3] / "schemas" / "config.schema.json"
_BASE_DESCRIPTION = (
    "A file of registries, beside the study or in this repository, from which the study takes the "
    "entries that it names. An entry in the study replaces the base's of the same name."
)
Schema = Mapping[str, Any]


def config_schema() -> dict[str, Any]:
    """Return the schema of a study."""
    schema: dict[str, Any] = _without_titles(Config.model_json_schema())
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "A study"
    schema["properties"][BASE] = {"type": "string", "description": _BASE_DESCRIPTION}
    for registry in REGISTRIES:
        # Names of another form are refused.
        schema["properties"][registry]["additionalProperties"] = False
    # A registry that is missing here may be in the base.
    registries = [registry for registry in REGISTRIES if registry != "tasks"]
    schema["anyOf"] = [{"required": registries}, {"required": [BASE]}]
    return schema


def schema_text() -> str:
    """Return the content of the schema's file."""
    return json.dumps(config_schema(), indent=1) + "\n"


def _without_titles(value: Any) -> Any:
    """Return a schema without what pydantic derives from names: titles and tags of unions."""
    if isinstance(value, list):
        return [_without_titles(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        key: _without_titles(inner)
        for key, inner in value.items()
        # A setting may have one of these names, too.
        if not (key == "title" and isinstance(inner, str))
        and not (key == "discriminator" and "mapping" in inner)
    }


# --- The page of the documentation

_HEAD = """# Settings

This page lists every setting of a study with its type, bounds and default. Any other key is
refused. A setting without a default may be left out unless it is required. Entries of registries
are of several kinds; the last column says which have a setting. `make settings` writes the page.
"""
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


def settings_page() -> str:
    """Return the page as Markdown."""
    schema = config_schema()
    places = dict(_places("", schema, schema["$defs"]))
    sections = [_HEAD, _section("The file", {"": schema}, places)]
    for registry, kinds in KINDS.items():
        of = {kind: schema["$defs"][named.__name__] for kind, named in kinds.items()}
        sections.append(_section(registry, of, places))
    for name, place in places.items():
        if place not in KINDS:
            sections.append(_section(place, {"": schema["$defs"][name]}, places))
    return "\n".join(sections)


def _places(within: str, schema: Schema, definitions: Schema) -> Iterator[tuple[str, str]]:
    """Yield each class in a mapping's schema, and the keys that lead to it."""
    for key, inner in schema["properties"].items():
        for name in re.findall(r"#/\$defs/(\w+)", json.dumps(inner)):
            yield name, f"{within}{key}"
            yield from _places(f"{within}{key}.", definitions[name], definitions)


def _section(heading: str, kinds: Mapping[str, Schema], places: Mapping[str, str]) -> str:
    """Return the section of a mapping, or of a registry, which states equal settings once."""
    rows: dict[str, list[str]] = {}
    lines = [f"## {heading}", ""]
    for kind, schema in kinds.items():
        lines.append((f"- `{kind}`: " if kind else "") + _escaped(schema["description"]))
        for key, inner in schema["properties"].items():
            default = "required" if key in schema.get("required", []) else ""
            if "default" in inner:
                default = f"`{json.dumps(inner['default'])}`"
            said = _escaped(inner.get("description", ""))
            row = f"| `{key}` | {_form(inner, places)} | {default} | {said} |"
            if "const" not in inner:
                rows.setdefault(row, []).append(kind)
    of = CHOSEN_BY.get(heading)
    head = "| key | value | default | description |" + (f" `{of}` |" if of else "")
    lines += ["", head, "|---" * (head.count("|") - 1) + "|"]
    lines += [f"{row} {_which(having, kinds)} |" if of else row for row, having in rows.items()]
    return "\n".join([*lines, ""])


def _which(having: list[str], kinds: Mapping[str, Schema]) -> str:
    others = [kind for kind in kinds if kind not in having]
    words = "all but " if len(others) < len(having) else ""
    named = ", ".join(f"`{kind}`" for kind in (others if words else having))
    return words + named if others else "all"


def _form(schema: Schema, places: Mapping[str, str]) -> str:
    if options := schema.get("oneOf") or schema.get("anyOf"):
        return " or ".join(dict.fromkeys(_form(option, places) for option in options))
    if "$ref" in schema:
        place = places[schema["$ref"].removeprefix("#/$defs/")]
        return f"[{place}](#{place.replace('.', '')})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "pattern" in schema:
        return PATTERNS[schema["pattern"]]
    if schema.get("type") == "array":
        return f"a list of: {_form(schema['items'], places)}"
    if schema.get("type") == "object":
        (value,) = schema["patternProperties"].values()
        return f"by name: {_form(value, places)}"
    bounds = ", ".join(f"{words} {schema[key]}" for key, words in _BOUNDS.items() if key in schema)
    return f"{_TYPES[schema['type']]} {bounds}".strip()


def _escaped(words: str) -> str:
    """Return words in one line that Markdown reads neither as HTML nor as cells of a table."""
    return " ".join(words.split()).replace("<", "&lt;").replace("|", "\\|")
