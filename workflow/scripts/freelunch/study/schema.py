"""The schema of a config: what it allows, the defaults it gives, what it says of criteria."""

import copy
import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, cast

import jsonschema
import jsonschema.validators
import yaml

from freelunch.core.errors import UserError, nearest

SCHEMA = Path(__file__).resolve().parents[3] / "schemas" / "config.schema.json"

_EXPONENT = re.compile(r"[-+]?[\d.]+e[-+]?\d+", re.IGNORECASE)


def _is_integer(checker: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(checker: object, value: object) -> bool:
    return _is_integer(checker, value) or (isinstance(value, float) and math.isfinite(value))


# To JSON Schema 1.0 is an integer, and NaN, which YAML can say, a number.
_Validator = jsonschema.validators.extend(  # type: ignore[no-untyped-call]
    jsonschema.Draft202012Validator,
    type_checker=jsonschema.Draft202012Validator.TYPE_CHECKER.redefine_many(
        {"integer": _is_integer, "number": _is_number}
    ),
)


def read_yaml(path: Path) -> Any:
    """Return what a YAML file says.

    Raises:
        UserError: It is not there, or is not YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("there is no such file", where=path) from error
    except yaml.YAMLError as error:
        raise UserError("this is not YAML", where=path, found=error) from error


def violations(config: object) -> Iterator[str]:
    """Yield one line (or more) for each violation of the schema."""
    yield from map(_describe, _Validator(config_schema()).iter_errors(config))


def fill(config: dict[str, Any]) -> None:
    """Fill in the defaults that the schema gives, in place."""
    _fill(config, config_schema(), config_schema())


@cache
def config_schema() -> dict[str, Any]:
    """Return the schema of a config, with a branch for each kind of criterion and each method of
    retraining that it defines.
    """
    schema: dict[str, Any] = json.loads(SCHEMA.read_text(encoding="utf-8"))
    prefix, definitions = "criterion_", schema["$defs"]
    kinds = [name.removeprefix(prefix) for name in definitions if name.startswith(prefix)]
    criterion = definitions["criterion"]
    criterion["properties"]["score"]["enum"] = kinds
    criterion["allOf"] = [_branch("score", kind, f"{prefix}{kind}") for kind in kinds]
    adaptation, retraining = definitions["adaptation"], definitions.pop("retraining")
    methods = definitions.pop("methods")["x-methods"]
    for method, parts in methods.items():
        properties = dict(retraining["properties"])
        for part in parts:
            properties |= definitions[part]["properties"]
        definitions[f"retraining_{method}"] = {**retraining, "properties": properties}
        adaptation["properties"]["method"]["enum"].append(method)
        adaptation["allOf"].append(_branch("method", method, f"retraining_{method}"))
    for part in {part for parts in methods.values() for part in parts}:
        # A part of others, and nothing by itself.
        del definitions[part]
    return schema


def _branch(key: str, value: str, definition: str) -> dict[str, Any]:
    """Return the part of a schema that says what else there is where a key has a value."""
    return {
        "if": {"properties": {key: {"const": value}}, "required": [key]},
        "then": {"$ref": f"#/$defs/{definition}"},
    }


def _describe(error: jsonschema.ValidationError) -> str:
    """Return one line (or more) for one violation of the schema."""
    key = ".".join(str(part) for part in error.absolute_path) or "(top)"
    if error.validator == "additionalProperties" and isinstance(error.instance, Mapping):
        valid = _properties(error)
        unknown = [str(name) for name in error.instance if name not in valid]
        lines = []
        for name in unknown:
            where = name if key == "(top)" else f"{key}.{name}"
            lines.append(f"  {where}: unknown key; expected {nearest(name, valid)}")
        return "\n".join(lines)
    found = json.dumps(error.instance, default=str)
    found = found if len(found) < 60 else found[:57] + "..."
    description = error.schema.get("description") if isinstance(error.schema, Mapping) else None
    text = f"  {key}: found {found}; {error.message}"
    if error.validator == "required":
        text = f"  {key}: {error.message}"
    if error.validator == "enum" and isinstance(error.instance, str):
        names = [str(value) for value in cast(list[Any], error.validator_value)]
        text = f"  {key}: found {error.instance!r}; expected {nearest(error.instance, names)}"
    if error.validator == "type" and _EXPONENT.fullmatch(str(error.instance)):
        text += " (YAML reads 1e-3 as text: write 1.0e-3 or 0.001)"
    return text + (f" ({description})" if description else "")


def _properties(error: jsonschema.ValidationError) -> dict[str, Any]:
    return dict(error.schema.get("properties", {})) if isinstance(error.schema, Mapping) else {}


def _fill(value: Any, schema: Mapping[str, Any], root: Mapping[str, Any]) -> None:
    """Fill in the defaults that a schema gives, in place, also below $ref, allOf and if/then."""
    if "$ref" in schema:
        _fill(value, root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    for branch in schema.get("allOf", []):
        _fill(value, branch, root)
    if "if" in schema and jsonschema.Draft202012Validator(schema["if"]).is_valid(value):
        _fill(value, schema.get("then", {}), root)
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        for key, sub in properties.items():
            if not isinstance(sub, Mapping):
                continue
            default = _default(sub, root)
            if default is not _MISSING:
                value.setdefault(key, copy.deepcopy(default))
            if key in value:
                _fill(value[key], sub, root)
        extra = schema.get("additionalProperties")
        if isinstance(extra, Mapping):
            for key in value.keys() - properties.keys():
                _fill(value[key], extra, root)
    if isinstance(value, list) and isinstance(schema.get("items"), Mapping):
        for item in value:
            _fill(item, schema["items"], root)


_MISSING = object()


def _default(schema: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    if "default" not in schema and "$ref" in schema:
        return _default(root["$defs"][schema["$ref"].removeprefix("#/$defs/")], root)
    return schema.get("default", _MISSING)


def with_defaults(entry: Mapping[str, Any], kind: str = "criterion") -> dict[str, Any]:
    """Return an entry of a registry with every setting that the schema has a default for.

    Args:
        entry: The entry.
        kind: The schema's definition of it: `criterion` or `adaptation`.
    """
    filled = dict(entry)
    _fill(filled, config_schema()["$defs"][kind], config_schema())
    return filled


def needs_gram(criterion: Mapping[str, Any]) -> bool:
    """Tell whether an entry of `criteria` needs Gram matrices, as the schema says."""
    return criterion.get("swaps", 0) > 0 or _says(criterion, "x-gram")


def changes_parameters(criterion: Mapping[str, Any]) -> bool:
    """Tell whether an entry of `criteria` changes parameters besides making weights 0."""
    return bool(criterion.get("bias_compensation", False)) or _says(criterion, "x-changes")


def is_structured(criterion: Mapping[str, Any]) -> bool:
    """Tell whether an entry of `criteria` prunes whole units."""
    return _says(criterion, "x-structured")


def _says(criterion: Mapping[str, Any], keyword: str) -> bool:
    """Tell whether the schema's definition of a criterion has a keyword of ours set."""
    definition = config_schema()["$defs"].get(f"criterion_{criterion['score']}", {})
    return bool(definition.get(keyword, False))
