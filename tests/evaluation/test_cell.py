"""One evaluation of a cell: one pass for all that is measured, and what of it is kept."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from freelunch.core.artifact import MANIFEST, Artifact
from freelunch.core.files import scratch_folder
from freelunch.core.job_cost import Spent
from freelunch.evaluation.measurements import MeasurementSpec, evaluate_cell
from freelunch.model.checkpoint import OUTER, StreamedModel, block_shard
from freelunch.model.mask_store import assemble_model
from freelunch.model.token_ids import write_tokens
from freelunch.study.steps import METRICS, TEXT_WINDOWS
from measuring import drift_of, identity_of, perplexity_of
from refusals import refused
from tiny_models import BLOCKS, Prepared, prepare, random_tokens, save_calibration

SAMPLES = 3


@dataclass
class Evaluated:
    """A pruned model, and what its evaluation asks for."""

    base: Path
    prepared: Prepared
    checkpoint: Artifact
    parts: list[MeasurementSpec]

    @property
    def folder(self) -> Path:
        return self.base / "metrics"

    def run(
        self, parts: list[MeasurementSpec] | None = None, **arguments: object
    ) -> tuple[Artifact, dict[str, Any]]:
        with scratch_folder(self.base / "scratch") as scratch:
            return evaluate_cell(
                StreamedModel(self.checkpoint.folder),
                self.parts if parts is None else parts,
                self.folder,
                scratch,
                **arguments,  # type: ignore[arg-type]
            )

    def read(self, name: str) -> dict:
        return json.loads((self.folder / f"{name}.json").read_text())


@pytest.fixture
def cell(request: pytest.FixtureRequest, tmp_path: Path) -> Evaluated:
    """The evaluation of a model of the family that a test asks for, or Llama."""
    prepared = prepare(tmp_path, getattr(request, "param", "llama"))
    model = prepared.model
    checkpoint = assemble_model(model, prepared.masks, [], tmp_path / "assembled", "fingerprint")
    windows = write_tokens(
        tmp_path / "windows",
        "fingerprint",
        random_tokens(4, seed=3),
        kind=TEXT_WINDOWS,
        settings={"length": 24},
        **{"stride": None, "bytes": 50, "words": None, "text": "digest of the text"},
        documents=[4, 0, 2, 0],
    )
    held_out = held_out_text(model.artifact, tmp_path / "held_out", random_tokens(5, seed=4))
    parts = [
        MeasurementSpec("identity", {}, [], "code"),
        MeasurementSpec("perplexity", {"length": 24}, [windows.folder], "code"),
        MeasurementSpec("held_out", {}, [held_out.folder], "code"),
        MeasurementSpec("drift", {"samples": SAMPLES}, [model.folder, held_out.folder], "code"),
    ]
    return Evaluated(tmp_path, prepared, checkpoint, parts)


def held_out_text(model: Artifact, folder: Path, input_ids: Tensor) -> Artifact:
    """Write held-out token ids, of which the last SAMPLES are measured."""
    settings = {"samples": len(input_ids) - SAMPLES, "measured": SAMPLES}
    return save_calibration(model, folder, input_ids, settings=settings)


def test_all_is_measured_as_each_by_itself(cell: Evaluated) -> None:
    artifact, _ = cell.run()
    model = StreamedModel(cell.checkpoint.folder)
    expected = {
        "identity": identity_of(model),
        "perplexity": perplexity_of(model, random_tokens(4, seed=3), cell.base),
        "held_out": perplexity_of(model, random_tokens(5, seed=4)[:-SAMPLES], cell.base),
        "drift": drift_of(
            cell.prepared.model, model, random_tokens(5, seed=4)[-SAMPLES:], cell.base
        ),
    }
    for name, metrics in expected.items():
        assert cell.read(name).items() >= metrics.items(), name
        assert cell.read(name)["checkpoint"] == cell.checkpoint.digest
    assert cell.read("perplexity")["text"] == "digest of the text"
    assert cell.read("perplexity")["settings"] == {"length": 24}
    assert set(artifact.files) == {f"{part.name}.json" for part in cell.parts}
    assert Artifact(cell.folder, METRICS).digest == artifact.digest


def test_each_block_is_loaded_once(cell: Evaluated, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[tuple[Path, int]] = []
    load = StreamedModel.load_block

    def note(self: StreamedModel, index: int, folder: Path | None = None) -> object:
        loaded.append((self.folder, index))
        return load(self, index, folder)

    monkeypatch.setattr(StreamedModel, "load_block", note)
    cell.run()
    each = (
        (model, index)
        for model in (cell.checkpoint, cell.prepared.model.artifact)
        for index in range(BLOCKS)
    )
    assert sorted(loaded) == sorted((model.folder, index) for model, index in each)


@pytest.mark.parametrize("shard", [OUTER, block_shard(1)])
def test_a_flipped_byte_stops_the_evaluation(cell: Evaluated, shard: str) -> None:
    path = cell.checkpoint.folder / shard
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    # Not in place: a linked shard is the dense model's, too.
    path.unlink()
    path.write_bytes(content)
    with refused(where=shard):
        cell.run()
    assert not (cell.folder / MANIFEST).exists()


def test_an_unsound_dense_model_is_no_evaluation(cell: Evaluated) -> None:
    with refused(where="perplexity.json", expected="dense_limit = 1"):
        cell.run(dense_limit=1.0)
    assert not (cell.folder / MANIFEST).exists()
    cell.run(dense_limit=1e9)
    assert (cell.folder / MANIFEST).is_file()


def stamps(cell: Evaluated) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in cell.folder.glob("*.json")}


@pytest.mark.parametrize("name", ["perplexity", "drift"])
def test_inputs_of_other_settings_are_refused(cell: Evaluated, name: str) -> None:
    specs = [
        replace(part, settings={"samples": 2}) if part.name == name else part for part in cell.parts
    ]
    with refused(expected={"samples": 2}, todo="--forcerun"):
        cell.run(specs)


def other_held_out(cell: Evaluated, spec: MeasurementSpec) -> MeasurementSpec:
    tokens = random_tokens(6, seed=4)
    other = held_out_text(cell.prepared.model.artifact, cell.base / "longer", tokens)
    return replace(spec, inputs=[other.folder])


def recoded(cell: Evaluated, spec: MeasurementSpec) -> MeasurementSpec:
    return replace(spec, code="other")


ALL = {"identity", "perplexity", "held_out", "drift"}


@pytest.mark.parametrize(
    ("change", "name", "anew", "again"),
    [
        (lambda _, spec: spec, "drift", False, set()),
        (lambda _, spec: spec, "drift", True, ALL),
        *((recoded, name, False, {name}) for name in sorted(ALL)),
        (other_held_out, "held_out", False, {"held_out"}),
    ],
)
def test_what_is_measured_again(
    cell: Evaluated,
    change: Callable[[Evaluated, MeasurementSpec], MeasurementSpec],
    name: str,
    anew: bool,
    again: set[str],
) -> None:
    counts = cell.run()[1]
    length = random_tokens(1).shape[1]
    assert counts["perplexity"] == {"tokens": 4 * length, "sequences": 4, "length": length}
    assert counts["tokens"] == (4 + 2 + 3 * SAMPLES) * length
    before = stamps(cell)
    # As Snakemake does before it runs a rule again.
    (cell.folder / MANIFEST).unlink()
    specs = [change(cell, part) if part.name == name else part for part in cell.parts]
    assert cell.run(specs, anew=anew)[1]["perplexity"] == counts["perplexity"]
    after = stamps(cell)
    assert {each for each in ALL if after[f"{each}.json"] != before[f"{each}.json"]} == again


def test_a_damaged_part_is_measured_again(cell: Evaluated) -> None:
    assert cell.run()[0].spent == Spent()
    path = cell.folder / "perplexity.json"
    text = path.read_text()
    path.write_text(text.replace("0", "1"))
    # What was spent on those that are kept counts.
    assert cell.run()[0].spent.wall_s > 0
    assert path.read_text() == text
