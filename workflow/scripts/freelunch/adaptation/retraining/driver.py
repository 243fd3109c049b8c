"""Retrain a whole pruned model, from masks and token ids to one shard per block."""

import logging
import math
import shutil
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freelunch.adaptation.reconstruction import KIND
from freelunch.adaptation.retraining.gradients import Step, gather_
from freelunch.adaptation.retraining.losses import distillation, next_token
from freelunch.adaptation.retraining.passes import Passes
from freelunch.adaptation.retraining.state import TrainedState
from freelunch.adaptation.retraining.state_on_disk import TrainedStateOnDisk
from freelunch.adaptation.retraining.teacher import Teacher
from freelunch.adaptation.retraining.trainee import Loss, Trainee
from freelunch.adaptation.training.optimisers import divergence, precision_of
from freelunch.adaptation.training.schedule import schedule, steps_of
from freelunch.core.artifact import Artifact, check_belongs
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.progress import Report, silent
from freelunch.core.spent import Spent
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import OUTER, StreamedModel, block_shard, write_shard
from freelunch.model.hidden_states import DenseStates
from freelunch.model.token_ids import check_sample
from freelunch.study.cell import derive_seed
from freelunch.study.methods import FULL
from freelunch.study.retraining import Retraining
from freelunch.study.steps import CHECK_SEQUENCES
from freelunch.study.windows import MODEL

# Seconds between two saved states of a long training.
SAVE_S = 300.0

log = logging.getLogger(__name__)


def retrain_model(
    model: StreamedModel,
    masks: Artifact,
    states: DenseStates,
    settings: Retraining,
    seed: int,
    folder: Path,
    fingerprint: str,
    report: Report = silent,
    stop_at_divergence: bool = True,
    save_s: float = SAVE_S,
    streamed: bool = False,
) -> Artifact:
    """Retrain a pruned model; write one shard per block, and the outer shard if it was trained.

    Args:
        model: The dense model.
        masks: Masks of the pruned model.
        states: The training sample; a distillation learns from its dense hidden states after the
            last block.
        settings: Settings of the retraining.
        seed: Seed of the order of the sequences and of the adapters' initial values.
        folder: Folder for the shards.
        fingerprint: Digest of everything the result depends on.
        report: Called after each step.
        stop_at_divergence: Whether a loss that is not finite is an error. Otherwise the model keeps
            its pruned weights, and the results say that it diverged.
        save_s: Seconds between two saved states, from which an interrupted training resumes.
        streamed: Whether one block at a time is in memory, or the whole model.

    Raises:
        UserError: The masks belong to another model or sample, the method does not fit the model,
            the saved state belongs to another training or is damaged, or a loss is not finite.
    """
    check_belongs(masks, "model", model.artifact)
    check_sample(masks, states.calibration)
    writer = ArtifactWriter(folder, KIND, fingerprint)
    if writer.finished is not None:
        return writer.finish(**writer.finished)
    training = Training(
        model,
        masks,
        states,
        settings,
        seed,
        folder.with_name(f".{folder.name}.state"),
        fingerprint,
        streamed,
    )
    spent = training.run(report, stop_at_divergence, save_s)
    writer.count(spent)
    # Write all shards again: those of an interrupted attempt may come from another training, whose
    # last steps ran on another machine.
    facts = {MODEL: training.facts}
    for index, tensors in training.trainee.block_tensors():
        write_shard(writer, block_shard(index), tensors, windows=facts)
    if outer := training.trainee.outer_tensors():
        write_shard(writer, OUTER, outer)
    made = writer.finish(
        settings={"adaptation": settings.as_json(), "seed": seed},
        window=MODEL,
        model=model.artifact.digest,
        masks=masks.digest,
        sample=states.calibration.digest,
        losses=training.curve(),
    )
    training.remove()
    made.spent = spent
    return made


