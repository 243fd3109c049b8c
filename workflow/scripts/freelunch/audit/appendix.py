"""The artifact appendix: for each claim, the command that repeats it, its time, and the result.

An auditor who runs the command in a fresh clone gets the records behind the claim's numbers, and
compares them with those of the study.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.analysis.pairing import Records
from freelunch.audit.claims import snakemake
from freelunch.audit.page_cells import duration, significant
from freelunch.audit.provenance import gather_costs
from freelunch.study.cell import Cell
from freelunch.study.study import Study

_COSTS = ("jobs", "wall_s", "cpu_s", "flops")
# What an auditor may expect of a rerun, a paragraph each.
EXPECTATIONS = (
    "In a fresh clone, `make env` makes the environment, and `source .venv/bin/activate` activates "
    "it. The command of a claim then makes the records of all cells that the claim compares. "
    "`make compare` says whether they are those of this study, if FOLDER is a copy of its results.",
    "The times are those in the records, of all jobs one after another, on the machines that "
    "`audit.json` lists under `provenance`. Jobs that run side by side take less; downloads are "
    "not included. `make plan` predicts the time of the whole study on another machine.",
    "With the same machine and threads, each number is expected to be equal to the last digit, and "
    "on other machines up to rounding. With other samples, orders or texts it is expected to "
    "differ. The 95 % interval is for the true value: another measurement has an error of its own, "
    "so it lies outside of the interval in more than 5 % of cases.",
)


def gather_appendix(
    study: Study, records: Records, claims: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return, for each claim of which a number was measured, how to repeat it and what to expect.

    Args:
        study: The study.
        records: The record of each of its cells.
        claims: As `freelunch.audit.claims.audit_claims` returns them.
    """
    return [entry for claim in claims if (entry := _entry(study, records, claim)) is not None]


def _entry(study: Study, records: Records, claim: Mapping[str, Any]) -> dict[str, Any] | None:
    found = [
        (part, finding)
        for part in claim["parts"]
        for finding in part["findings"]
        if finding["text"]
    ]
    cells = sorted({Cell.parse(cell) for _, finding in found for cell in finding["cells"]})
    if not cells:
        return None
    # Every cell is evaluated after the dense model.
    cells = sorted({*cells, *(Cell.dense(cell.model) for cell in cells)})
    costs = gather_costs({cell: records[cell] for cell in cells})
    targets = " ".join(str(study.paths.record(cell)) for cell in cells)
    return {
        "id": claim["id"],
        "title": claim["title"],
        "verdict": claim["verdict"],
        "cells": len(cells),
        **{key: sum(row[key] for row in costs) for key in _COSTS},
        "command": f"{snakemake(study.source)} -- {targets}",
        "expected": [
            {
                "says": part["says"],
                "subject": finding["subject"],
                "text": finding["text"],
                "threshold": part["threshold"],
                "verdict": finding["verdict"],
            }
            for part, finding in found
        ],
    }


def appendix_text(audit: Mapping[str, Any]) -> str:
    """Return the artifact appendix of an audit as Markdown."""
    return "\n".join(_lines(audit)) + "\n"


def _lines(audit: Mapping[str, Any]) -> Iterator[str]:
    yield f"# How to check the study `{audit['study']}`, claim by claim"
    for paragraph in EXPECTATIONS:
        yield from ("", paragraph)
    yield from ("", "```console")
    yield f"$ make plan STUDY={shlex.quote(audit['config_file'])}"
    yield f"$ make compare A=results/{audit['study']} B=FOLDER"
    yield "```"
    for claim in audit["appendix"]:
        yield from ("", f"## {claim['id']}: {claim['title']}", "")
        yield f"Found here: **{claim['verdict']}**. {cost_text(claim)}"
        yield from ("", "```console", f"$ {claim['command']}", "```", "")
        yield from ("| part | number | expected | threshold | verdict |", "|---|---|---|---|---|")
        for each in claim["expected"]:
            keys = ("says", "subject", "text", "threshold", "verdict")
            yield f"| {' | '.join(each[key] for key in keys)} |"
    if not audit["appendix"]:
        yield from ("", "This study asks about none of the paper's claims.")


def cost_text(claim: Mapping[str, Any]) -> str:
    """Return what it cost to make the records of a claim, in a sentence."""
    return (
        f"{claim['cells']} cells, {claim['jobs']:,} jobs: {duration(claim['wall_s'])} of wall time "
        f"and {duration(claim['cpu_s'])} of processor time, {significant(claim['flops'] / 1e12)} "
        "TFLOP."
    )
