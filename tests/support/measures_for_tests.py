"""Made-up studies, and parts of claims audited on them, for tests of measures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from claims_for_tests import make_claim, verdicts_on
from freelunch.audit.evidence import Evidence
from freelunch.audit.measures import MEASURES
from freelunch.evaluation.tasks import answers_bytes
from freelunch.records.read import answers_beside
from records_for_tests import make_records, make_study

NOWHERE = Path("nowhere")
# A window of one matrix has no norms, so no window trains them.
BLOCK: dict[str, Any] = {"method": "reconstruction", "train_norms": False}
ON_TEST: dict[str, Any] = {"learning_rate": [0.001, 0.01], "select_on": "evaluation"}
ENTRIES: dict[str, dict[str, Any]] = {
    "recon_halves": {**BLOCK, "window": "attention_mlp"},
    "recon_all": {**BLOCK, "window": "all"},
    "recon_all_cosine": {**BLOCK, "window": "all", "loss": "negative_cosine"},
    "recon_all_again": {**BLOCK, "window": "all", "samples": 4, "epochs": 8},
    "recon_matrix": {**BLOCK, "window": "matrix"},
    "recon_exact": {"method": "least_squares"},
    "full_half": {"method": "full", "budget": {"times": 0.5, "of": "recon_block"}},
    "full": {"method": "full", "budget": {"times": 1, "of": "recon_block"}},
    "full_3": {"method": "full", "budget": {"times": 3, "of": "recon_block"}},
    "full_20": {"method": "full", "budget": {"times": 20, "of": "recon_block"}},
    "norms_half": {"method": "norms", "budget": {"times": 0.5, "of": "recon_block"}},
    "norms_20": {"method": "norms", "budget": {"times": 20, "of": "recon_block"}},
    "distilled": {"method": "full", "loss": "distillation"},
    "full_fast": {"method": "full", "learning_rate": 0.01},
    "recon_fast": {**BLOCK, "learning_rate": 0.01},
    "recon_on_test": {**BLOCK, **ON_TEST},
    "on_test_half": {"method": "full", **ON_TEST, "budget": {"times": 0.5, "of": "recon_block"}},
    "on_test_20": {"method": "full", **ON_TEST, "budget": {"times": 20, "of": "recon_block"}},
    "halves_on_test": {**BLOCK, **ON_TEST, "window": "attention_mlp"},
}
# Dense has 20.
BASE = {"dense none": 20.0, "wanda none": 60.0, "wanda recon_block": 40.0}


def audited(
    measure: str,
    holds: dict[str, float],
    perplexities: Mapping[str, float | None],
    settings: dict[str, Any] | None = None,
    metric: str = "perplexity",
    folder: Path = NOWHERE,
    answers: Mapping[str, str] | None = None,
    peaks: Mapping[str, Sequence[int]] | None = None,
    data: Mapping[str, int] | None = None,
    **grid: Any,
) -> dict[str, Any]:
    """Return one part of one claim on made-up records; `perplexities` are by criterion and
    adaptation of the model `tiny`, or by cell.
    """
    names = [name for name in ENTRIES if any(key.endswith(name) for key in perplexities)]
    study = make_study(
        {**ENTRIES, "recon_block": BLOCK},
        **{"criteria": ["wanda"], "adaptations": ["none", "recon_block", *names], **grid},
    )
    values = {
        str(cell): value
        for cell in study.cells
        for key, value in perplexities.items()
        if key in (str(cell), f"{cell.criterion} {cell.adaptation}")
    }
    records = make_records(study, values)
    for record in records.values():
        record["identity"]["parameters"] = 1000 if "tiny/" in record["cell"] else 2000
    for cell, record in records.items():
        if of_seeds := (peaks or {}).get(cell.adaptation):
            record["cost"]["reconstruct_window"]["peak_work_bytes"] = of_seeds[cell.seed]
        if distinct := (data or {}).get(cell.adaptation):
            record["adaptation"]["distinct_tokens"] = distinct
        if answers and (bits := answers.get(cell.adaptation if not cell.is_dense else "dense")):
            record["metrics"]["tasks"] = {"tasks": {"rte": {}}}
            content = answers_bytes({"rte": [{"right": bit == "1"} for bit in bits]})
            answers_beside(folder / cell.record_name).write_bytes(content)
    asked: dict[str, Any] = {"holds": holds, "settings": settings or {}}
    if settings is None and measure == "recovery":
        asked["settings"] = {"criteria": grid.get("criteria", ["wanda"])}
    if MEASURES[measure].metrics:
        asked["metric"] = metric
    (claim,) = verdicts_on(Evidence(study, records, folder), [make_claim(measure, **asked)])
    (found,) = claim["parts"]
    assert claim["verdict"] == found["verdict"]
    return found
