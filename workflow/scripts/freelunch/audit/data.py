"""The files of `workflow/data/`, checked."""

import json
from pathlib import Path
from typing import Any

import jsonschema

from freelunch.core.errors import UserError
from freelunch.study.yaml_file import read_yaml

_WORKFLOW = Path(__file__).resolve().parents[3]
# What the audit refers to is here, wherever the audited study is run.
REPOSITORY = _WORKFLOW.parent
DATA = _WORKFLOW / "data"
SCHEMAS = _WORKFLOW / "schemas"
# What lays out the page and the cards.
REPORT = _WORKFLOW / "report"


def checked(path: Path, schema: str) -> dict[str, Any]:
    """Return the content of a YAML file.

    Args:
        path: The file.
        schema: `workflow/schemas/<schema>.schema.json`.

    Raises:
        UserError: The file is missing, is not YAML, or does not match the schema.
    """
    content = read_yaml(path)
    rules = json.loads((SCHEMAS / f"{schema}.schema.json").read_text(encoding="utf-8"))
    for problem in jsonschema.Draft202012Validator(rules).iter_errors(content):
        key = ".".join(map(str, problem.absolute_path)) or "(top)"
        raise UserError(
            f"this does not match workflow/schemas/{schema}.schema.json",
            where=f"{path}: {key}",
            found=problem.message[:300],
        )
    return dict(content)