class Training:
    """One training of a whole model.

    Args:
        model: The dense model.
        masks: Masks of the pruned model.
        states: The training sample.
        settings: Settings of the retraining.
        seed: Seed of the retraining.
        saved: The file in which the state is saved.
        fingerprint: Digest of everything the result depends on.
        streamed: Whether one block at a time is in memory, or the whole model.

    Attributes:
        trainee: The model, first as pruned, then as trained.
        state: What the training moves.
        facts: Results in the form of a window's: `loss_before` and `loss_after` on the first
            sequences, `steps`, `trained_parameters`, `kept_pruned`, and `diverged_at_step` if the
            training diverged.
    """

    def __init__(
        self,
        model: StreamedModel,
        masks: Artifact,
        states: DenseStates,
        settings: Retraining,
        seed: int,
        saved: Path,
        fingerprint: str,
        streamed: bool = False,
    ) -> None:
        self._settings, self._seed = settings, derive_seed(seed, "retraining")
        self._states = states
        trained = settings.trained
        if streamed and trained.weights == FULL:
            # All of it takes sixteen bytes a weight: more than the model.
            on_disk = TrainedStateOnDisk(
                settings.optimiser,
                saved,
                fingerprint,
                model.device,
                outer=model.num_blocks,
            )
            on_disk.check_room(*_written(model, states, settings))
            self.state: TrainedState = on_disk
        else:
            self.state = TrainedState(settings.optimiser, saved, fingerprint, model.device)
        self._resumed = self.state.load()
        passes = Passes(
            precision_of(settings, model.dtype), settings.gradient_checkpointing, streamed
        )
        self._scratch = states.scratch / "retraining"
        self._scratch.mkdir(exist_ok=True)
        self.trainee = Trainee(model, masks, trained, passes, self._seed, self.state)
        self._teacher_folder = saved.with_name(f"{saved.name}.teacher")
        self._teacher: Teacher | None = None
        self._loss: Loss = self._next_token
        if settings.distils:
            self._teacher = teacher = Teacher(model, states, self._teacher_folder, fingerprint)
            self._loss = lambda logits, rows: distillation(logits, teacher.logits(rows))
        self._losses: list[float] = []
        self.facts: dict[str, Any] = {}

    def run(self, report: Report, stop_at_divergence: bool, save_s: float) -> Spent:
        """Train, and return what interrupted earlier attempts spent on the steps that were kept,
        and on the dense model's hidden states.
        """
        on_teacher = self._teacher.spent if self._teacher else Spent()
        spent = Spent(attempts=int(self._resumed is not None or on_teacher != Spent()))
        if self._resumed is None:
            before = self._checked()
        else:
            before, self._losses = self._resumed["loss_before"], self._resumed["losses"]
            spent += Spent.of(self._resumed["spent"])
            log.info("resuming from step %d", len(self._losses))
        diverged = self._steps(before, spent, report, save_s)
        after = before
        if diverged is None:
            self.trainee.merge_()
            after = self._checked()
            # The last step diverged: no later step computed a loss with its weights.
            diverged = None if math.isfinite(after) else len(self._losses)
        self.facts = {
            "loss_before": before,
            "loss_after": after,
            "steps": len(self._losses),
            "trained_parameters": self.trainee.count,
            "kept_pruned": diverged is not None,
        }
        if diverged is not None:
            if stop_at_divergence:
                # It would only diverge again, and stand in the way of other settings.
                self.remove()
                raise divergence(
                    "retraining diverged",
                    f"step {diverged} of {steps_of(self._settings, self._states.sequences)}",
                    [*self._losses, after],
                    self._settings,
                )
            self.trainee.restore_()
            self._losses = [loss for loss in self._losses if math.isfinite(loss)]
            self.facts |= {"loss_after": before, "diverged_at_step": diverged}
        log.info("retrained: %s", self.facts)
        return spent + on_teacher

    def remove(self) -> None:
        """Remove what an interrupted training would resume from."""
        self.state.remove()
        # Its file has to be closed: NFS would leave another name of it in the folder.
        self._loss, self._teacher = self._next_token, None
        # Also if this one learned from the text, but an earlier one did not.
        shutil.rmtree(self._teacher_folder, ignore_errors=True)

    def curve(self, points: int = 20) -> list[float]:
        """Return the mean training loss of `points` equal parts of the steps, or of each step if
        fewer.
        """
        count = min(points, len(self._losses))
        bounds = [part * len(self._losses) // count for part in range(count + 1)] if count else []
        return [
            math.fsum(self._losses[start:stop]) / (stop - start) for start, stop in pairwise(bounds)
        ]

    def _steps(self, before: float, spent: Spent, report: Report, save_s: float) -> int | None:
        """Take the remaining steps; return the first whose loss is not finite, counted from 1, or
        None.
        """
        settings, sequences = self._settings, self._states.sequences
        steps = steps_of(settings, sequences)
        started = last = time.perf_counter()
        cpu_started = time.process_time()
        for step, (rate, rows, _) in enumerate(schedule(settings, sequences, self._seed), 1):
            if step <= len(self._losses):
                continue
            self._losses.append(self.step(step, rate, rows))
            report(step, steps, f"steps (loss {self._losses[-1]:.3g})")
            if not math.isfinite(self._losses[-1]):
                return step
            now = time.perf_counter()
            if now - last >= save_s and step < steps:
                last = now
                so_far = spent + Spent.now(now - started, time.process_time() - cpu_started)
                facts = {
                    "loss_before": before,
                    "losses": self._losses,
                    "spent": so_far.as_json(),
                }
                self.state.save(facts)
        return None

    def step(self, number: int, rate: float, rows: Tensor) -> float:
        """Take step `number` on the sequences `rows`, and return the loss before it."""
        micro = self._settings.micro_batch or len(rows)
        step = Step(self._states.input_ids, rows, micro, self._loss, number)
        loss = gather_(self.trainee, step, self._scratch)
        self.state.step_(rate, self._settings.clip)
        return loss

    def _next_token(self, logits: Tensor, rows: Tensor) -> Tensor:
        return next_token(logits, self._states.input_ids[rows].to(logits.device))

    def _checked(self) -> float:
        """Return the mean loss on the first sequences."""
        count = min(CHECK_SEQUENCES, self._states.sequences)
        rows = [torch.tensor([row]) for row in range(count)]
        return math.fsum(self.trainee.losses(self._states.input_ids, rows, self._loss)) / count


def _written(model: StreamedModel, states: DenseStates, settings: Retraining) -> tuple[int, int]:
    """Return how many weights a training of matrices moves, and the bytes that a streamed one
    writes beside its state: hidden states at each boundary of a step, and shards.
    """
    block, trained = model.shapes_of_block(), settings.trained
    linears = block_linears(block).items()
    weights = sum(it.weight.numel() for name, it in linears if trained.chooses(name))
    weights *= model.num_blocks
    stored = sum(it.numel() for it in block.parameters()) * model.num_blocks
    if trained.head:
        weights += model.outer.head.weight.numel()
    if trained.head or trained.norms:
        stored += sum(it.numel() for it in model.outer.module.parameters())
    each = max(model.dtype.itemsize, precision_of(settings, model.dtype).itemsize)
    batch = min(settings.batch, states.sequences)
    hidden = batch * states.length * model.config.hidden_size * each
    return weights, stored * model.dtype.itemsize + (model.num_blocks + 2) * hidden
