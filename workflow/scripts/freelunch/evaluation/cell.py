"""Take all measurements that a study asks of a checkpoint, in one pass through its blocks.

Each block is loaded once, and each measurement passes its own batches through it. Each measurement
is a part with its own fingerprint. After an interrupt, or if the study asks for something else, the
parts that are still valid are kept.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from freelunch.core.artifact import MANIFEST, Artifact, manifest_text
from freelunch.core.digest import file_digest, json_digest, sealed, unsealed
from freelunch.core.errors import UserError, run_again
from freelunch.core.files import json_text, write_atomically, write_json
from freelunch.core.job_cost import Spent
from freelunch.core.progress import Report, silent
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.token_loss import check_dense
from freelunch.study.steps import METRICS, PERPLEXITY, metrics_file

log = logging.getLogger(__name__)
KEPT = "kept.json"


@dataclass(frozen=True)
class Part:
    """One measurement to take.

    Attributes:
        name: The module of `freelunch.evaluation` that takes the measurement; its function `begin`
            takes the checkpoint, this part and a scratch folder, and returns a `Measurement`.
        settings: The study's settings for it.
        inputs: Folders of the artifacts that it needs besides the checkpoint, as `begin` expects
            them.
        code: Digest of the code that takes the measurement.
        cache: Folder that may hold what would otherwise be computed; no result depends on it.
    """

    name: str
    settings: Mapping[str, Any]
    inputs: Sequence[Path]
    code: str
    cache: Path | None = None

    def fingerprint(self, checkpoint: Artifact) -> str:
        """Return the digest of everything that the result depends on."""
        inputs = [file_digest(folder / MANIFEST) for folder in self.inputs]
        return json_digest([self.code, self.settings, checkpoint.digest, inputs])


@dataclass(frozen=True)
class Found:
    """What a measurement found.

    Attributes:
        metrics: Content of the part's JSON file.
        counts: How much passed through the model, from which `freelunch.costs` counts operations.
        files: Content of further files, by name.
    """

    metrics: dict[str, Any]
    counts: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def check_made_with(artifact: Artifact, settings: Mapping[str, Any], rule: str) -> None:
    """Raise UserError if an artifact was made with settings other than those of a part.

    Args:
        artifact: An input of the measurement, whose fact `settings` says what it was made with.
        settings: Settings of the part.
        rule: The rule that makes the artifact.
    """
    if artifact.facts["settings"] != settings:
        raise UserError(
            "this artifact was made with other settings than the evaluation asks for",
            where=artifact.folder,
            found=artifact.facts["settings"],
            expected=dict(settings),
            todo=run_again(rule),
        )


class Measurement(Protocol):
    """A measurement that is taken while the blocks of a checkpoint pass by."""

    def through_(self, index: int, block: nn.Module) -> None:
        """Pass the measurement's batches through a block, or look at the block itself.

        Args:
            index: The block's index; each comes once, in order.
            block: The checkpoint's block, on its device.
        """

    def found(self) -> Found:
        """Return what was found, after the last block."""


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        artifact: Its folder, of kind "metrics", with one JSON file per part.
        counts: The number of all tokens that passed and, for each part by its name, its counts.
    """

    artifact: Artifact
    counts: dict[str, Any]


def evaluate_cell(
    model: StreamedModel,
    parts: Sequence[Part],
    folder: Path,
    scratch: Path,
    report: Report = silent,
    dense_limit: float | None = None,
    anew: bool = False,
) -> Evaluation:
    """Take the measurements that are missing, and write one JSON file per part.

    Args:
        model: The checkpoint. It is measured as it is on disk: the digest of every shard is
            compared with the manifest.
        parts: The measurements to take.
        folder: Folder for the files, which may hold those of an earlier evaluation.
        scratch: Folder for hidden states.
        report: Called after each block.
        dense_limit: For a dense model, the largest perplexity that a sound model can have.
        anew: Whether to repeat measurements that are not missing.

    Raises:
        UserError: A shard is damaged, the dense model is not sound, or a part cannot be measured.
    """
    kept = _Kept(folder)
    fingerprints = {part.name: part.fingerprint(model.artifact) for part in parts}
    missing = [part for part in parts if anew or not kept.holds(part.name, fingerprints[part.name])]
    spent = kept.spent(part.name for part in parts if part not in missing)
    if missing:
        model.artifact.verify()
        begun = {part.name: _Clocked(model, part, scratch) for part in missing}
        pass_through(model, list(begun.values()), report)
        for part in missing:
            found = begun[part.name].found()
            measured = {"settings": dict(part.settings), "checkpoint": model.artifact.digest}
            files = {
                metrics_file(part.name): json_text(found.metrics | measured).encode(),
                **found.files,
            }
            kept.add(part.name, fingerprints[part.name], files, found.counts, begun[part.name])
    if dense_limit is not None:
        path = folder / metrics_file(PERPLEXITY)
        check_dense(json.loads(path.read_text())["perplexity"], dense_limit, path)
    names = [part.name for part in parts]
    artifact = kept.finish(names, checkpoint=model.artifact.digest)
    artifact.spent = spent
    counts = {name: kept.counts(name) for name in names}
    tokens = sum(each.get("tokens", 0) for each in counts.values())
    return Evaluation(artifact, {"tokens": tokens, **counts})


