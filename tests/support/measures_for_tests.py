"""Made-up claims and studies, and parts of claims audited on them."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from freelunch.audit.audit import json_of
from freelunch.audit.claim_verdicts import audit_claims
from freelunch.audit.claims import Claim
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures import MEASURES
from freelunch.audit.measures.measure import Absent, Measurement
from freelunch.audit.scope import Regimes
from freelunch.evaluation.tasks import answers_bytes
from freelunch.records.read import answers_beside
from records_for_tests import make_records, make_study

NOWHERE = Path("nowhere")
# A window of one matrix has no norms, so no window trains them.
BLOCK: dict[str, Any] = {"method": "reconstruction", "train_norms": False}
ON_TEST: dict[str, Any] = {"learning_rate": [0.001, 0.01], "select_on": "evaluation"}


def times(count: float) -> dict[str, Any]:
    """Return the budget of some times as much text as `recon_block` sees."""
    return {"budget": {"times": count, "of": "recon_block"}}


WINDOWS = {"halves": "attention_mlp", "two": 2, "five": 5, "all": "all", "matrix": "matrix"}
ENTRIES: dict[str, dict[str, Any]] = {
    "recon_block": BLOCK,
    "block_3": {**BLOCK, **times(3)},
    **{f"recon_{name}": {**BLOCK, "window": window} for name, window in WINDOWS.items()},
    **{f"{name}_3": {**BLOCK, "window": window, **times(3)} for name, window in WINDOWS.items()},
    "recon_all_cosine": {**BLOCK, "window": "all", "loss": "negative_cosine"},
    "recon_all_again": {**BLOCK, "window": "all", "samples": 4, "epochs": 8},
    "recon_exact": {"method": "least_squares"},
    "full_half": {"method": "full", **times(0.5)},
    **{
        name if count == 1 else f"{name}_{count}": {"method": name, **times(count)}
        for name in ("full", "masklora")
        for count in (1, 3, 10, 20)
    },
    "norms_half": {"method": "norms", **times(0.5)},
    "norms_1": {"method": "norms"},
    "recon_sparse": {**BLOCK, "inputs": "sparse"},
    "block_repeated": {**BLOCK, "samples": 2, "epochs": 4},
    "full_repeated": {"method": "full", "samples": 2, "epochs": 4},
    "norms_20": {"method": "norms", **times(20)},
    "distilled": {"method": "full", "loss": "distillation"},
    "full_fast": {"method": "full", "learning_rate": 0.01},
    "recon_fast": {**BLOCK, "learning_rate": 0.01},
    "recon_on_test": {**BLOCK, **ON_TEST},
    "on_test_half": {"method": "full", **ON_TEST, **times(0.5)},
    "on_test_20": {"method": "full", **ON_TEST, **times(20)},
    "halves_on_test": {**BLOCK, **ON_TEST, "window": "attention_mlp"},
}
CRITERIA = ("magnitude", "random", "ria", "sparsegpt", "wanda")
# Dense has 20.
BASE = {"dense none": 20.0, "wanda none": 60.0, "wanda recon_block": 40.0}


def make_claim(measure: str, **changes: Any) -> dict[str, Any]:
    """Return a claim with one part, as a file of claims has it; `changes` are of the part."""
    part = {
        "says": "it is so",
        "measure": measure,
        "holds": {"above": 0},
        "set": {"by": "us", "date": "2026-11-27", "after_results": True},
        "why": "so",
    }
    return {
        "id": "C",
        "title": "A title",
        "statement": "A statement.",
        "source": "somewhere",
        "parts": [part | changes],
    }


def verdicts_on(
    evidence: Evidence, claims: Iterable[Mapping[str, Any] | Claim], regimes: Regimes | None = None
) -> list[dict[str, Any]]:
    """Return the verdicts on claims, or on entries of a file of claims, as the audit's JSON."""
    asked = [each if isinstance(each, Claim) else Claim.of(each) for each in claims]
    return [json_of(verdict) for verdict in audit_claims(evidence, asked, regimes)]


def make_evidence(
    perplexities: Mapping[str, float | None],
    left_out: Collection[str] = (),
    folder: Path = NOWHERE,
    answers: Mapping[str, str] | None = None,
    peaks: Mapping[str, Sequence[int]] | None = None,
    **grid: Any,
) -> Evidence:
    """Return the evidence of made-up records.

    Args:
        perplexities: By criterion and adaptation, by adaptation, or by cell. The study has the
            criteria, adaptations and models that these name, unless `grid` names others.
        left_out: Cells that were not run.
        folder: Where the answers are written.
        answers: For each adaptation, a bit for each question of a task.
        peaks: The peak memory of each adaptation's own work, for each seed.
        grid: Entries of the study's grid.
    """
    words = [key.replace("-u50", "").replace("/", " ").split() for key in perplexities]
    named = {word for each in words for word in each}
    criteria = [each for each in CRITERIA if each in named]
    study = make_study(
        {name: entry for name, entry in ENTRIES.items() if name in {*named, "recon_block"}},
        {each: {"score": each} for each in CRITERIA},
        **{
            "models": [each for each in ("tiny-2", "tiny") if each in named] or ["tiny"],
            "criteria": criteria or ["wanda"],
            "adaptations": ["none", *(each for each in ENTRIES if each in named)],
            **grid,
        },
    )
    values = {}
    for cell in study.cells:
        for key in (str(cell), f"{cell.criterion} {cell.adaptation}", cell.adaptation):
            if key in perplexities and (key != "none" or not cell.is_dense):
                values[str(cell)] = perplexities[key]
                break
    values = {"tiny/dense/none/seed0": 20.0, "tiny-2/dense/none/seed0": 20.0} | values
    records = make_records(study, values)
    for cell, record in records.items():
        record["identity"]["parameters"] = 1000 if cell.model == "tiny" else 2000
        if of_seeds := (peaks or {}).get(cell.adaptation):
            record["cost"]["reconstruct_window"]["peak_work_bytes"] = of_seeds[cell.seed]
        if answers and (bits := answers.get(cell.adaptation if not cell.is_dense else "dense")):
            record["metrics"]["tasks"] = {"tasks": {"rte": {}}}
            # With so many choices, nobody guesses right.
            choices = {"log_likelihoods": [0.0] * 10_000}
            content = answers_bytes({"rte": [{**choices, "right": bit == "1"} for bit in bits]})
            answers_beside(folder / cell.record_name).write_bytes(content)
    kept = {cell: record for cell, record in records.items() if str(cell) not in left_out}
    return Evidence(study, kept, folder)


def asked_of(
    measure: str, settings: Mapping[str, Any], evidence: Evidence, metric: str = "perplexity"
) -> list[Measurement | Absent]:
    """Return what a measure asks of evidence."""
    return list(MEASURES[measure].ask(evidence, {**settings, "metric": metric}))


def audited(
    measure: str,
    holds: Mapping[str, float],
    perplexities: Mapping[str, float | None],
    settings: Mapping[str, Any] | None = None,
    metric: str = "perplexity",
    **more: Any,
) -> dict[str, Any]:
    """Return the only part of a claim on made-up records, which `make_evidence` makes."""
    asked: dict[str, Any] = {"holds": dict(holds), "settings": dict(settings or {})}
    if MEASURES[measure].metrics:
        asked["metric"] = metric
    evidence = make_evidence(perplexities, **more)
    (claim,) = verdicts_on(evidence, [make_claim(measure, **asked)])
    (found,) = claim["parts"]
    assert claim["verdict"] == found["verdict"]
    return dict(found)
