"""The claims of `workflow/data/claims.yaml`, and the files of `workflow/data/`, checked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from freelunch.audit.measures import MEASURES
from freelunch.audit.verdicts import COUNTS, Threshold
from freelunch.core.errors import UserError, nearest
from freelunch.study.yaml_file import read_yaml

_WORKFLOW = Path(__file__).resolve().parents[3]
# What the audit refers to is here, wherever the audited study is run.
REPOSITORY = _WORKFLOW.parent
DATA = _WORKFLOW / "data"
# What lays out the page, the cards and the checklist.
REPORT = _WORKFLOW / "report"
CLAIMS = DATA / "claims.yaml"


@dataclass(frozen=True)
class ThresholdHistory:
    """Who set a threshold: `by` the paper, the words of the claim, or us; and when."""

    by: str
    date: str
    after_results: bool


@dataclass(frozen=True)
class Question:
    """A part of a claim: what it asks of records, or of published tables.

    Attributes:
        says: The part in words.
        measure, metric, settings: What it measures; a measure of memory has no metric.
        threshold: The part is found beyond it.
        set: When and by whom the threshold was set.
        why: Why this threshold.
        role: decides, counts or adds.
        effect: What the forest plot calls its numbers.
        cells: The cells to use besides the dense models; None for all.
        where: Its place in the file, for error messages.
    """

    says: str
    measure: str
    metric: str | None
    settings: Mapping[str, Any]
    threshold: Threshold
    set: ThresholdHistory
    why: str
    role: str
    effect: str
    cells: Sequence[str] | None
    where: str


@dataclass(frozen=True)
class Claim:
    """A claim, with the parts that are asked of records, and those asked of published tables."""

    id: str
    title: str
    statement: str
    source: str
    published: str | None
    parts: list[Question]
    in_tables: list[Question]
    where: str

    @classmethod
    def of(cls, entry: Mapping[str, Any], path: Path = CLAIMS) -> "Claim":
        """Return a claim from its entry in a file.

        Raises:
            UserError: A part names a measure or a metric that does not exist, or gives a measure
                the wrong settings.
        """
        where = f"{path}: {entry['id']}"
        parts, in_tables = (
            [_question(part, f"{where}.{key}.{at}") for at, part in enumerate(entry.get(key, []))]
            for key in ("parts", "in_tables")
        )
        facts = {key: entry.get(key) for key in ("id", "title", "statement", "source", "published")}
        return cls(**facts, parts=parts, in_tables=in_tables, where=where)  # type: ignore[arg-type]


def load_claims(path: Path = CLAIMS) -> list[Claim]:
    """Return the claims of a file.

    Raises:
        UserError: The file does not match `workflow/schemas/claims.schema.json`, or a part is
            malformed, as `Claim.of` says.
    """
    claims = [Claim.of(entry, path) for entry in load_data(path, "claims")["claims"]]
    for at, claim in enumerate(claims):
        if any(claim.id == other.id for other in claims[:at]):
            raise UserError("two claims have one id", where=path, found=claim.id)
    return claims


def load_data(path: Path, schema: str) -> dict[str, Any]:
    """Return the content of a YAML file.

    Args:
        path: The file.
        schema: `workflow/schemas/<schema>.schema.json`.

    Raises:
        UserError: The file is missing, is not YAML, or does not match the schema.
    """
    content = read_yaml(path)
    file = _WORKFLOW / "schemas" / f"{schema}.schema.json"
    rules = json.loads(file.read_text(encoding="utf-8"))
    for problem in jsonschema.Draft202012Validator(rules).iter_errors(content):
        key = ".".join(map(str, problem.absolute_path)) or "(top)"
        raise UserError(
            f"this does not match workflow/schemas/{schema}.schema.json",
            where=f"{path}: {key}",
            found=problem.message[:300],
        )
    return dict(content)


def _question(part: Mapping[str, Any], where: str) -> Question:
    """Return a part; refuse one whose measure, metric or settings do not go together."""
    name, metric, settings = part["measure"], part.get("metric"), part.get("settings", {})
    if name not in MEASURES:
        raise UserError(
            "there is no such measure",
            where=f"{where}.measure",
            found=name,
            expected=nearest(name, MEASURES),
            todo="correct the name, or add the measure to freelunch/audit/measures",
        )
    metrics, properties = MEASURES[name].metrics, MEASURES[name].settings
    if metric not in (metrics or (None,)):
        raise UserError(
            f"{name} has no such metric",
            where=f"{where}.metric",
            found=metric or "(none)",
            expected=nearest(metric or "", metrics) if metrics else "no such key",
            todo="correct the claim",
        )
    rules = {"properties": properties, "required": list(properties), "additionalProperties": False}
    for problem in jsonschema.Draft202012Validator(rules).iter_errors(settings):
        raise UserError(
            f"wrong settings for {name}",
            where=".".join([f"{where}.settings", *map(str, problem.absolute_path)]),
            found=problem.message,
            expected=json.dumps(properties) if properties else "(none)",
            todo="correct the claim",
        )
    return Question(
        says=part["says"],
        measure=name,
        metric=metric,
        settings=settings,
        threshold=Threshold(*next(iter(part["holds"].items()))),
        set=ThresholdHistory(**part["set"]),
        why=part["why"],
        role=part.get("role", COUNTS),
        effect=part.get("effect", part["says"]),
        cells=part.get("cells"),
        where=where,
    )
