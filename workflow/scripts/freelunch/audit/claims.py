"""Test the claims of `workflow/data/claims.yaml` on the records of a study."""

import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import jsonschema

from freelunch.analysis.intervals import estimate
from freelunch.analysis.pairing import ENOUGH_SEEDS
from freelunch.audit.data import DATA, checked
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import Absent, Measurement
from freelunch.audit.numbers import (
    estimate_json,
    json_number,
    number_text,
    seeds_texts,
)
from freelunch.audit.scope import Regime, Regimes, Scope, load_regimes
from freelunch.audit.verdicts import (
    ADDS,
    COUNTS,
    DECIDES,
    OPEN,
    TOO_SMALL,
    UNTESTED,
    bearing,
    judge,
    of_claim,
    of_few_seeds,
    tally,
    threshold_text,
    together,
)
from freelunch.core.errors import UserError, first_of, nearest
from freelunch.reporting.formatting import NOT_FINITE
from freelunch.study.cell import Cell
from freelunch.study.criteria import CRITERIA
from freelunch.study.steps import EVALUATE_CELL
from freelunch.study.study import Study

CLAIMS = DATA / "claims.yaml"
Claim = Mapping[str, Any]
# Why there are no findings.
NO_CELLS = "This study has no cells to test it on."
UNFINISHED = "No cells to test it on have finished."


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
        for number, part in enumerate(claim.get("in_tables", [])):
            _check_part(part, f"{path}: {claim['id']}.in_tables.{number}")
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
            todo="correct the name, or add the measure to freelunch/audit/measures",
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


def audit_claims(
    evidence: Evidence, claims: Iterable[Claim], regimes: Regimes | None = None
) -> list[dict[str, Any]]:
    """Return the verdict on each claim, its scope and its bearing, with the findings it comes from.

    Args:
        evidence: The study.
        claims: As `load_claims` returns them.
        regimes: As `load_regimes` returns them; by default, those of the paper.

    Raises:
        UserError: A claim names a cell or a criterion that the study does not have.
    """
    regimes = load_regimes() if regimes is None else regimes
    return [_claim(claim, evidence, regimes.get(claim["id"])) for claim in claims]


def _claim(claim: Claim, evidence: Evidence, paper: Regime | None) -> dict[str, Any]:
    asked = [_part(part, claim, evidence, paper) for part in claim["parts"]]
    parts = [part for part, _ in asked]
    verdict = of_claim([(part["verdict"], part["role"]) for part in parts])
    at_scale = of_claim([(there, part["role"]) for part, there in asked])
    own = [part for part in parts if part["role"] != ADDS]
    # What the verdict is about is what decides it.
    about = [part for part in parts if part["role"] == DECIDES] or own
    findings = [finding for part in about for finding in part["findings"]]
    facts = ("id", "title", "statement", "source", "published")
    return {
        **{key: claim.get(key) for key in facts},
        "verdict": verdict,
        "bearing": bearing(at_scale, any(part["bearing"] == TOO_SMALL for part in own)),
        "scope": _scope_text(evidence, findings, paper),
        "parts": parts,
    }


def _part(
    part: Mapping[str, Any], claim: Claim, evidence: Evidence, paper: Regime | None
) -> tuple[dict[str, Any], str]:
    """Return what was found for a part, and the verdict on what has the scale of the paper."""
    metric = part.get("metric")
    settings = {**part.get("settings", {}), "metric": metric}
    criteria = {*evidence.study.config.criteria, *CRITERIA}
    named = [*settings.get("criteria", []), *chain(*settings.get("groups", []))]
    _check_known(named, criteria, "an unknown criterion", claim)
    if "cells" in part:
        evidence = _only(evidence, part["cells"], claim)
    measure = MEASURES[part["measure"]]
    asked, left_out = _counted(measure.ask(evidence, settings))
    findings = [_finding(each, part, evidence) for each in asked]
    unfinished = evidence.study.is_unfinished
    verdict = together([finding["verdict"] for finding in findings], measure.agree)
    # Smaller budgets than the paper's say nothing of its claim. What is missing has no budget.
    measured = [finding for finding in findings if finding["cells"]]
    small = [it for it in measured if _scope(evidence, [it], paper).is_in_part_too_small]
    large = [finding for finding in findings if finding not in small]
    if measured:
        too_small = small == measured
    else:
        # Nor has a plan, but nothing is missing there.
        missing = not asked or any(isinstance(each, Absent) for each in asked)
        too_small = missing and _scope(evidence, [], paper).too_small
    too_small |= any(isinstance(each, Absent) and each.too_small for each in asked)
    at_scale = together([finding["verdict"] for finding in large], measure.agree)
    found = {
        **part_facts(part),
        "verdict": verdict,
        "bearing": bearing(at_scale, too_small),
        "scope": _scope_text(evidence, findings, paper),
        "reason": reason_text(findings, verdict, UNFINISHED if unfinished else NO_CELLS)
        + _left_out_text(left_out),
        "findings": findings,
    }
    return found, at_scale


def _counted(
    asked: Iterable[Measurement | Absent],
) -> tuple[list[Measurement | Absent], list[Absent]]:
    """Return what counts in a part, and what is left out, which counts if there is nothing else."""
    counted: list[Measurement | Absent] = []
    left_out: list[Absent] = []
    for each in asked:
        if isinstance(each, Absent) and each.left_out:
            left_out.append(each)
        else:
            counted.append(each)
    return (counted, left_out) if counted else ([*left_out], [])


