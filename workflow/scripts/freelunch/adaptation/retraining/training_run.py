"""Retrain a whole pruned model, from masks and token ids to one shard per block."""

import logging
import math
import shutil
import time
from itertools import pairwise

import torch
from torch import Tensor

from freelunch.adaptation.job import AdaptationJob, WindowResult
from freelunch.adaptation.retraining.objectives import Teacher, distillation, next_token
from freelunch.adaptation.retraining.state import TrainedState
from freelunch.adaptation.retraining.state_on_disk import TrainedStateOnDisk
from freelunch.adaptation.retraining.step_gradients import Step, gather_
from freelunch.adaptation.retraining.trained_outer import Passes
from freelunch.adaptation.retraining.trainee import Loss, Trainee
from freelunch.adaptation.training.optimisation import divergence, precision_of, schedule, steps_of
from freelunch.core.artifact import Artifact
from freelunch.core.job_cost import Spent
from freelunch.model.blocks import block_linears
from freelunch.model.checkpoint import OUTER, block_shard, write_shard
from freelunch.study.cell import derive_seed
from freelunch.study.methods import FULL
from freelunch.study.retraining import Retraining
from freelunch.study.steps import CHECK_SEQUENCES, SAVE_S
from freelunch.study.windows import MODEL

log = logging.getLogger(__name__)


def retrain_model(
    job: AdaptationJob[Retraining], streamed: bool = False, save_s: float = SAVE_S
) -> Artifact:
    """Retrain a pruned model; write one shard per block, and the outer shard if it was trained.

    Args:
        job: What is retrained, and how; a distillation learns from the dense model's hidden states
            after the last block.
        streamed: Whether one block at a time is in memory, or the whole model.
        save_s: Seconds between two saved states, from which an interrupted training resumes.

    Raises:
        UserError: The masks belong to another model or sample, the method does not fit the model,
            the saved state belongs to another training or is damaged, or a loss is not finite.
    """
    writer = job.writer()
    if writer.finished is not None:
        return writer.finish(**writer.finished)
    training = TrainingRun(job, streamed)
    result, spent = training.run(save_s)
    writer.count(spent)
    # Write all shards again: those of an interrupted attempt may come from another training, whose
    # last steps ran on another machine.
    windows = {MODEL: result.as_json()}
    for index, tensors in training.trainee.block_tensors():
        write_shard(writer, block_shard(index), tensors, windows=windows)
    if outer := training.trainee.outer_tensors():
        write_shard(writer, OUTER, outer)
    made = job.finish(writer, MODEL, losses=training.curve())
    training.remove()
    made.spent = spent
    return made


