"""Made-up records that the schema accepts, for tests of code that reads records."""

import copy
import hashlib
import json
import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from freelunch.core.digest import json_digest, sealed
from freelunch.core.files import write_json
from freelunch.study.adaptations import Adaptation
from freelunch.study.cell import NONE, Cell
from freelunch.study.search import candidates_of
from freelunch.study.steps import CAPTURE_DENSE, EVALUATE_CELL, PRUNE_MODEL, SAMPLE_CALIBRATION
from freelunch.study.study import Study

WINDOWS = 32
LENGTH = 512
# Typical perplexities of a 135M model on an encyclopedia, 50 % unstructured sparsity.
PERPLEXITIES = {
    "tiny/dense/none/seed0": 20.5,
    "tiny/magnitude-u50/none/seed0": 307.0,
    "tiny/magnitude-u50/recon_block/seed0": 144.0,
    "tiny/wanda-u50/none/seed0": 46.0,
    "tiny/wanda-u50/recon_block/seed0": 39.0,
}


WHEEL = {"source": "wheel", "package": "some-package", "version": "1.2.3", "sha256": "0" * 64}


CONFIG: dict[str, Any] = {
    "models": {name: {**WHEEL, "member": f"{name}.gguf"} for name in ("tiny", "tiny-2")},
    "texts": {
        "calibration-text": {**WHEEL, "member": "c4.utf8", "format": "lines"},
        "evaluation-text": {**WHEEL, "member": "wiki.utf8", "format": "doc_tags"},
    },
    "criteria": {"magnitude": {"score": "magnitude"}, "wanda": {"score": "wanda"}},
    "adaptations": {"recon_block": {"method": "reconstruction", "learning_rate": 0.001}},
    "study": {
        "name": "made-up",
        "calibration": {"text": "calibration-text", "samples": 32, "length": 256},
        "evaluation": {
            "perplexity": {"text": "evaluation-text", "length": LENGTH, "windows": WINDOWS}
        },
        "grids": [
            {
                "models": ["tiny"],
                "criteria": ["magnitude", "wanda"],
                "patterns": ["u50"],
                "adaptations": ["none", "recon_block"],
                "seeds": [0],
            }
        ],
    },
}


def make_study(
    more_adaptations: Mapping[str, Mapping[str, Any]] | None = None,
    more_criteria: Mapping[str, Mapping[str, Any]] | None = None,
    **grid: Sequence[Any],
) -> Study:
    """Return a study; `grid` replaces entries of its only grid, e.g. `seeds=[0, 1]`."""
    config = copy.deepcopy(CONFIG)
    config["adaptations"] |= more_adaptations or {}
    config["criteria"] |= more_criteria or {}
    config["study"]["grids"][0] |= grid
    return Study.check(config, "made-up.yaml")


def make_losses(cell: Cell, perplexity: float, windows: int = WINDOWS) -> list[float]:
    """Return losses of windows whose mean is log(perplexity).

    Some windows are harder than others for all cells; each cell adds a little noise of its own.
    """
    common, own = random.Random("windows"), random.Random(str(cell))
    losses = [common.gauss(0, 0.2) + own.gauss(0, 0.03) for _ in range(windows)]
    shift = math.log(perplexity) - math.fsum(losses) / windows
    return [loss + shift for loss in losses]


def make_record(study: Study, cell: Cell, losses: Sequence[float | None]) -> dict[str, Any]:
    """Return a record; if a loss is None, the record's perplexity is None too."""
    spec = study.spec(cell)
    zeros = 32 * 32 if cell.is_pruned else 0
    record = {
        "cell": str(cell),
        "spec": spec,
        "fingerprint": json_digest(spec),
        "metrics": {"perplexity": _perplexity(study, losses)},
        "identity": {
            "sparsity": zeros / 2048,
            "zeros": zeros,
            "weights": 2048,
            "parameters": 3072,
            "stored_bytes": 13000,
            "matrices": {"blocks.0.proj": {"rows": 32, "columns": 64, "zeros": zeros}},
            "checkpoint_sha256": hashlib.sha256(str(cell).encode()).hexdigest(),
        },
        "pruning": {"notes": {}} if cell.is_pruned else None,
        "adaptation": _adaptation(study, cell),
        "cost": _cost(study, cell),
        "provenance": {
            "environments": {},
            "finished": {EVALUATE_CELL: f"2026-09-21T14:13:{20 - cell.seed}+00:00"},
            "digests": {},
            "model_origin": {},
            "text_origins": {},
            "seed": cell.seed,
        },
    }
    return sealed(record)


