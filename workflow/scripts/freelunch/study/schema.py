"""What is generated from the settings classes: the JSON Schema of a study's file, for editors, and
from it the page of the documentation with every setting (`python -m freelunch settings`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from freelunch.study.config import BASE, REGISTRIES, Config
from freelunch.study.settings import PATTERNS

SCHEMA = Path(__file__).resolve().parents[3] / "schemas" / "config.schema.json"
_BASE_DESCRIPTION = (
    "A file of registries. Unless its path is absolute, the workflow looks for it in the study's "
    "folder first, and then in its own repository. The study takes the entries that it names. "
    "An entry in the study replaces the base's entry of the same name."
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

This page lists every setting with its default and bounds. Any other key is refused.
`make settings` writes the page from the classes in `workflow/scripts/freelunch/study/`.

One key of an entry chooses its kind: `source`, `score` or `method`.
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
    mappings = {"The file": schema, **schema["$defs"]}
    return "\n".join([_HEAD, *(_section(name, inner) for name, inner in mappings.items())])


def _section(heading: str, schema: Schema) -> str:
    lines = [f"## {heading}", "", _escaped(schema["description"]), ""]
    lines += ["| key | value | default | description |", "|---|---|---|---|"]
    for key, inner in schema["properties"].items():
        default = "required" if key in schema.get("required", []) else ""
        if "default" in inner:
            default = f"`{json.dumps(inner['default'])}`"
        said = _escaped(inner.get("description", ""))
        lines.append(f"| `{key}` | {_form(inner)} | {default} | {said} |")
    return "\n".join([*lines, ""])


def _form(schema: Schema) -> str:
    if options := schema.get("oneOf") or schema.get("anyOf"):
        return " or ".join(_form(option) for option in options)
    if "$ref" in schema:
        name = schema["$ref"].removeprefix("#/$defs/")
        return f"[{name}](#{name.lower()})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "pattern" in schema:
        return PATTERNS[schema["pattern"]]
    if schema.get("type") == "array":
        return f"a list of: {_form(schema['items'])}"
    if schema.get("type") == "object":
        (value,) = schema["patternProperties"].values()
        return f"by name: {_form(value)}"
    bounds = ", ".join(f"{words} {schema[key]}" for key, words in _BOUNDS.items() if key in schema)
    return f"{_TYPES[schema['type']]} {bounds}".strip()


def _escaped(words: str) -> str:
    """Return words in one line that Markdown reads neither as HTML nor as cells of a table."""
    return " ".join(words.split()).replace("<", "&lt;").replace("|", "\\|")
