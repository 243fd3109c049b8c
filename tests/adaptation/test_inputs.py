"""What every adaptation starts from, as its job gathers it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from freelunch.adaptation.inputs import adaptation_inputs
from freelunch.core.artifact import MANIFEST
from freelunch.core.errors import UserError
from freelunch.core.progress import silent
from freelunch.study.adaptation_entries import read_adaptation
from tiny_models import Prepared, hidden_folder, prepare


def job() -> Any:
    return SimpleNamespace(device="cpu", counts={}, report=silent)


def snakemake(prepared: Prepared, **settings: Any) -> Any:
    """Return the object that Snakemake would hand to the script."""
    base = prepared.dense.folder.parent
    folders = {"model": prepared.model.folder, "masks": prepared.masks.folder}
    folders["sample"] = base / "calibration"
    return SimpleNamespace(
        input=SimpleNamespace(**{name: str(it / MANIFEST) for name, it in folders.items()}),
        output=SimpleNamespace(manifest=str(base / "adapted" / MANIFEST)),
        params=SimpleNamespace(
            settings=read_adaptation(settings).as_json(),
            hidden=str(hidden_folder(prepared.dense.folder)),
            code="code",
            stop_at_divergence=True,
        ),
        wildcards=SimpleNamespace(model="tiny", seed="3"),
    )


def test_a_job_counts_what_passes_in_all_epochs(tmp_path: Path) -> None:
    prepared, running = prepare(tmp_path, sequences=5), job()
    given = snakemake(prepared, method="full", epochs=3)
    with adaptation_inputs(given, running) as inputs:
        assert inputs["settings"] == read_adaptation({"method": "full", "epochs": 3})
        assert inputs["seed"] == 3
    assert running.counts["tokens"] == 3 * running.counts["sequences"] * running.counts["length"]
    assert running.counts["sequences"] == 5
    assert running.counts["adaptation"] == given.params.settings


@pytest.mark.parametrize("method", ["reconstruction", "full", "norms"])
def test_a_float16_checkpoint_is_not_trained(tmp_path: Path, method: str) -> None:
    """Also if no entry says that it is one: its own config.json does."""
    given = snakemake(prepare(tmp_path, dtype="float16"), method=method)
    with pytest.raises(UserError) as caught, adaptation_inputs(given, job()):
        pass
    assert str(caught.value) == (
        "models.tiny.dtype: gradients vanish in float16\n"
        "  found:    float16, the checkpoint's own\n"
        "  expected: bfloat16 or float32\n"
        "  to do:    set `dtype` in the model's entry"
    )


def test_least_squares_needs_no_gradient(tmp_path: Path) -> None:
    given = snakemake(prepare(tmp_path, dtype="float16"), method="least_squares")
    with adaptation_inputs(given, job()) as inputs:
        assert inputs["settings"].method == "least_squares"


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_checkpoints_of_other_precisions_are_trained(tmp_path: Path, dtype: str) -> None:
    given = snakemake(prepare(tmp_path, dtype=dtype), method="reconstruction")
    with adaptation_inputs(given, job()) as inputs:
        assert inputs["states"].sequences == 6