class TrainingRun:
    """One training of a whole model.

    Args:
        job, streamed: As in `retrain_model`.

    Attributes:
        trainee: The model, first as pruned, then as trained.
        state: What the training moves.
    """

    def __init__(self, job: AdaptationJob[Retraining], streamed: bool = False) -> None:
        self._job, settings, model = job, job.settings, job.model
        self._seed, self._states = derive_seed(job.seed, "retraining"), job.states
        saved = job.folder.with_name(f".{job.folder.name}.state")
        arguments = settings.optimiser, saved, job.fingerprint, model.device
        if streamed and settings.trained.weights == FULL:
            # All of it takes sixteen bytes a weight: more than the model.
            on_disk = TrainedStateOnDisk(*arguments, outer=model.num_blocks)
            on_disk.check_room(*_written(job))
            self.state: TrainedState = on_disk
        else:
            self.state = TrainedState(*arguments)
        self._resumed = self.state.load()
        precision = precision_of(settings, model.dtype)
        passes = Passes(precision, settings.gradient_checkpointing, streamed)
        self._scratch = job.states.scratch / "retraining"
        self._scratch.mkdir(exist_ok=True)
        self.trainee = Trainee(model, job.masks, settings.trained, passes, self._seed, self.state)
        self._teacher_folder = saved.with_name(f"{saved.name}.teacher")
        self._teacher: Teacher | None = None
        self._loss: Loss = self._next_token
        if settings.distils:
            teacher = Teacher(model, job.states, self._teacher_folder, job.fingerprint)
            self._teacher = teacher
            self._loss = lambda logits, rows: distillation(logits, teacher.logits(rows))
        self._losses: list[float] = []

    def run(self, save_s: float) -> tuple[WindowResult, Spent]:
        """Train, and return the result, and what interrupted earlier attempts spent on the steps
        that were kept and on the dense model's hidden states.
        """
        on_teacher = self._teacher.spent if self._teacher else Spent()
        spent = Spent(attempts=int(self._resumed is not None or on_teacher != Spent()))
        if self._resumed is None:
            before = self._checked()
        else:
            before, self._losses = self._resumed["loss_before"], self._resumed["losses"]
            spent += Spent.of(self._resumed["spent"])
            log.info("resuming from step %d", len(self._losses))
        diverged, after = self._steps(before, spent, save_s), before
        if diverged is None:
            self.trainee.merge_()
            after = self._checked()
            # The last step diverged: no later step computed a loss with its weights.
            diverged = None if math.isfinite(after) else len(self._losses)
        steps = len(self._losses)
        if diverged is not None:
            if self._job.stop_at_divergence:
                # It would only diverge again, and stand in the way of other settings.
                self.remove()
                raise divergence(
                    "retraining diverged",
                    f"step {diverged} of {steps_of(self._job.settings, self._states.sequences)}",
                    [*self._losses, after],
                    self._job.settings,
                )
            self.trainee.restore_()
            self._losses = [loss for loss in self._losses if math.isfinite(loss)]
            after = before
        count = self.trainee.count
        result = WindowResult(before, after, steps, count, diverged is not None, diverged)
        log.info("retrained: %s", result)
        return result, spent + on_teacher

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

    def _steps(self, before: float, spent: Spent, save_s: float) -> int | None:
        """Take the remaining steps; return the first whose loss is not finite, counted from 1, or
        None.
        """
        settings, sequences = self._job.settings, self._states.sequences
        steps = steps_of(settings, sequences)
        started = last = time.perf_counter()
        cpu_started = time.process_time()
        for step, (rate, rows, _) in enumerate(schedule(settings, sequences, self._seed), 1):
            if step <= len(self._losses):
                continue
            self._losses.append(self.step(step, rate, rows))
            self._job.report(step, steps, f"steps (loss {self._losses[-1]:.3g})")
            if not math.isfinite(self._losses[-1]):
                return step
            now = time.perf_counter()
            if now - last >= save_s and step < steps:
                last = now
                so_far = spent + Spent.now(now - started, time.process_time() - cpu_started)
                facts = {"loss_before": before, "losses": self._losses, "spent": so_far.as_json()}
                self.state.save(facts)
        return None

    def step(self, number: int, rate: float, rows: Tensor) -> float:
        """Take step `number` on the sequences `rows`, and return the loss before it."""
        settings = self._job.settings
        micro = settings.micro_batch or len(rows)
        step = Step(self._states.input_ids, rows, micro, self._loss, number)
        loss = gather_(self.trainee, step, self._scratch)
        self.state.step_(rate, settings.clip)
        return loss

    def _next_token(self, logits: Tensor, rows: Tensor) -> Tensor:
        return next_token(logits, self._states.input_ids[rows].to(logits.device))

    def _checked(self) -> float:
        """Return the mean loss on the first sequences."""
        count = min(CHECK_SEQUENCES, self._states.sequences)
        rows = [torch.tensor([row]) for row in range(count)]
        return math.fsum(self.trainee.losses(self._states.input_ids, rows, self._loss)) / count


def _written(job: AdaptationJob[Retraining]) -> tuple[int, int]:
    """Return how many weights a training of matrices moves, and the bytes that a streamed one
    writes beside its state: hidden states at each boundary of a step, and shards.
    """
    model, states, settings = job.model, job.states, job.settings
    block, trained = model.shapes_of_block(), settings.trained
    linears = block_linears(block).items()
    weights = sum(linear.weight.numel() for name, linear in linears if trained.chooses(name))
    weights *= model.num_blocks
    stored = sum(parameter.numel() for parameter in block.parameters()) * model.num_blocks
    if trained.head:
        weights += model.outer.head.weight.numel()
    if trained.head or trained.norms:
        stored += sum(parameter.numel() for parameter in model.outer.module.parameters())
    each = max(model.dtype.itemsize, precision_of(settings, model.dtype).itemsize)
    batch = min(settings.batch, states.sequences)
    hidden = batch * states.length * model.config.hidden_size * each
    return weights, stored * model.dtype.itemsize + (model.num_blocks + 2) * hidden
