"""Take all measurements that a study asks of a checkpoint, in one pass through its blocks.

Each block is loaded once, and each measurement passes its own batches through it. Each has its own
fingerprint: after an interrupt, or if the study asks for something else, the results that are still
valid are kept.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from freelunch.core.artifact import MANIFEST, Artifact, manifest_text
from freelunch.core.digest import file_digest, json_digest, sealed, unsealed
from freelunch.core.errors import UserError, run_again
from freelunch.core.files import json_text, write_atomically, write_json
from freelunch.core.job_cost import Spent
from freelunch.core.progress import Report, silent
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import Passing, pass_through
from freelunch.model.token_loss import check_dense
from freelunch.study.steps import METRICS, PERPLEXITY, metrics_file

log = logging.getLogger(__name__)
STORED = "kept.json"
# Settings, metrics or counts of a measurement, which JSON can hold.
Facts = Mapping[str, Any]


@dataclass(frozen=True)
class MeasurementSpec:
    """One measurement to take: the module of `freelunch.evaluation` whose function `begin` takes
    the checkpoint, this object and a scratch folder, and returns a `BlockMeasurement`; the
    study's settings for it; folders of the artifacts that it needs besides the checkpoint; and the
    digest of its code.
    """

    name: str
    settings: Facts
    inputs: Sequence[Path]
    code: str

    def fingerprint(self, checkpoint: Artifact) -> str:
        """Return the digest of everything that the result depends on."""
        inputs = [file_digest(folder / MANIFEST) for folder in self.inputs]
        return json_digest([self.code, self.settings, checkpoint.digest, inputs])

    def check_made(self, folder: Path, made: Facts, rule: str) -> None:
        """Raise UserError if this rule made an input with other settings than these."""
        if made != self.settings:
            raise UserError(
                "this artifact was made with other settings than the evaluation asks for",
                where=folder,
                found=made,
                expected=dict(self.settings),
                todo=run_again(rule),
            )


@dataclass(frozen=True)
class Measured:
    """The result of a measurement: the content of its JSON file; how much passed through the model,
    from which `freelunch.costs` counts operations; and the content of further files, by name.
    """

    metrics: Facts
    counts: Facts = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


class BlockMeasurement(Passing, Protocol):
    """A measurement that is taken while the blocks of a checkpoint pass by."""

    def result(self) -> Measured:
        """Return the result, after the last block."""


def evaluate_cell(
    model: StreamedModel,
    specs: Sequence[MeasurementSpec],
    folder: Path,
    scratch: Path,
    report: Report = silent,
    dense_limit: float | None = None,
    anew: bool = False,
) -> tuple[Artifact, dict[str, Any]]:
    """Take the measurements that are missing, or all of them if `anew`, and write one JSON file for
    each into a folder, which may hold those of an earlier evaluation. Return this folder, and
    the number of all tokens that passed with the counts of each measurement.

    The checkpoint is measured as it is on disk: the digest of every shard is compared with the
    manifest. `dense_limit` is the largest perplexity that a sound dense model can have. UserError:
    a shard is damaged, the dense model is not sound, or a measurement cannot be taken.
    """
    stored = _Stored(folder)
    fingerprints = {spec.name: spec.fingerprint(model.artifact) for spec in specs}
    missing = [
        spec for spec in specs if anew or not stored.holds(spec.name, fingerprints[spec.name])
    ]
    held = [stored.results[spec.name]["spent"] for spec in specs if spec not in missing]
    if missing:
        model.artifact.verify()
        begun = {spec.name: _Clocked(model, spec, scratch) for spec in missing}
        pass_through(model, list(begun.values()), report)
        for spec in missing:
            result = begun[spec.name].result()
            asked = {"settings": dict(spec.settings), "checkpoint": model.artifact.digest}
            metrics = json_text({**result.metrics, **asked}).encode()
            files = {metrics_file(spec.name): metrics, **result.files}
            taken = Spent.now(begun[spec.name].wall_s, begun[spec.name].cpu_s)
            stored.add(spec.name, fingerprints[spec.name], files, result.counts, taken)
    if dense_limit is not None:
        path = folder / metrics_file(PERPLEXITY)
        check_dense(json.loads(path.read_text())["perplexity"], dense_limit, path)
    names = [spec.name for spec in specs]
    artifact = stored.finish(names, checkpoint=model.artifact.digest)
    artifact.spent = sum((Spent(**each) for each in held), Spent())
    counts = {name: dict(stored.results[name]["counts"]) for name in names}
    tokens = sum(each.get("tokens", 0) for each in counts.values())
    return artifact, {"tokens": tokens, **counts}


class _Clocked:
    def __init__(self, model: StreamedModel, spec: MeasurementSpec, scratch: Path) -> None:
        self.wall_s = self.cpu_s = 0.0
        own = scratch / spec.name
        own.mkdir()
        module = import_module(f"freelunch.evaluation.{spec.name}")
        with self._clock():
            self._measurement: BlockMeasurement = module.begin(model, spec, own)

    def through_(self, index: int, block: nn.Module) -> None:
        with self._clock():
            self._measurement.through_(index, block)

    def result(self) -> Measured:
        with self._clock():
            return self._measurement.result()

    @contextmanager
    def _clock(self) -> Iterator[None]:
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        yield
        self.wall_s += time.perf_counter() - wall_s
        self.cpu_s += time.process_time() - cpu_s


class _Stored:
    """The results in a folder, each with the fingerprint of its measurement. Snakemake removes a
    rule's outputs before it runs the rule again: only the manifest is such an output.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        path = folder / STORED
        self.results: dict[str, dict[str, Any]] = {}
        if path.is_file():
            content = unsealed(path.read_bytes())
            if content is None:
                log.warning("%s is damaged: all measurements are taken again", path)
            else:
                self.results = content["parts"]

    def holds(self, name: str, fingerprint: str) -> bool:
        result = self.results.get(name)
        if result is None or result["fingerprint"] != fingerprint:
            return False
        files = ((self._folder / file, entry) for file, entry in result["files"].items())
        return all(path.is_file() and file_digest(path) == it["sha256"] for path, it in files)

    def add(
        self, name: str, fingerprint: str, files: Mapping[str, bytes], counts: Facts, spent: Spent
    ) -> None:
        for file, content in files.items():
            write_atomically(self._folder / file, content)
        self.results[name] = {
            "fingerprint": fingerprint,
            "files": {
                file: {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
                for file, content in files.items()
            },
            "counts": dict(counts),
            "spent": asdict(spent),
        }
        write_json(self._folder / STORED, sealed({"parts": self.results}))

    def finish(self, names: Sequence[str], **facts: object) -> Artifact:
        files = {
            file: entry for name in names for file, entry in self.results[name]["files"].items()
        }
        write_atomically(self._folder / MANIFEST, manifest_text(METRICS, facts, files))
        return Artifact(self._folder, METRICS)