def _left_out_text(left_out: Sequence[Absent]) -> str:
    """Return what is left out, in a sentence for each reason."""
    subjects: dict[str, list[str]] = {}
    for each in left_out:
        subjects.setdefault(each.reason, []).append(each.subject)
    return "".join(
        f" Left out, {reason}: {'; '.join(first_of(those))}." for reason, those in subjects.items()
    )


def part_facts(part: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a part asks, whatever it is asked of."""
    measure, metric = MEASURES[part["measure"]], part.get("metric")
    unit = measure.unit_for(metric)
    return {
        "says": part["says"],
        "role": part.get("role", COUNTS),
        "measure": part["measure"],
        "measures": measure.description,
        "quantity": measure.quantity,
        "settings": part.get("settings", {}),
        "metric": metric,
        "threshold": threshold_text(part["holds"], lambda value: number_text(value, unit)),
        "set": part["set"],
        "why_this_threshold": part["why"],
    }


def _scope(
    evidence: Evidence, findings: Sequence[Mapping[str, Any]], paper: Regime | None
) -> Scope:
    """Return the scope of findings; without cells, that of the study."""
    cells = dict.fromkeys(Cell.parse(cell) for finding in findings for cell in finding["cells"])
    seeds = [finding["seeds"] for finding in findings if finding["seeds"]]
    return Scope.of(evidence.study, cells or evidence.study.cells, seeds, paper)


def _scope_text(
    evidence: Evidence, findings: Sequence[Mapping[str, Any]], paper: Regime | None
) -> str | None:
    """Return the scope of findings in words; None without cells."""
    if not any(finding["cells"] for finding in findings):
        return None
    return _scope(evidence, findings, paper).text


def _only(evidence: Evidence, names: Sequence[str], claim: Claim) -> Evidence:
    """Return evidence of only some cells and the dense models."""
    known = {str(cell): cell for cell in evidence.study.cells}
    _check_known(names, known, "a cell that the study does not have", claim)
    return evidence.only(lambda cell: cell.is_dense or str(cell) in names)


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
        may_come = evidence.study.is_unfinished and not asked.too_small
        unfinished = "; the study is unfinished" if may_come else ""
        return {
            "subject": asked.subject,
            "verdict": UNTESTED,
            "reason": asked.reason + unfinished,
            "about": "",
            **dict.fromkeys(("value", "low", "high", "known_from", "known_to", "text")),
            **dict.fromkeys(("command", "seeds")),
            "of_seeds": [],
            "text_of_seeds": [],
            "cells": [],
        }
    found = estimate(asked.statistics, asked.samples, asked.pick)
    measure, metric = MEASURES[part["measure"]], part.get("metric")
    unit = measure.unit_for(metric)
    without, undefined = asked.without, asked.undefined
    # A loss that is not finite leaves no number, so that only then losses are read again.
    if metric and math.isnan(found.value):
        diverged = [str(cell) for cell in asked.cells if evidence.diverged([cell], metric)]
        if diverged:
            without, undefined = NOT_FINITE, f"a loss of {', '.join(diverged)} is not finite"
    verdict, reason = judge(
        found, part["holds"], lambda value: number_text(value, unit), asked.bounds, undefined
    )
    # Without a metric, the sample is one of runs, with a seed each.
    of_runs = len({cell.seed for cell in asked.cells}) or None
    of_losses = min((sample.seeds for sample in asked.samples), default=None)
    seeds = of_losses if metric else of_runs
    if chosen := _chosen_on_evaluation(asked.cells, evidence):
        reason += f"; settings of {', '.join(chosen)} were chosen on the evaluation text"
    rule = measure.repeated_by or EVALUATE_CELL
    return {
        "subject": f"{asked.subject}: {asked.about}" if asked.about else asked.subject,
        "about": asked.about,
        "verdict": of_few_seeds(verdict) if seeds in range(1, ENOUGH_SEEDS) else verdict,
        "reason": reason,
        **estimate_json(found, unit, asked.bounds, without),
        "seeds": seeds,
        "of_seeds": [json_number(value) for value in found.of_seeds],
        "text_of_seeds": seeds_texts(found, unit, asked.bounds, without),
        "cells": [str(cell) for cell in asked.cells],
        "command": asked.command or command(evidence.study, asked.cells, rule),
    }


def _chosen_on_evaluation(cells: Iterable[Cell], evidence: Evidence) -> list[str]:
    """Return the adaptations of cells whose settings were chosen on the evaluation text."""
    adaptations = dict.fromkeys(cell.adaptation for cell in cells)
    return [
        name for name in adaptations if name in evidence.study.comparisons.selected_on_evaluation
    ]


def reason_text(findings: Sequence[Mapping[str, Any]], verdict: str, without: str) -> str:
    """Return the reason for the verdict on a part, in a sentence.

    Args:
        findings: The findings of the part.
        verdict: The verdict.
        without: The reason where there are no findings.
    """
    if not findings:
        return without
    if len(findings) == 1:
        return _sentence(findings[0])
    reasons = {finding["reason"] for finding in findings}
    why = f": {reasons.pop()}" if len(reasons) == 1 else ""
    if verdict in OPEN and any(finding["verdict"] not in OPEN for finding in findings):
        why = ", and all have to agree"
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
