"""What every adaptation starts from, as its job gathers it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from damage import keep_time
from freelunch.adaptation.job import AdaptationJob, open_adaptation
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.core import digest
from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.progress import Report, silent
from freelunch.data.documents import read_documents
from freelunch.data.samples import load_tokenizer
from freelunch.model.checkpoint import OUTER, StreamedModel, block_shard
from freelunch.model.mask_store import assemble_model, load_pruned_block, masks_file
from freelunch.model.tensor_file import hidden_file
from freelunch.model.token_ids import TOKENS, read_tokens
from freelunch.pruning.dense_pass import read_statistics, statistics_file
from freelunch.study.retraining import read_adaptation
from freelunch.study.steps import CALIBRATION, DOCUMENTS
from freelunch.study.windows import Window, adapted_windows, group_windows, split_windows
from interrupts import interrupted, stop_at
from refusals import refused
from tiny_models import BLOCKS, Prepared, hidden_folder, prepare, reconstruct
from token_jobs import text_of

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
        masks=[str(prepared.masks.folder / MANIFEST)],
        sample=sample_of(prepared),
        hidden=hidden_folder(prepared.dense.folder),
        folder=prepared.dense.folder.parent / folder,
        settings=read_adaptation(entry).as_json(),
        window=decided,
        precision="bfloat16",
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
    with opened(prepared, job, method="full", epochs=3, skip=2) as adaptation:
        assert adaptation.trained == range(2, 5)
    assert job.counts["tokens"] == 3 * 3 * job.counts["length"] and job.counts["sequences"] == 3


@pytest.mark.parametrize("asked", ["auto", "float32"])
def test_the_plan_decides_the_precision_of_auto_alone(tmp_path: Path, asked: str) -> None:
    """The result keeps both what was asked and what it was."""
    decided = "bfloat16" if asked == "auto" else asked
    with opened(
        prepare(tmp_path), method="reconstruction", window=1, learning_rate=0.01, precision=asked
    ) as job:
        assert job.settings.precision == decided
        facts = reconstruct_windows(job, 1, split_windows(job.model.num_blocks, 1)).facts
    assert facts["settings"]["adaptation"]["precision"] == asked
    assert facts.get("precision") == ("bfloat16" if asked == "auto" else None)


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


def test_a_bit_that_flips_in_what_a_step_reads_ends_it(tmp_path: Path) -> None:
    """Size and time stay as they were: the digest is that of what is read, and no older one."""
    prepared = prepare(tmp_path)
    model, masks, sample = prepared.model, prepared.masks, sample_of(prepared)
    adapted, text = reconstruct(prepared, tmp_path / "blocks"), text_of(tmp_path / "text", ["one"])
    hidden = hidden_folder(prepared.dense.folder)

    def assembled() -> None:
        assemble_model(model, masks, [adapted], tmp_path / "assembled", "fingerprint")

    def adapt() -> None:
        with opened(prepared, method="reconstruction") as job:
            job.states.at(2)

    reads: dict[Path, Callable[[], object]] = {
        model.folder / "config.json": lambda: StreamedModel(model.folder),
        model.folder / OUTER: lambda: StreamedModel(model.folder),
        model.folder / block_shard(1): lambda: model.load_block(1),
        model.folder / "tokenizer.json": lambda: load_tokenizer(model.artifact),
        text.folder / DOCUMENTS: lambda: read_documents(text.folder),
        sample.folder / TOKENS: lambda: read_tokens(sample),
        prepared.dense.folder / statistics_file(1): lambda: read_statistics(prepared.dense, 1),
        hidden / hidden_file(2): adapt,
        masks.folder / masks_file(1): lambda: load_pruned_block(model, masks, 1),
        adapted.folder / block_shard(1): assembled,
    }
    for path, read in reads.items():
        keep_time(path)
        with refused(where=path, found="another sha256"):
            read()
        keep_time(path)
        if read is not assembled:
            read()


def test_a_job_reads_only_the_blocks_that_it_needs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That matters for a model of 72 billion parameters, which 80 jobs share."""
    folder, whole, read = prepare(tmp_path).model.folder, digest.file_digest, set[str]()

    def noting(path: Path) -> str:
        read.add(path.name)
        return whole(path)

    monkeypatch.setattr(digest, "file_digest", noting)
    StreamedModel(folder).load_block(1)
    assert {name for name in read if name.endswith(".safetensors")} == {OUTER, block_shard(1)}


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
