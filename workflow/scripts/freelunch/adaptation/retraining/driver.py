"""Retrain a whole pruned model, from masks and token ids to one shard per block."""

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
    # Write all shards again: those of an interrupted attempt may come from another training, whose
    # last steps ran on another machine.
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
        whole: The model, first as pruned, then as trained.
        trained: The parameters that are trained.
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
        """Train, and return what interrupted earlier attempts spent on the steps that were kept."""
        before = self._checked()
        parameters = self.trained.parameters
        optimiser = make_optimiser(self._settings.optimiser, parameters)
        resumed = load_state_(saved, fingerprint, parameters, optimiser)
        spent = {"wall_s": 0.0, "cpu_s": 0.0, "attempts": 0.0}
        if resumed is not None:
            self._losses, spent = resumed["losses"], resumed["spent"]
            spent["attempts"] += 1
            self.trained.moved_()
            log.info("resuming from step %d", len(self._losses))
        diverged = self._steps(optimiser, saved, fingerprint, spent, report, save_s)
        self.trained.merge_()
        after = before
        if diverged is None:
            self.whole.round_()
            after = self._checked()
            # The last step diverged: no later step computed a loss with its weights.
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
        """Return the mean training loss of `points` equal parts of the steps, or of each step if
        fewer.
        """
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
        """Take the remaining steps; return the first whose loss is not finite, counted from 1, or
        None.
        """
        settings, sequences = self._settings, self._states.sequences
        steps = steps_of(settings, sequences)
        started = last = time.perf_counter()
        cpu_started = time.process_time()
        with gathering(self.trained):
            plan = schedule(settings, sequences, self._seed)
            for step, (rate, rows, _) in enumerate(plan, 1):
                if step <= len(self._losses):
                    continue
                # Seed a branch's dropout by the step, so that a resumed training draws the same
                # numbers.
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
        """Take one step on the sequences `rows`, and return the loss before it."""
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
