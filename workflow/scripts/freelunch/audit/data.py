"""The files of `workflow/data/`, checked."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from freelunch.errors import UserError

_WORKFLOW = Path(__file__).resolve().parents[3]
DATA = _WORKFLOW / "data"
SCHEMAS = _WORKFLOW / "schemas"


def checked(path: Path, schema: str) -> dict[str, Any]:
    """Return what a YAML file says.

    Args:
        path: The file.
        schema: `workflow/schemas/<schema>.schema.json`.

    Raises:
        UserError: It is not there, is not YAML, or not as the schema says.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError("there is no such file", where=path) from error
    except yaml.YAMLError as error:
        raise UserError("this is not YAML", where=path, found=error) from error
    rules = json.loads((SCHEMAS / f"{schema}.schema.json").read_text(encoding="utf-8"))
    for problem in jsonschema.Draft202012Validator(rules).iter_errors(content):
        key = ".".join(map(str, problem.absolute_path)) or "(top)"
        raise UserError(
            f"this is not as workflow/schemas/{schema}.schema.json says",
            where=f"{path}: {key}",
            found=problem.message[:300],
        )
    return dict(content)
