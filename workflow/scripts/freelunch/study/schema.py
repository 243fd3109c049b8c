"""The JSON Schema of a study's file, for editors, generated from the settings classes."""

import json
from pathlib import Path
from typing import Any

from freelunch.study.config import BASE, PART, REGISTRIES, Config

SCHEMA = Path(__file__).resolve().parents[3] / "schemas" / "config.schema.json"
_BASE_DESCRIPTION = (
    "A file of registries. Unless its path is absolute, the workflow looks for it in the study's "
    "folder first, and then in its own repository. The study takes the entries that it names. "
    "An entry in the study replaces the base's entry of the same name."
)


def config_schema() -> dict[str, Any]:
    """Return the schema of a study."""
    schema: dict[str, Any] = without_titles(Config.model_json_schema())
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


def file_schema() -> dict[str, Any]:
    """Return the schema of a file that has a study, or names a part of another one."""
    whole = config_schema()
    shared = {key: whole.pop(key) for key in ("$schema", "title", "description", "$defs")}
    (block,) = whole["properties"]["study"]["$ref"].rsplit("/", 1)[1:]
    of_part = shared["$defs"][block]["properties"][PART]
    base = {"type": "string", "description": "The study of which this file runs a part."}
    part = {
        "type": "object",
        "properties": {BASE: base, "study": {"type": "object", "properties": {PART: of_part}}},
        "required": [BASE, "study"],
        "additionalProperties": False,
    }
    only_part = {"type": "object", "required": [PART], "maxProperties": 1}
    is_part = {"type": "object", "required": ["study"], "properties": {"study": only_part}}
    return {**shared, "if": is_part, "then": part, "else": whole}


def schema_text() -> str:
    """Return the content of the schema's file."""
    return json.dumps(file_schema(), indent=1) + "\n"


def without_titles(value: Any) -> Any:
    """Return a schema without what pydantic derives from names: titles and tags of unions."""
    if isinstance(value, list):
        return [without_titles(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        key: without_titles(inner)
        for key, inner in value.items()
        # A setting may have one of these names, too.
        if not (key == "title" and isinstance(inner, str))
        and not (key == "discriminator" and "mapping" in inner)
    }