@torch.no_grad()
def pass_through(
    model: StreamedModel, measurements: Sequence[Measurement], report: Report = silent
) -> None:
    """Load each block of a checkpoint once, and hand it to every measurement.

    Args:
        model: The checkpoint.
        measurements: Measurements, in the order in which each block is handed to them.
        report: Called after each block.
    """
    for index, block in model.load_blocks(range(model.num_blocks)):
        for measurement in measurements:
            measurement.through_(index, block)
        report(index + 1, model.num_blocks, "blocks")


class _Clocked:
    """A measurement and the time that it takes.

    Attributes:
        wall_s: Wall-clock seconds so far.
        cpu_s: Processor seconds so far.
    """

    def __init__(self, model: StreamedModel, part: Part, scratch: Path) -> None:
        self.wall_s = self.cpu_s = 0.0
        own = scratch / part.name
        own.mkdir()
        module = import_module(f"freelunch.evaluation.{part.name}")
        with self._clock():
            self._measurement: Measurement = module.begin(model, part, own)

    def through_(self, index: int, block: nn.Module) -> None:
        with self._clock():
            self._measurement.through_(index, block)

    def found(self) -> Found:
        with self._clock():
            return self._measurement.found()

    @contextmanager
    def _clock(self) -> Iterator[None]:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        self.wall_s += time.perf_counter() - wall_s
        self.cpu_s += time.process_time() - cpu_s


class _Kept:
    """The parts in a folder, each with the fingerprint of its measurement.

    Snakemake removes a rule's outputs before it runs the rule again. Only the manifest is such an
    output, so that the parts are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / KEPT
        self._parts: dict[str, dict[str, Any]] = {}
        if path.is_file():
            content = unsealed(path.read_bytes())
            if content is None:
                log.warning("%s is damaged: all measurements are taken again", path)
            else:
                self._parts = content["parts"]

    def holds(self, name: str, fingerprint: str) -> bool:
        """Return whether a part is complete and was measured with the same fingerprint."""
        part = self._parts.get(name)
        return (
            part is not None
            and part["fingerprint"] == fingerprint
            and all(
                (self._folder / file).is_file()
                and file_digest(self._folder / file) == entry["sha256"]
                for file, entry in part["files"].items()
            )
        )

    def counts(self, name: str) -> dict[str, Any]:
        """Return what passed through the model for a part."""
        return dict(self._parts[name]["counts"])

    def spent(self, names: Iterable[str]) -> Spent:
        """Return what it cost to measure some parts."""
        return sum((Spent.of(self._parts[name]["spent"]) for name in names), Spent())

    def add(
        self,
        name: str,
        fingerprint: str,
        files: Mapping[str, bytes],
        counts: Mapping[str, Any],
        clock: _Clocked,
    ) -> None:
        """Write the files of a part and note what it was measured with."""
        for file, content in files.items():
            write_atomically(self._folder / file, content)
        self._parts[name] = {
            "fingerprint": fingerprint,
            "files": {
                file: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
                for file, content in files.items()
            },
            "counts": dict(counts),
            "spent": Spent.now(clock.wall_s, clock.cpu_s).as_json(),
        }
        write_json(self._folder / KEPT, sealed({"parts": self._parts}))

    def finish(self, names: Sequence[str], **facts: Any) -> Artifact:
        """Write the manifest of these parts and return their artifact."""
        files: dict[str, Any] = {}
        for name in names:
            files |= self._parts[name]["files"]
        write_atomically(self._folder / MANIFEST, manifest_text(METRICS, facts, files))
        return Artifact(self._folder, METRICS)