def make_records(
    study: Study, perplexities: Mapping[str, float | None]
) -> dict[Cell, dict[str, Any]]:
    """Return records of a study's cells; a cell without a given perplexity gets a random one."""
    records = {}
    for cell in study.cells:
        own = 30 + random.Random(str(cell)).random() * 100
        perplexity = perplexities.get(str(cell), own)
        losses: list[float | None] = [*make_losses(cell, perplexity or own)]
        if perplexity is None:
            losses[3] = None
        records[cell] = make_record(study, cell, losses)
    return records


def recorded_study() -> Study:
    """Return a study whose records are below the current folder."""
    study = make_study()
    write_records(study, make_records(study, PERPLEXITIES))
    return study


def write_records(study: Study, records: Mapping[Cell, Mapping[str, Any]]) -> None:
    """Write records where `load_records` looks for them: below the current folder."""
    for cell, record in records.items():
        write_json(study.paths.record(cell), sealed(record))


def _perplexity(study: Study, losses: Sequence[float | None]) -> dict[str, Any]:
    known = [loss for loss in losses if loss is not None]
    mean = math.fsum(known) / len(known)
    variance = math.fsum((loss - mean) ** 2 for loss in known) / (len(known) - 1)
    error = math.sqrt(variance / len(known))
    facts = {
        "perplexity": math.exp(mean),
        "perplexity_standard_error": math.exp(mean) * error,
        "loss": mean,
        "loss_standard_error": error,
        "byte_perplexity": math.exp(mean / 4),
        "word_perplexity": math.exp(2 * mean),
        "bits_per_byte": mean / 4 / math.log(2),
    }
    return {
        **(facts if len(known) == len(losses) else dict.fromkeys(facts)),
        "window_losses": list(losses),
        "windows": len(losses),
        "length": LENGTH,
        "stride": LENGTH,
        "tokens": len(losses) * LENGTH,
        "predicted_tokens": len(losses) * (LENGTH - 1),
        "bytes": 4 * len(losses) * (LENGTH - 1),
        "words": len(losses) * (LENGTH - 1) // 2,
        "token_ids_sha256": hashlib.sha256(b"tokens").hexdigest(),
        "settings": study.perplexity.model_dump(include={"length", "windows", "stride"}),
        "checkpoint": "1" * 64,
        "text": "2" * 64,
    }


def _adaptation(study: Study, cell: Cell) -> dict[str, Any] | None:
    settings = study.adaptation(cell.adaptation)
    if settings is None:
        return None
    samples, calibration = study.samples(cell.adaptation), study.calibration
    losses = {f"{block}-{block}": {"before": 2.0, "after": 1.0} for block in range(4)}
    return {
        "window": settings.window,
        "windows": 4,
        "windows_kept_pruned": 0,
        "samples": samples,
        "distinct_tokens": samples * calibration.length - 5,
        "steps": samples // 2,
        "trained_parameters": 1024,
        "training_losses": [3.0, 2.0] if settings.is_retraining else None,
        "losses": losses,
        "choice": _choice(settings),
    }


def _choice(settings: Adaptation) -> dict[str, Any] | None:
    """Return the choice of the last candidate; None if there are no candidates."""
    found = candidates_of("any", settings)
    if not found:
        return None
    reached = {"perplexity": 50.0, "perplexity_standard_error": 2.0, "windows_kept_pruned": 0}
    candidates = {
        name: {"learning_rate": each.rate, "epochs": each.passes, **reached}
        for name, each in found.items()
    }
    return {"selected_on": settings.select_on, "chosen": [*found][-1], "candidates": candidates}


def _cost(study: Study, cell: Cell) -> dict[str, Any]:
    def step(wall_s: float, **more: int) -> dict[str, Any]:
        return {"jobs": 1, "wall_s": wall_s, "cpu_s": wall_s, "peak_bytes": 10**9, **more}

    cost = {EVALUATE_CELL: step(20.5, tokens=16384)}
    if not cell.is_dense:
        cost[SAMPLE_CALIBRATION] = step(2.25)
        cost[CAPTURE_DENSE] = step(11.5, tokens=8192)
        cost[PRUNE_MODEL] = step(3.75)
    if cell.adaptation != NONE:
        settings = study.adaptation(cell.adaptation)
        assert settings is not None
        times = study.comparisons.sequences[cell.adaptation] / study.calibration.samples
        cost[settings.rule] = step(
            94.0 + cell.seed, tokens=int(8192 * times), flops=int(5 * 10**12 * times)
        )
    return json.loads(json.dumps(cost))
