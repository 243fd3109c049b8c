"""What every adaptation starts from, as its job gathers it."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from freelunch.adaptation.inputs import adaptation_inputs
from freelunch.adaptation.reconstruction.driver import reconstruct_windows
from freelunch.core.artifact import MANIFEST, Artifact, fingerprint
from freelunch.core.errors import UserError
from freelunch.core.progress import Report, silent
from freelunch.model import token_ids
from freelunch.model.checkpoint import block_shard
from freelunch.study.retraining import read_adaptation
from freelunch.study.windows import Window, adapted_windows, split_windows
from tiny_models import BLOCKS, Prepared, hidden_folder, prepare

AUTO = {"method": "reconstruction", "window": "auto", "memory_gb": 4.0, "learning_rate": 0.003}


def job(report: Report = silent) -> Any:
    return SimpleNamespace(device="cpu", counts={}, report=report)


def snakemake(
    prepared: Prepared, folder: str = "adapted", decided: Window = 1, **settings: Any
) -> Any:
    """Return the object that Snakemake would hand to the script."""
    base = prepared.dense.folder.parent
    folders = {"model": prepared.model.folder, "masks": prepared.masks.folder}
    folders["sample"] = base / "calibration"
    return SimpleNamespace(
        input=SimpleNamespace(**{name: str(it / MANIFEST) for name, it in folders.items()}),
        output=SimpleNamespace(manifest=str(base / folder / MANIFEST)),
        params=SimpleNamespace(
            settings=read_adaptation(settings).as_json(),
            hidden=str(hidden_folder(prepared.dense.folder)),
            code="code",
            stop_at_divergence=True,
            window=decided,
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


class Interrupted(Exception):
    pass


def adapt(
    prepared: Prepared,
    folder: str,
    decided: Window,
    others: Sequence[Path] = (),
    interrupted_after: int | None = None,
) -> Artifact:
    """Adapt all blocks in the window that a plan decided for `window: auto`.

    An interrupted job leaves so many windows and a journal.
    """

    def report(done: int, of: int, what: str) -> None:
        if done == interrupted_after:
            raise Interrupted

    given = snakemake(prepared, folder, decided, **AUTO)
    windows = split_windows(BLOCKS, decided)
    with adaptation_inputs(given, job(report)) as inputs:
        return reconstruct_windows(window=decided, windows=windows, others=others, **inputs)


def test_an_attempt_with_another_decided_window_is_not_resumed(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, sequences=4)
    with pytest.raises(Interrupted):
        adapt(prepared, "adapted/1-of-1", 1, interrupted_after=2)
    resumed = adapt(prepared, "adapted/1-of-1", 2)
    assert list(adapted_windows([resumed])) == ["0-1", "2-2"]
    assert resumed.digest == adapt(prepared, "fresh/1-of-1", 2).digest


@pytest.mark.parametrize(("decided", "taken_over"), [(1, True), (2, False)])
def test_another_grouping_takes_over_blocks_of_the_same_decided_window_only(
    tmp_path: Path, decided: Window, taken_over: bool
) -> None:
    prepared = prepare(tmp_path, sequences=4)
    before = adapt(prepared, "adapted/1-of-1", 1)
    after = adapt(prepared, "adapted/1-of-2", decided, others=[before.folder])
    assert after.digest == adapt(prepared, "fresh/1-of-1", decided).digest
    shards = [artifact.path(block_shard(0)) for artifact in (before, after)]
    assert shards[0].samefile(shards[1]) == taken_over


def test_the_fingerprint_of_an_explicit_window_holds_the_settings_as_written(
    tmp_path: Path,
) -> None:
    """Finished blocks of earlier runs stay valid."""
    prepared = prepare(tmp_path)
    given = snakemake(prepared, decided=2, method="reconstruction", window=2)
    with adaptation_inputs(given, job()) as inputs:
        found = inputs["fingerprint"]
    sample = Artifact.at(given.input.sample, token_ids.KIND)
    made_from = prepared.model.artifact, sample, prepared.masks
    assert found == fingerprint("code", [given.params.settings, 3], *made_from)
