"""Find the learning rate of an adaptation by probes: short trainings on a part of its sample."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from freelunch.adaptation.job import AdaptationJob
from freelunch.adaptation.reconstruction.windows_in_turn import probe_windows
from freelunch.adaptation.retraining.training_run import TrainingRun
from freelunch.adaptation.selection import candidate_facts
from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.core.files import json_text
from freelunch.model.blocks import block_linears
from freelunch.model.tensor_file import hidden_file
from freelunch.study.adaptations import Training
from freelunch.study.search import (
    PROBES,
    Probe,
    candidate_of,
    chosen_rate,
    first_rate,
    next_rate,
    probe_of,
    probe_settings,
)
from freelunch.study.steps import LEARNING_RATE
from freelunch.study.windows import MODEL, Window, split_windows


def find_rate(
    job: AdaptationJob[Training], name: str, window: Window, streamed: bool = False
) -> Artifact:
    """Probe learning rates of an adaptation of this name, and write which is best, and the losses
    of all. What an interrupted search has tried is not tried again.

    A probe of windows trains the first, a middle one and the last, on the dense model's activations
    even if the adaptation itself goes on from adapted windows. A probe of a retraining is a
    retraining with fewer steps.

    UserError: the sample is too small, or every rate diverges.
    """
    units = [range(0)] if window == MODEL else split_windows(job.model.num_blocks, window)
    probe = probe_of(job.settings, job.states.sequences, len(units))
    if probe is None:
        raise UserError(
            "the sample is too small to find a learning rate on a part of it",
            where="learning_rate",
            found=f"{job.states.sequences} sequences",
            todo="set a learning rate, or train on more sequences",
        )
    # Before the first probe: the folder's lock.
    writer = job.writer(kind=LEARNING_RATE)
    probes = _Probes(job, window, streamed, probe, [units[at] for at in probe.windows])
    losses: dict[float, float] = {}
    candidates: dict[str, dict[str, Any]] = {}
    first = first_rate(job.settings, _size(job))
    while (rate := next_rate(first, losses, probe.rates)) is not None:
        candidate, settings = candidate_of(name, job.settings, rate, job.settings.passes)
        file = f"{candidate}.json"
        if file not in writer:
            writer.add_text(file, json_text(probes.results(rate)))
        results = json.loads((job.folder / file).read_text(encoding="utf-8"))
        losses[rate] = _loss(results)
        candidates[candidate] = {
            **candidate_facts(settings, results),
            "relative_loss": losses[rate] if math.isfinite(losses[rate]) else None,
        }
        job.report(len(losses), probe.rates, f"learning rates ({rate:g}: {losses[rate]:.4f})")
    chosen, _ = candidate_of(name, job.settings, chosen_rate(first, losses), job.settings.passes)
    if candidates[chosen]["relative_loss"] is None:
        raise UserError(
            "training diverges with every learning rate that was tried",
            where=job.folder,
            found=", ".join(f"{rate:g}" for rate in losses),
            todo="set a lower learning rate",
        )
    choice = {"selected_on": PROBES, "chosen": chosen, "candidates": candidates}
    return job.finish(writer, window, choice=choice, probe=probe._asdict())


class _Probes:
    """Probes of the same sequences and windows with different learning rates."""

    def __init__(
        self,
        job: AdaptationJob[Training],
        window: Window,
        streamed: bool,
        probe: Probe,
        windows: list[range],
    ) -> None:
        self._window, self._streamed, self._windows = window, streamed, windows
        settings = probe_settings(job.settings, probe)
        self._job: AdaptationJob[Any] = replace(
            job,
            settings=settings,
            folder=job.folder.with_name(f"{job.folder.name}.probe"),
            stop_at_divergence=False,
            probed=range(probe.held_out, probe.held_out + probe.sequences),
        )
        needed = {at for each in windows for at in (each.start, each.stop)}
        if window == MODEL:
            needed = {job.model.num_blocks} if settings.distils else set()
        for boundary in sorted(needed):
            # Not once for each rate, if no dense pass has kept them.
            if boundary not in job.states:
                path = job.states.scratch / f"probe-{hidden_file(boundary)}"
                job.states.write(boundary, path)
                job.states.note(boundary, path)

    def results(self, rate: float) -> dict[str, dict[str, Any]]:
        """Return what comes of each window with a rate, by the window's name, as JSON."""
        settings = self._job.settings.model_copy(update={"learning_rate": rate})
        job = replace(self._job, settings=settings)
        if self._window == MODEL:
            training = TrainingRun(job, self._streamed)
            results = {MODEL: training.run(math.inf)[0]}
            training.remove()
        else:
            results = probe_windows(job, self._window, self._windows)
        return {name: result.as_json() for name, result in results.items()}


def _size(job: AdaptationJob[Training]) -> float:
    """Return the root mean square of the kept weights of the first and the last block."""
    weights = [
        linear.weight[keep[name]]
        for index in sorted({0, job.model.num_blocks - 1})
        for block, keep in [job.load_block(index)]
        for name, linear in block_linears(block).items()
    ]
    squares = math.fsum(float(each.float().square().sum()) for each in weights)
    return math.sqrt(squares / sum(map(len, weights)))


def _loss(results: Mapping[str, Mapping[str, Any]]) -> float:
    """Return the mean over windows of the loss after a probe as a share of the loss before it;
    infinite if one diverged.
    """
    if any("diverged_at_step" in each for each in results.values()):
        return math.inf
    shares = [
        each["loss_after"] / each["loss_before"] if each["loss_before"] else 1.0
        for each in results.values()
    ]
    return math.fsum(shares) / len(shares)
