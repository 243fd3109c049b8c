"""The claims of `workflow/data/claims.yaml`, and the files of `workflow/data/`, checked."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from freelunch.audit.evidence import Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import Absent, Measurement
from freelunch.audit.verdicts import COUNTS, Threshold, number_text
from freelunch.core.errors import UserError, nearest
from freelunch.study.yaml_file import read_yaml

_WORKFLOW = Path(__file__).resolve().parents[3]
DATA = _WORKFLOW / "data"
# What lays out the page and the cards.
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
        threshold: The part is reproduced beyond it.
        set: When and by whom the threshold was set.
        why: Why this threshold.
        where: Its place in the file, for error messages.
        measure, metric, settings: What it measures; a measure of memory has no metric.
        role: decides, counts, adds or beside.
        across: Whether numbers of different published tables are compared.
        effect: What the forest plot calls its numbers, if not `says`.
    """

    says: str
    threshold: Threshold
    set: ThresholdHistory
    why: str
    where: str
    measure: str
    metric: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    role: str = COUNTS
    effect: str = ""
    across: bool = False

    def ask(self, evidence: Evidence) -> list[Measurement | Absent]:
        """Return what its measure asks of evidence."""
        asked = {**self.settings, "metric": self.metric}
        return list(MEASURES[self.measure].ask(evidence, asked))

    def written(self, value: float) -> str:
        """Return a number of its kind, without an error, as text."""
        return number_text(value, self.unit)

    @property
    def unit(self) -> str:
        """Return how its numbers are written."""
        return MEASURES[self.measure].unit_for(self.metric)


@dataclass(frozen=True)
class Claim:
    """A claim, with the parts that are asked of records, and those asked of published tables."""

    id: str
    title: str
    statement: str
    source: str
    parts: list[Question]
    in_tables: list[Question]
    published: str | None = None

    @classmethod
    def of(cls, entry: Mapping[str, Any], path: Path = CLAIMS) -> "Claim":
        """Return a claim from its entry in a file. UserError: a part names a measure or a metric
        that does not exist, or gives a measure the wrong settings.
        """
        parts = {
            key: [
                _question(part, f"{path}: {entry['id']}.{key}.{at}")
                for at, part in enumerate(entry.get(key, []))
            ]
            for key in ("parts", "in_tables")
        }
        return cls(**{**entry, **parts})


def load_claims(path: Path = CLAIMS) -> list[Claim]:
    """Return the claims of a file. UserError: the file does not match
    `workflow/schemas/claims.schema.json`, or a part is malformed, as `Claim.of` says.
    """
    claims: dict[str, Claim] = {}
    for entry in load_data(path, "claims")["claims"]:
        claim = Claim.of(entry, path)
        if claims.setdefault(claim.id, claim) is not claim:
            raise UserError("two claims have one id", where=path, found=claim.id)
    return list(claims.values())


def load_data(path: Path, schema: str) -> dict[str, Any]:
    """Return the content of a YAML file. UserError: the file is missing, is not YAML, or does not
    match `workflow/schemas/<schema>.schema.json`.
    """
    content = read_yaml(path)
    file = _WORKFLOW / "schemas" / f"{schema}.schema.json"
    rules = json.loads(file.read_text(encoding="utf-8"))
    _check(content, rules, f"{path}: ", f"this does not match workflow/schemas/{file.name}")
    return dict(content)


def _question(part: Mapping[str, Any], where: str) -> Question:
    """Return a part; refuse one whose measure, metric or settings do not go together."""
    name = part["measure"]
    if name not in MEASURES:
        raise UserError(
            "there is no such measure",
            where=f"{where}.measure",
            found=name,
            expected=nearest(name, MEASURES),
            todo="correct the name, or add the measure to freelunch/audit/measures",
        )
    measure = MEASURES[name]
    of_settings = {"properties": measure.settings, "required": list(measure.settings)}
    rules = {
        "metric": {"enum": [*(measure.metrics or (None,))]},
        "settings": {**of_settings, "additionalProperties": False},
    }
    asked = {"metric": part.get("metric"), "settings": part.get("settings", {})}
    _check(asked, {"properties": rules}, f"{where}.", f"{name} cannot be asked this")
    facts = {key: value for key, value in part.items() if key != "holds"}
    threshold = Threshold(*next(iter(part["holds"].items())))
    facts |= {"threshold": threshold, "set": ThresholdHistory(**part["set"]), "where": where}
    return Question(**facts)


def _check(content: Any, rules: Mapping[str, Any], where: str, problem: str) -> None:
    """Refuse content that does not match a JSON Schema; `where` precedes the key."""
    for found in jsonschema.Draft202012Validator(rules).iter_errors(content):
        expected = f"{found.validator}: {json.dumps(found.validator_value)[:300]}"
        if found.validator == "additionalProperties":
            expected = ", ".join(found.schema["properties"]) or "no key"
        raise UserError(
            problem,
            where=where + (".".join(map(str, found.absolute_path)) or "(top)"),
            found=found.message[:300],
            expected=expected,
            todo="correct the file",
        )
