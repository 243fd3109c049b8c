"""What every adaptation starts from, as its job gathers it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from freelunch.adaptation.job import AdaptationJob, open_adaptation
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.core.artifact import Artifact
from freelunch.core.progress import Report, silent
from freelunch.model.checkpoint import block_shard
from freelunch.model.mask_store import assemble_model
from freelunch.study.retraining import read_adaptation
from freelunch.study.steps import CALIBRATION
from freelunch.study.windows import Window, adapted_windows, group_windows, split_windows
from interrupts import interrupted, stop_at
from refusals import refused
from tiny_models import BLOCKS, Prepared, hidden_folder, prepare

AUTO = {"method": "reconstruction", "window": "auto", "memory_gb": 4.0, "learning_rate": 0.003}


def running(report: Report = silent) -> Any:
    return SimpleNamespace(device="cpu", counts={}, report=report)


def sample_of(prepared: Prepared) -> Artifact:
    return Artifact(prepared.dense.folder.parent / "calibration", CALIBRATION)


def opened(
    prepared: Prepared, job: Any = None, folder: str = "adapted", decided: Window = 1, **entry: Any
) -> AbstractContextManager[AdaptationJob[Any]]:
    return open_adaptation(
        job or running(),
        model=prepared.model.folder,
        masks=prepared.masks,
        sample=sample_of(prepared),
        hidden=hidden_folder(prepared.dense.folder),
        folder=prepared.dense.folder.parent / folder,
        settings=read_adaptation(entry).as_json(),
        window=decided,
        seed=3,
        code="code",
        entry="models.tiny",
        stop_at_divergence=True,
    )


def test_a_job_counts_what_passes_in_all_epochs(tmp_path: Path) -> None:
    prepared, job = prepare(tmp_path, sequences=5), running()
    entry = read_adaptation({"method": "full", "epochs": 3})
    with opened(prepared, job, **entry.as_json()) as adaptation:
        assert adaptation.settings == entry and adaptation.seed == 3
    assert job.counts["tokens"] == 3 * job.counts["sequences"] * job.counts["length"]
    assert job.counts["sequences"] == 5 and job.counts["adaptation"] == entry.as_json()


@pytest.mark.parametrize(
    ("dtype", "method", "is_trained"),
    [
        ("float16", "reconstruction", False),
        ("float16", "full", False),
        ("float16", "norms", False),
        # It needs no gradient.
        ("float16", "least_squares", True),
        ("bfloat16", "reconstruction", True),
        ("float32", "reconstruction", True),
    ],
)
def test_a_float16_checkpoint_is_not_trained(
    tmp_path: Path, dtype: str, method: str, is_trained: bool
) -> None:
    """Also if no entry says that it is one: its own config.json does."""
    job = opened(prepare(tmp_path, dtype=dtype), method=method)
    if is_trained:
        with job as adaptation:
            assert adaptation.states.sequences == 6
        return
    with (
        refused(where="models.tiny.dtype", found="float16", expected="bfloat16", todo="dtype"),
        job,
    ):
        pass


def adapt(
    prepared: Prepared,
    folder: str,
    decided: Window,
    others: Sequence[Path] = (),
    report: Report = silent,
) -> Artifact:
    """Adapt all blocks in the window that a plan decided for `window: auto`."""
    with opened(prepared, running(report), folder, decided, **AUTO) as job:
        return reconstruct_windows(job, decided, split_windows(BLOCKS, decided), others)


def test_an_attempt_with_another_decided_window_is_not_resumed(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, sequences=4)
    interrupted(lambda: adapt(prepared, "adapted/1-of-1", 1, report=stop_at(2)))
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


def test_a_checkpoint_does_not_depend_on_how_many_jobs_made_its_windows(tmp_path: Path) -> None:
    prepared = prepare(tmp_path, sequences=4)
    windows, checkpoints = split_windows(BLOCKS, 1), []
    for groups in (1, 2):
        parts = []
        for group in range(1, groups + 1):
            folder = f"windows-{groups}/{group}-of-{groups}"
            with opened(prepared, running(silent), folder, 1, **AUTO) as job:
                own = group_windows(windows, group, groups)
                parts.append(reconstruct_windows(job, 1, own, []))
        folder = tmp_path / f"checkpoint-{groups}"
        made = assemble_model(prepared.model, prepared.masks, parts, folder, "fingerprint")
        checkpoints.append(made)
        # As earlier versions wrote it, if one job made all.
        assert len(parts) > 1 or made.facts["adapted"] == [parts[0].digest]
    assert checkpoints[0].digest == checkpoints[1].digest
