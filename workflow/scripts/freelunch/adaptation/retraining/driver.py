"""Retrain a whole pruned model, from masks and token ids to one shard a block."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from freelunch.adaptation.reconstruction import KIND
from freelunch.adaptation.retraining.losses import distillation, next_token
from freelunch.adaptation.retraining.state import load_state_, save_state
from freelunch.adaptation.retraining.whole import WholeModel
from freelunch.adaptation.training.matrices import TrainedParameters
from freelunch.adaptation.training.optimisers import (
    divergence,
    gathering,
    make_optimiser,
    precision_of,
)
from freelunch.adaptation.training.schedule import schedule, steps_of
from freelunch.core.artifact import Artifact, ArtifactWriter, check_belongs
from freelunch.core.progress import Report, silent
from freelunch.model.checkpoint import OUTER, StreamedModel, block_shard, write_shard
from freelunch.model.hidden_states import DenseStates
from freelunch.model.token_ids import check_sample
from freelunch.study.adaptations import Retraining
from freelunch.study.batching import CHECK_SEQUENCES
from freelunch.study.cell import derive_seed
from freelunch.study.windows import MODEL

# Seconds between two states of a long training that are saved.
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
) -> Artifact:
    """Retrain a pruned model and write one shard a block, and the outer one if it was trained.

    Args:
        model: The dense model.
        masks: Which weights stay.
        states: The sample that it is trained on; its hidden states after the last block are what a
            distillation learns from.
        settings: How it is trained.
        seed: Decides the order of the sequences and what adapters start from.
        folder: Where the shards go.
        fingerprint: Digest of everything the result depends on.
        report: Told of each step.
        stop_at_divergence: Whether a loss that is not finite is an error; else the model stays as
            it was pruned, and what is noted of it says so.
        save_s: Seconds between two states that are saved, from which an interrupted training goes
            on.

    Raises:
        UserError: The masks belong to another model or sample, the method does not fit the model,
            or a loss is not finite.
    """
    check_belongs(masks, "model", model.artifact)
    check_sample(masks, states.calibration)
    writer = ArtifactWriter(folder, KIND, fingerprint)
    saved = folder.with_name(f".{folder.name}.state")
    training = Training(model, masks, states, settings, seed, stop_at_divergence)
    spent = training.run(saved, fingerprint, report, save_s)
    # All of them anew: those of an interrupted attempt may come from another training, whose last
    # steps were taken on another machine.
    facts = {MODEL: training.facts}
    for index in range(model.num_blocks):
        tensors = training.whole.block_tensors(index)
        write_shard(writer, block_shard(index), tensors, windows=facts)
    if outer := training.whole.outer_tensors():
        write_shard(writer, OUTER, outer)
    made = writer.finish(
        settings={"adaptation": settings.as_json(), "seed": seed},
        window=MODEL,
        model=model.artifact.digest,
        masks=masks.digest,
        sample=states.calibration.digest,
        losses=training.curve(),
    )
    saved.unlink(missing_ok=True)
    made.spent = spent
    return made


class Training:
    """One training of a whole model.

    Attributes:
        whole: The model, as it was pruned, then as it was trained.
        trained: What of it is trained.
        facts: What came of it, as of a window: `loss_before` and `loss_after` on the first
            sequences, `steps`, `trained_parameters`, `kept_pruned`, and `diverged_at_step` where
            that is so.
    """

    def __init__(
        self,
        model: StreamedModel,
        masks: Artifact,
        states: DenseStates,
        settings: Retraining,
        seed: int,
        stop_at_divergence: bool,
    ) -> None:
        self._settings, self._seed = settings, derive_seed(seed, "retraining")
        self._states, self._model = states, model
        self._stop = stop_at_divergence
        precision = precision_of(settings, model.dtype)
        self.whole = WholeModel(model, masks, precision, settings.gradient_checkpointing)
        self.trained: TrainedParameters = self.whole.train_(settings.trained, self._seed)
        self._loss: Callable[[Tensor], Tensor] = self._next_token
        if settings.distils:
            self._teacher = states.at(model.num_blocks)
            self._loss = self._distillation
        self._losses: list[float] = []
        self.facts: dict[str, Any] = {}

    def run(self, saved: Path, fingerprint: str, report: Report, save_s: float) -> dict[str, float]:
        """Train, and return what earlier, interrupted attempts spent on what was kept of them."""
        before = self._checked()
        parameters = self.trained.parameters
        optimiser = make_optimiser(self._settings.optimiser, parameters)
        resumed = load_state_(saved, fingerprint, parameters, optimiser)
        spent = {"wall_s": 0.0, "cpu_s": 0.0, "attempts": 0.0}
        if resumed is not None:
            self._losses, spent = resumed["losses"], resumed["spent"]
            spent["attempts"] += 1
            self.trained.moved_()
            log.info("going on from step %d", len(self._losses))
        diverged = self._steps(optimiser, saved, fingerprint, spent, report, save_s)
        self.trained.merge_()
        after = before
        if diverged is None:
            self.whole.round_()
            after = self._checked()
            # The last step's doing: no step after it saw it.
            diverged = None if math.isfinite(after) else len(self._losses)
        self.facts = {
            "loss_before": before,
            "loss_after": after,
            "steps": len(self._losses),
            "trained_parameters": self.trained.count,
            "kept_pruned": diverged is not None,
        }
        if diverged is not None:
            if self._stop:
                raise divergence(
                    "retraining diverged",
                    f"step {diverged} of {steps_of(self._settings, self._states.sequences)}",
                    [*self._losses, after],
                    self._settings,
                )
            self.whole.restore_()
            self._losses = [loss for loss in self._losses if math.isfinite(loss)]
            self.facts |= {"loss_after": before, "diverged_at_step": diverged}
        log.info("retrained: %s", self.facts)
        return spent

    def curve(self, points: int = 20) -> list[float]:
        """Return the mean training loss of so many equal parts of the steps, or of each step."""
        count = min(points, len(self._losses))
        bounds = [part * len(self._losses) // count for part in range(count + 1)] if count else []
        return [
            math.fsum(self._losses[start:stop]) / (stop - start) for start, stop in pairwise(bounds)
        ]

    def _steps(
        self,
        optimiser: torch.optim.Optimizer,
        saved: Path,
        fingerprint: str,
        spent: Mapping[str, float],
        report: Report,
        save_s: float,
    ) -> int | None:
        """Take the steps that are left; the one whose loss is not finite, from 1, or None."""
        settings, sequences = self._settings, self._states.sequences
        steps = steps_of(settings, sequences)
        started = last = time.perf_counter()
        cpu_started = time.process_time()
        with gathering(self.trained):
            plan = schedule(settings, sequences, self._seed)
            for step, (rate, rows, _) in enumerate(plan, 1):
                if step <= len(self._losses):
                    continue
                # Of a branch's dropout; by the step, so that one that goes on draws the same.
                torch.manual_seed(derive_seed(self._seed, "dropout", step))
                self._losses.append(self.step(optimiser, rate, rows))
                report(step, steps, f"steps (loss {self._losses[-1]:.3g})")
                if not math.isfinite(self._losses[-1]):
                    return step
                now = time.perf_counter()
                if now - last >= save_s and step < steps:
                    last = now
                    facts = {
                        "losses": self._losses,
                        "spent": {
                            "wall_s": spent["wall_s"] + now - started,
                            "cpu_s": spent["cpu_s"] + time.process_time() - cpu_started,
                            "attempts": spent["attempts"],
                        },
                    }
                    parameters = self.trained.parameters
                    save_state(saved, fingerprint, parameters, optimiser, facts)
        return None

    def step(self, optimiser: torch.optim.Optimizer, rate: float, rows: Tensor) -> float:
        """Take one step on these sequences, and return the loss before it."""
        micro = self._settings.micro_batch or len(rows)
        loss = 0.0
        for part in rows.split(micro):  # type: ignore[no-untyped-call]
            value = self._loss(part) * (len(part) / len(rows))
            value.backward()  # type: ignore[no-untyped-call]
            loss += float(value.detach())
        if self._settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.trained.parameters, self._settings.clip)
        optimiser.param_groups[0]["lr"] = rate
        optimiser.step()
        optimiser.zero_grad()
        self.trained.moved_()
        return loss

    def _next_token(self, rows: Tensor) -> Tensor:
        input_ids = self._states.input_ids[rows].to(self.whole.device)
        return next_token(self.whole.logits(input_ids), input_ids)

    def _distillation(self, rows: Tensor) -> Tensor:
        input_ids = self._states.input_ids[rows]
        teacher = self._model.logits(input_ids, self._teacher[rows].to(self.whole.device))
        return distillation(self.whole.logits(input_ids), teacher)

    @torch.no_grad()
    def _checked(self) -> float:
        """Return the mean loss on the first sequences."""
        count = min(CHECK_SEQUENCES, self._states.sequences)
        losses = [float(self._loss(torch.tensor([row]))) for row in range(count)]
        return math.fsum(losses) / count
