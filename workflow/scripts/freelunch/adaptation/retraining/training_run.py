"""Retrain a whole pruned model, from masks and token ids to one shard per block."""

import logging
import math
import shutil
import time
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from freelunch.adaptation.job import AdaptationJob, WindowResult
from freelunch.adaptation.retraining.state import TrainedState, TrainedStateOnDisk
from freelunch.adaptation.retraining.step_gradients import Step, gather_
from freelunch.adaptation.retraining.trainee import Loss, Passes, Trainee
from freelunch.adaptation.training.optimisation import divergence, precision_of, schedule, steps_of
from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.job_cost import Spent
from freelunch.model.checkpoint import OUTER, StreamedModel, block_shard, write_shard
from freelunch.model.hidden_states import KIND, DenseStates
from freelunch.model.tensor_file import hidden_file, open_hidden
from freelunch.study.cell import derive_seed
from freelunch.study.methods import FULL
from freelunch.study.retraining import Retraining
from freelunch.study.steps import SAVE_S
from freelunch.study.windows import MODEL

log = logging.getLogger(__name__)


def next_token(logits: Tensor, input_ids: Tensor, start: int) -> Tensor:
    """Return the part of the mean over tokens of -log p(next token), nats, 0-d, float32, for logits
    of (batch, places, vocabulary) from the place `start` on, and token ids of (batch, length),
    int64, on one device.
    """
    following = input_ids[:, start + 1 : start + 1 + logits.shape[1]]
    predicted = logits[:, : following.shape[1]].float().flatten(0, 1)
    total = nn.functional.cross_entropy(predicted, following.flatten(), reduction="sum")
    return total / input_ids[:, 1:].numel()


def distillation(logits: Tensor, teacher: Tensor, tokens: int) -> Tensor:
    """Return the part of the mean over so many tokens of KL(dense model || trained model), nats,
    0-d, float32: knowledge distillation (arXiv 1503.02531) at temperature 1, without an additional
    next-token loss. The logits of both models are (batch, places, vocabulary).
    """
    ours, theirs = logits.float().log_softmax(-1), teacher.float().log_softmax(-1)
    return nn.functional.kl_div(ours, theirs, reduction="sum", log_target=True) / tokens


class Teacher:
    """The dense model, whose hidden states after the last block are on disk; its logits are not,
    since they are many times as large. Computing these states takes about a fifth of a
    distillation of one epoch, so an interrupted one keeps them, in a folder that the caller
    removes after the training, unless a dense pass of the study has kept them. `spent` is what
    earlier attempts spent on them.
    """

    def __init__(
        self, model: StreamedModel, states: DenseStates, folder: Path, fingerprint: str
    ) -> None:
        self._model, self._input_ids = model, states.input_ids
        self.spent = Spent()
        last = model.num_blocks
        if last in states:
            self._hidden = states.at(last)
            return
        # One folder further down, so that `.dense.checked`, which an artifact has beside it, is
        # removed with it.
        writer, name = ArtifactWriter(folder / "dense", KIND, fingerprint), hidden_file(last)
        if name not in writer:
            log.info("first, the dense model passes all %d sequences", states.sequences)
            writer.add(name, lambda path: states.write(last, path))
        stored = writer.finish()
        # The training counts the attempts.
        self.spent = replace(stored.spent, attempts=0)
        self._hidden = open_hidden(stored.path(name))

    def loss(self, logits: Tensor, rows: Tensor, start: int) -> Tensor:
        """Return what `distillation` returns, for the places of sequences from `start` on."""
        here = slice(start, start + logits.shape[1])
        hidden = self._hidden[rows][:, here].to(self._model.device)
        teacher = self._model.logits(self._input_ids[rows][:, here], hidden)
        return distillation(logits, teacher, self._input_ids[rows].numel())


def retrain_model(
    job: AdaptationJob[Retraining], streamed: bool = False, save_s: float = SAVE_S
) -> Artifact:
    """Retrain a pruned model, streamed block by block or in memory; write one shard per block, and
    the outer shard if it was trained. Every `save_s` seconds a state is saved, from which an
    interrupted training resumes.

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
    """One training of a whole model, first as pruned, then as trained (`trainee`); `state` is what
    it moves.
    """

    def __init__(self, job: AdaptationJob[Retraining], streamed: bool = False) -> None:
        self._job, settings, model = job, job.settings, job.model
        self._seed, self._states = derive_seed(job.seed, "retraining"), job.states
        saved = job.folder.with_name(f".{job.folder.name}.state")
        arguments = settings.optimiser, saved, job.fingerprint, model.device
        if streamed and settings.trained.weights == FULL:
            # All of it takes sixteen bytes a weight: more than the model.
            self.state: TrainedState = TrainedStateOnDisk(*arguments, outer=model.num_blocks)
        else:
            self.state = TrainedState(*arguments)
        self._resumed = self.state.load()
        precision = precision_of(settings, model.dtype)
        passes = Passes(precision, settings.gradient_checkpointing, streamed)
        self._scratch = job.states.scratch / "retraining"
        self._scratch.mkdir(exist_ok=True)
        self.trainee = Trainee(job, passes, self._seed, self.state)
        self._teacher_folder = saved.with_name(f"{saved.name}.teacher")
        self._teacher: Teacher | None = None
        self._loss: Loss = self._next_token
        if settings.distils:
            self._teacher = Teacher(model, job.states, self._teacher_folder, job.fingerprint)
            self._loss = self._teacher.loss
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
            spent += Spent(**self._resumed["spent"])
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
                    f"step {diverged} of {steps_of(self._job.settings, len(self._job.trained))}",
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
        """Take the remaining steps; return the first whose loss is not finite, from 1, or None."""
        settings, trained = self._job.settings, self._job.trained
        steps = steps_of(settings, len(trained))
        started = last = time.perf_counter()
        cpu_started = time.process_time()
        for step, (rate, rows, _) in enumerate(schedule(settings, trained, self._seed), 1):
            if step <= len(self._losses):
                continue
            self._losses.append(self.step(rate, rows))
            self._job.report(step, steps, f"steps (loss {self._losses[-1]:.3g})")
            if not math.isfinite(self._losses[-1]):
                return step
            now = time.perf_counter()
            if now - last >= save_s and step < steps:
                last = now
                so_far = spent + Spent.now(now - started, time.process_time() - cpu_started)
                facts = {"loss_before": before, "losses": self._losses, "spent": asdict(so_far)}
                self.state.save(facts)
        return None

    def step(self, rate: float, rows: Tensor) -> float:
        """Take a step on the sequences `rows`, and return the loss before it."""
        settings = self._job.settings
        micro = settings.micro_batch or len(rows)
        step = Step(self._states.input_ids, rows, micro, self._loss)
        loss = gather_(self.trainee, step, self._scratch)
        self.state.step_(rate, settings.clip)
        return loss

    def _next_token(self, logits: Tensor, rows: Tensor, start: int) -> Tensor:
        return next_token(logits, self._states.input_ids[rows].to(logits.device), start)

    def _checked(self) -> float:
        count = self._job.checked
        rows = [torch.tensor([row]) for row in range(count)]
        return math.fsum(self.trainee.losses(self._states.input_ids, rows, self._loss)) / count
