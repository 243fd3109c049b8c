"""Test the claims of `workflow/data/claims.yaml` on the records of a study."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema

from freelunch.analysis.bootstrap import Estimate, estimate
from freelunch.core.errors import UserError, nearest
from freelunch.reporting.audit.data import DATA, checked
from freelunch.reporting.audit.evidence import Evidence
from freelunch.reporting.audit.measures import MEASURES
from freelunch.reporting.audit.measures.measure import Absent, Measurement
from freelunch.reporting.audit.verdicts import (
    COUNTS,
    UNBOUNDED,
    UNTESTED,
    judge,
    of_claim,
    tally,
    together,
)
from freelunch.reporting.formatting import NOT_FINITE, rounded
from freelunch.study.cell import Cell
from freelunch.study.criteria import CRITERIA
from freelunch.study.steps import EVALUATE_CELL
from freelunch.study.study import Study

CLAIMS = DATA / "claims.yaml"
Claim = Mapping[str, Any]
# The text after a number, by its unit.
_SUFFIXES = {"share": " %", "times": " times", "GB": " GB", "points": " points", "nats": " nats"}


def load_claims(path: Path = CLAIMS) -> list[dict[str, Any]]:
    """Return the claims of a file.

    Raises:
        UserError: The file does not match `workflow/schemas/claims.schema.json`, names a measure or
            a metric that does not exist, or gives a measure the wrong settings.
    """
    claims: list[dict[str, Any]] = checked(path, "claims")["claims"]
    seen: set[str] = set()
    for claim in claims:
        if claim["id"] in seen:
            raise UserError("two claims have one id", where=path, found=claim["id"])
        seen.add(claim["id"])
        for number, part in enumerate(claim["parts"]):
            _check_part(part, f"{path}: {claim['id']}.parts.{number}")
        # For error messages.
        claim["where"] = f"{path}: {claim['id']}"
    return claims


def _check_part(part: Mapping[str, Any], where: str) -> None:
    """Refuse a part whose measure, metric or settings do not go together."""
    name = part["measure"]
    if name not in MEASURES:
        raise UserError(
            "there is no such measure",
            where=f"{where}.measure",
            found=name,
            expected=nearest(name, MEASURES),
            todo="correct the name, or add the measure to freelunch/reporting/audit/measures",
        )
    metric, metrics = part.get("metric"), MEASURES[name].metrics
    if metric not in (metrics or (None,)):
        raise UserError(
            f"{name} has no such metric",
            where=f"{where}.metric",
            found=metric or "(none)",
            expected=nearest(metric or "", metrics) if metrics else "no such key",
            todo="correct the claim",
        )
    properties = MEASURES[name].settings
    rules = {"properties": properties, "required": list(properties), "additionalProperties": False}
    for problem in jsonschema.Draft202012Validator(rules).iter_errors(part.get("settings", {})):
        raise UserError(
            f"wrong settings for {name}",
            where=".".join([f"{where}.settings", *map(str, problem.absolute_path)]),
            found=problem.message,
            expected=json.dumps(properties) if properties else "(none)",
            todo="correct the claim",
        )


def audit_claims(evidence: Evidence, claims: Iterable[Claim]) -> list[dict[str, Any]]:
    """Return the verdict on each claim, with the findings it comes from.

    Raises:
        UserError: A claim names a cell or a criterion that the study does not have.
    """
    return [_claim(claim, evidence) for claim in claims]


def _claim(claim: Claim, evidence: Evidence) -> dict[str, Any]:
    parts = [_part(part, claim, evidence) for part in claim["parts"]]
    verdict = of_claim([(part["verdict"], part["role"]) for part in parts])
    facts = ("id", "title", "statement", "source", "published")
    return {**{key: claim.get(key) for key in facts}, "verdict": verdict, "parts": parts}


def _part(part: Mapping[str, Any], claim: Claim, evidence: Evidence) -> dict[str, Any]:
    metric = part.get("metric")
    settings = {**part.get("settings", {}), "metric": metric}
    criteria = {*evidence.study.config.criteria, *CRITERIA}
    _check_known(settings.get("criteria", []), criteria, "an unknown criterion", claim)
    if "cells" in part:
        evidence = _only(evidence, part["cells"], claim)
    measure = MEASURES[part["measure"]]
    findings = [_finding(asked, part, evidence) for asked in measure.ask(evidence, settings)]
    verdict = together([finding["verdict"] for finding in findings])
    return {
        "says": part["says"],
        "role": part.get("role", COUNTS),
        "verdict": verdict,
        "reason": _reason(findings),
        "measure": part["measure"],
        "measures": measure.description,
        "settings": part.get("settings", {}),
        "metric": metric,
        "threshold": threshold_text(part["holds"], measure.unit_for(metric)),
        "why_this_threshold": part["why"],
        "findings": findings,
    }


def _only(evidence: Evidence, names: Sequence[str], claim: Claim) -> Evidence:
    """Return evidence of only some cells and the dense models."""
    known = {str(cell): cell for cell in evidence.study.cells}
    _check_known(names, known, "a cell that the study does not have", claim)
    kept = {
        cell: record
        for cell, record in evidence.records.items()
        if cell.is_dense or str(cell) in names
    }
    return Evidence(evidence.study, kept, evidence.folder)


def _check_known(names: Iterable[str], known: Collection[str], what: str, claim: Claim) -> None:
    """Refuse a name that is not among those known, such as a misspelled one."""
    for name in names:
        if name not in known:
            raise UserError(
                f"a claim names {what}",
                where=claim.get("where", claim["id"]),
                found=name,
                expected=nearest(name, known),
                todo="correct the claim",
            )


def _finding(
    asked: Measurement | Absent, part: Mapping[str, Any], evidence: Evidence
) -> dict[str, Any]:
    if isinstance(asked, Absent):
        return {
            "subject": asked.subject,
            "verdict": UNTESTED,
            "reason": asked.reason,
            **dict.fromkeys(("value", "low", "high", "text", "command")),
            "of_seeds": [],
            "cells": [],
        }
    found = estimate(asked.statistic, asked.samples)
    measure, metric = MEASURES[part["measure"]], part.get("metric")
    unit = measure.unit_for(metric)
    verdict, reason = judge(
        found, part["holds"], lambda value: _written(value, unit), asked.bounds, asked.undefined
    )
    if asked.samples and min(sample.seeds for sample in asked.samples) == 1:
        all_of_them = max(sample.seeds for sample in asked.samples) == 1
        reason += " (one seed)" if all_of_them else " (one seed of some)"
    if chosen := _chosen_on_evaluation(asked.cells, evidence):
        reason += f"; settings of {', '.join(chosen)} were chosen on the evaluation text"
    rule = measure.repeated_by or EVALUATE_CELL
    return {
        "subject": asked.subject,
        "verdict": verdict,
        "reason": reason,
        "value": _number(found.value),
        "low": _number(found.low),
        "high": _number(found.high),
        "text": estimate_text(found, unit, asked.bounds),
        "of_seeds": [_number(value) for value in found.of_seeds],
        "cells": [str(cell) for cell in asked.cells],
        "command": asked.command or command(evidence.study, asked.cells, rule),
    }


def _chosen_on_evaluation(cells: Iterable[Cell], evidence: Evidence) -> list[str]:
    """Return the adaptations of cells whose settings were chosen on the evaluation text."""
    adaptations = dict.fromkeys(cell.adaptation for cell in cells)
    return [name for name in adaptations if name in evidence.study.selected_on_evaluation]


def _reason(findings: Sequence[Mapping[str, Any]]) -> str:
    """Return the reason for the verdict on a part, in a sentence."""
    if not findings:
        return "This study has no cells to test it on."
    if len(findings) == 1:
        return _sentence(findings[0])
    reasons = {finding["reason"] for finding in findings}
    why = f": {reasons.pop()}" if len(reasons) == 1 else ""
    return f"{tally([finding['verdict'] for finding in findings], 'comparisons')}{why}."


def _sentence(finding: Mapping[str, Any]) -> str:
    found = f"{finding['text']}; " if finding["text"] else ""
    return f"{finding['subject']}: {found}{finding['reason']}."


def command(study: Study, cells: Sequence[Cell], rule: str) -> str:
    """Return the command that runs a rule again for some cells."""
    records = " ".join(str(study.paths.record(cell)) for cell in dict.fromkeys(cells))
    return f"{snakemake(study.source)} --forcerun {rule} -- {records}"


def snakemake(source: str) -> str:
    """Return the command that runs a config; targets and other options may follow."""
    return (
        f"snakemake --cores all --workflow-profile workflow/profiles/local --config study={source}"
    )


def threshold_text(holds: Mapping[str, Any], unit: str) -> str:
    """Return a threshold in words."""
    side = "above" if "above" in holds else "below"
    return f"{side} {_written(holds[side], unit)}"


def estimate_text(found: Estimate, unit: str, bounds: tuple[float, float] = UNBOUNDED) -> str:
    """Return a number and its interval as people read them.

    Args:
        found: The number.
        unit: share, times, perplexity, GB, points or nats.
        bounds: As those of a `Measurement`.
    """
    if math.isnan(found.value):
        return NOT_FINITE
    least, most = bounds
    # A quarter of a 95 % interval is the standard error, of which two digits are shown.
    ends = [min(value, most) for value in (found.low, found.high) if not math.isnan(value)]
    error = (max(ends) - min(ends)) / 4 if ends else 0.0

    def written(value: float) -> str:
        if math.isinf(value):
            return f"more than {_written(most, unit)}"
        text = _written(value, unit, error)
        return f"at most {text}" if value <= least else text

    text = written(found.value)
    if found.low < found.high:
        bare = _written(found.low, unit, error).removesuffix(_SUFFIXES.get(unit, ""))
        low = f"at most {bare}" if found.low <= least else bare
        text += f" (95 %: {low} to {written(found.high)})"
    return text


def _written(value: float, unit: str, error: float | None = None) -> str:
    """Return a number as text, rounded by its error; with all its digits if there is no error."""
    scale = 100 if unit in ("share", "points") else 1
    digits = f"{scale * value:g}" if error is None else rounded(scale * value, scale * error)
    return f"{digits}{_SUFFIXES.get(unit, '')}"


def _number(value: float) -> float | str | None:
    """Return a number as JSON can hold it."""
    if math.isnan(value):
        return None
    return value if math.isfinite(value) else "infinity"
