"""An adaptation to carry out, and what came of it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from freelunch.core.artifact import Artifact, check_belongs, fingerprint
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.errors import UserError
from freelunch.core.files import scratch_folder
from freelunch.core.job import Job
from freelunch.core.progress import Report, silent
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import DenseStates, open_states
from freelunch.model.mask_store import load_pruned_block
from freelunch.model.token_ids import check_sample
from freelunch.study.adaptations import Adaptation, Training
from freelunch.study.paths import read_run
from freelunch.study.retraining import read_adaptation
from freelunch.study.search import chosen_of
from freelunch.study.sources import NO_GRADIENTS, TRAINED, UNTRAINED
from freelunch.study.steps import (
    ADAPTED_BLOCKS,
    CAPTURE_DENSE,
    CHECK_SEQUENCES,
    CHECKPOINT,
    LEARNING_RATE,
    MASKS,
)
from freelunch.study.windows import AUTO, Window

S = TypeVar("S", bound=Adaptation)


@dataclass(frozen=True)
class AdaptationJob(Generic[S]):
    """An adaptation of a pruned model, given by the dense one and its masks (None: all weights
    stay), on a sample with the dense model's hidden states, by an entry of `adaptations`. The seed
    is that of the order of the sequences and of initial values; the folder gets one shard per
    block; the fingerprint is the digest of everything the result depends on; `report` is called
    after each window or step.
    Unless `stop_at_divergence`, a window or model with a loss that is not finite keeps its
    pruned weights, and the results say that it diverged. If only the sequences `probed` are trained
    on, losses are measured on those before them, which are held out. `start` is the checkpoint of
    the adaptation that this one comes after, which then takes the place of the pruned weights.
    Where the entry says `auto`, `asked` is the entry, and the settings have what was decided:
    window, precision, and the learning rate that probes found, of which `search` is the artifact.
    """

    model: StreamedModel
    masks: Artifact | None
    states: DenseStates
    settings: S
    seed: int
    folder: Path
    fingerprint: str
    report: Report = silent
    stop_at_divergence: bool = True
    probed: range | None = None
    search: Artifact | None = None
    start: Artifact | None = None
    asked: S | None = None

    def load_block(self, index: int) -> tuple[nn.Module, dict[str, Tensor]]:
        """Return a block as it is before the adaptation, and its masks, as `load_pruned_block`."""
        return load_pruned_block(self.model, self.masks, index, self.start)

    @property
    def trained(self) -> range:
        """Return the sequences of the sample that are trained on."""
        return range(self.states.sequences) if self.probed is None else self.probed

    @property
    def checked(self) -> int:
        """Return how many sequences, the first ones, losses are measured on."""
        return min(CHECK_SEQUENCES, self.trained.start or self.states.sequences)

    def writer(self, others: Iterable[Path] = (), kind: str = ADAPTED_BLOCKS) -> ArtifactWriter:
        """Return the writer of the folder; arguments as in `ArtifactWriter`. UserError: the
        masks belong to another model or sample.
        """
        if self.masks is not None:
            check_belongs(self.masks, "model", self.model.artifact)
            check_sample(self.masks, self.states.calibration)
        return ArtifactWriter(self.folder, kind, self.fingerprint, others=others)

    def finish(self, writer: ArtifactWriter, window: Window, **facts: Any) -> Artifact:
        """Write the manifest of the folder."""
        asked = self.asked or self.settings
        if self.search is not None:
            facts["choice"] = self.search.facts["choice"]
        if isinstance(asked, Training) and asked.precision == AUTO:
            facts["precision"] = getattr(self.settings, "precision", None)
        if self.start is not None:
            facts["start"] = self.start.digest
        return writer.finish(
            settings={"adaptation": asked.as_json(), "seed": self.seed},
            window=window,
            model=self.model.artifact.digest,
            masks=self.masks.digest if self.masks else None,
            sample=self.states.calibration.digest,
            **facts,
        )


@dataclass(frozen=True)
class WindowResult:
    """What came of a window, or of a whole model that was retrained: its loss on the first
    sequences with the pruned weights and with those that it has now; optimiser steps (0 if the
    weights were solved for); how many numbers were trained; whether it has its pruned weights,
    since the adapted ones were worse; and the first step, from 1, whose loss was not finite.
    """

    loss_before: float
    loss_after: float
    steps: int
    trained_parameters: int
    kept_pruned: bool
    diverged_at_step: int | None = None

    def as_json(self) -> dict[str, float | int | None]:
        """Return the attributes, `diverged_at_step` only if the training diverged."""
        values = asdict(self)
        return {name: value for name, value in values.items() if value is not None}


def at_rate_of(search: Artifact, settings: S) -> S:
    """Return settings with the learning rate that a search found."""
    rate = chosen_of(search.facts["choice"], {})["learning_rate"]
    return settings.model_copy(update={"learning_rate": rate})


@contextmanager
def open_adaptation(
    job: Job,
    *,
    model: Path,
    masks: Sequence[str],
    sample: Artifact,
    hidden: Path | None,
    folder: Path,
    settings: dict[str, Any],
    window: Window | None,
    precision: str | None,
    seed: int,
    code: str,
    entry: str,
    stop_at_divergence: bool = True,
    search: Sequence[str] = (),
    start: Sequence[str] = (),
    dense_pass: Sequence[str] = (),
) -> Iterator[AdaptationJob[Any]]:
    """Open what an adaptation needs, and set the counts of the running job. UserError: the model's
    precision cannot be trained.

    Args:
        model: Folder of the dense model.
        masks: The manifest of the masks; empty if nothing is pruned.
        sample: Token ids of the sample.
        hidden: Folder of the hidden states that a dense pass may have kept; None without a pass.
        settings: Settings of the adaptation as JSON.
        window: The window that the plan decided, in the place of `auto`: blocks of another attempt
            are only taken over if they were adapted in the same window.
        precision: The precision that the plan decided, as well.
        code: Digest of the code that adapts.
        entry: The model's key in the config, for an error about its dtype.
        search: The manifest of what found the learning rate, if it was found.
        start: The manifest of the checkpoint that it starts from, if not from the pruned weights.
        dense_pass: The manifest of the dense pass that the job waited for, if the masks did not.
    """
    for manifest in dense_pass:
        job.shared[CAPTURE_DENSE] = [read_run(Path(manifest).parent)]
    by_plan = {"window": window, "precision": precision}
    decided = settings | {key: by_plan[key] for key in by_plan if settings.get(key) == AUTO}
    dense, asked = StreamedModel(model, job.device), read_adaptation(settings)
    adaptation = read_adaptation(decided)
    passes, skipped = 1, 0
    pruned = [Artifact.at(path, MASKS) for path in masks]
    searches = [Artifact.at(path, LEARNING_RATE) for path in search]
    starts = [Artifact.at(path, CHECKPOINT) for path in start]
    for each in (*searches, *starts):
        check_belongs(each, "masks", next(iter(pruned), None))
    for each in searches:
        check_belongs(each, "sample", sample)
        adaptation = at_rate_of(each, adaptation)
    if isinstance(adaptation, Training):
        passes, skipped = adaptation.passes, adaptation.skip or 0
        if dense.dtype == getattr(torch, UNTRAINED):
            raise UserError(
                NO_GRADIENTS,
                where=f"{entry}.dtype",
                found=f"{UNTRAINED}, the checkpoint's own",
                expected=TRAINED,
                todo="set `dtype` in the model's entry",
            )
    with scratch_folder(folder.with_name(f".{folder.name}.scratch")) as scratch:
        states = open_states(dense, sample, hidden, scratch)
        job.counts |= {
            "tokens": (states.sequences - skipped) * states.length * passes,
            "sequences": states.sequences - skipped,
            "length": states.length,
            "adaptation": settings,
        }
        yield AdaptationJob(
            dense,
            next(iter(pruned), None),
            states,
            adaptation,
            seed,
            folder,
            fingerprint(code, [decided, seed], dense.artifact, sample, *pruned, *searches, *starts),
            job.report,
            stop_at_divergence,
            range(skipped, states.sequences) if skipped else None,
            search=next(iter(searches), None),
            start=next(iter(starts), None),
            asked=asked,
        )
