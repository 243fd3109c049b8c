"""Train a window of the pruned model by gradients, so that its outputs match the targets."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.adaptation.job import WindowResult
from freelunch.adaptation.training.optimisation import (
    divergence,
    precision_of,
    schedule,
    stepping_in_backward,
)
from freelunch.adaptation.training.parameters import (
    Masked,
    TrainedParameters,
    nothing_trained,
    other_parameters,
)
from freelunch.model.blocks import BlockCall, block_linears
from freelunch.model.mask_store import round_
from freelunch.model.tensor_file import HiddenStates
from freelunch.model.transfer import read_batches
from freelunch.study.adaptations import Reconstruction
from freelunch.study.cell import derive_seed
from freelunch.study.methods import Trained
from freelunch.study.steps import CHECK_SEQUENCES

Loss = Callable[[Tensor, Tensor], Tensor]


def mean_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean of (output - target)^2 over tokens and features, 0-d, float32; both are
    (batch, length, features), of any float dtype.
    """
    # The memory of torch's mean is as large as the outputs, and whoever keeps a loss keeps it all.
    return nn.functional.mse_loss(outputs.float(), targets.float()).clone()


def negative_cosine(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over tokens of 1 - cos(output, target), which does not train the scale.
    Computed as half the squared distance of the normalised vectors, it loses no precision where
    they are close: for equal vectors, both the loss and its gradient are exactly 0.
    """
    normalise = nn.functional.normalize
    distances = normalise(outputs.float(), dim=-1) - normalise(targets.float(), dim=-1)
    return distances.square().sum(-1).mean() / 2


def relative_squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over tokens of ||output - target||^2 / ||target||^2, so that all tokens have
    the same weight, even if one is a hundred times as large as the others (a massive
    activation).
    """
    targets = targets.float()
    error = (outputs.float() - targets).square().sum(-1)
    return (error / targets.square().sum(-1).clamp(min=torch.finfo(torch.float32).tiny)).mean()


# Losses by their names in the config.
LOSSES: dict[str, Loss] = {
    "mean_squared_error": mean_squared_error,
    "negative_cosine": negative_cosine,
    "relative_squared_error": relative_squared_error,
}


@dataclass
class WindowModules:
    """Pruned modules that are adapted together: blocks, one half of a block, or one linear layer;
    each takes the output of the one before it.

    Attributes:
        name: Name of the window, by its blocks and its part of them: "3-4", "3.attention",
            "3.self_attn.q_proj".
        calls: Returns how the modules are called, given the number of sequences in a batch.
        keep_masks: For each module, the masks of its linear layers by name in the module, (out,
            in), bool, True where the weight is kept.
        pruned: Yields the pruned parameters of each module, by name, for `restore_`.
        dtype: Precision of the checkpoint.
    """

    name: str
    modules: Sequence[nn.Module]
    calls: Callable[[int], Sequence[BlockCall]]
    keep_masks: Sequence[dict[str, Tensor]]
    pruned: Callable[[], Iterator[dict[str, Tensor]]]
    dtype: torch.dtype
    device: torch.device

    def __call__(self, hidden: Tensor, precision: torch.dtype) -> Tensor:
        """Return the outputs for inputs of (batch, length, features), computed in `precision` or
        higher.
        """
        half = precision != torch.float32
        calls = self.calls(len(hidden))
        if not half:
            hidden = hidden.float()
            # Calls are recorded in the checkpoint's precision. Most blocks convert what they get;
            # those that bias attention by distance (ALiBi) do not.
            calls = [BlockCall(_in_float32(call.args), _in_float32(call.kwargs)) for call in calls]
        with torch.autocast(self.device.type, precision) if half else nullcontext():
            for module, call in zip(self.modules, calls, strict=True):
                hidden = call(module, hidden)
        return hidden

    def masked(self) -> Iterator[Masked]:
        """Yield the name, layer and mask of each linear layer; names start with a module index."""
        for place, (module, masks) in enumerate(zip(self.modules, self.keep_masks, strict=True)):
            for name, linear in block_linears(module).items():
                yield f"{place}.{name}".rstrip("."), linear, masks[name]

    def train_(self, trained: Trained, seed: int) -> TrainedParameters:
        """Mark the parameters to train and return them; `seed` is that of random initial values."""
        for module in self.modules:
            module.requires_grad_(False)
        others = other_parameters(self.modules, trained)
        parameters = TrainedParameters(self.masked(), others, trained, seed)
        if not parameters.parameters:
            raise nothing_trained(name for name, _, _ in self.masked())
        return parameters

    def drop_(self, on: bool) -> None:
        """Turn the model's own dropout in these modules on or off."""
        for module in self.modules:
            module.train(on)

    @torch.no_grad()
    def loss(
        self,
        inputs: HiddenStates,
        targets: HiddenStates,
        loss: Loss,
        precision: torch.dtype,
        sequences: int = CHECK_SEQUENCES,
    ) -> float:
        """Return the mean loss on the first sequences."""
        rows = [slice(row, row + 1) for row in range(min(sequences, len(inputs)))]
        losses = [
            loss(self(entering, precision), wanted)
            for entering, wanted in read_batches(self.device, rows, inputs, targets)
        ]
        return float(torch.stack(losses).mean())

    @torch.no_grad()
    def restore_(self) -> None:
        """Restore the weights that pruning left."""
        for module, before in zip(self.modules, self.pruned(), strict=True):
            for name, parameter in module.named_parameters():
                parameter.copy_(before[name])

    def result_(self, before: float, after: float, steps: int, count: int) -> WindowResult:
        """Return what came of the window from its losses; restore the pruned weights if the adapted
        ones are worse.
        """
        kept_pruned = not after <= before
        if kept_pruned:
            self.restore_()
        return WindowResult(before, before if kept_pruned else after, steps, count, kept_pruned)

    def round_(self) -> None:
        """Round the weights to the checkpoint's precision; they are still stored as float32."""
        parameters = (each for module in self.modules for each in module.parameters())
        masked = ((linear, keep) for _, linear, keep in self.masked())
        round_(parameters, masked, self.dtype)


def train_window_(
    window: WindowModules,
    inputs: HiddenStates,
    targets: HiddenStates,
    settings: Reconstruction,
    seed: int,
    stop_at_divergence: bool = True,
    rows: range | None = None,
) -> WindowResult:
    """Train a window, with float32 weights, in place, on its inputs and targets, each (sequences,
    length, features). The seed is that of the order of the sequences, and of the model's own
    dropout. A loss that is not finite is an error if `stop_at_divergence`; the window then has
    its pruned weights again.
    """
    precision, loss = precision_of(settings, window.dtype), LOSSES[settings.loss]
    rows = range(len(inputs)) if rows is None else rows
    checked = min(CHECK_SEQUENCES, rows.start or CHECK_SEQUENCES)
    before = window.loss(inputs, targets, loss, precision, checked)
    trained = window.train_(settings.trained, seed)
    losses: list[Tensor] = []
    diverged: int | None = None
    steps = list(schedule(settings, rows, seed))
    batches = read_batches(window.device, [rows for _, rows, _ in steps], inputs, targets)
    if settings.model_dropout:
        torch.manual_seed(derive_seed(seed, "dropout"))
    window.drop_(settings.model_dropout)
    with stepping_in_backward(trained, settings.optimiser) as set_rate:
        for (rate, _, ends_epoch), (entering, wanted) in zip(steps, batches, strict=True):
            set_rate(rate)
            value = loss(window(entering, precision), wanted)
            torch.autograd.backward(value)
            losses.append(value.detach())
            # Check once per epoch: on a GPU, reading a loss waits for the device.
            if ends_epoch and (diverged := _first_not_finite(losses)) is not None:
                break
    window.drop_(False)
    trained.merge_()
    steps_taken, count, after = len(losses), trained.count, before
    if diverged is None:
        window.round_()
        after = window.loss(inputs, targets, loss, precision, checked)
        if math.isfinite(after):
            return window.result_(before, after, steps_taken, count)
        # The last step diverged: no later step computed a loss with its weights.
        losses.append(torch.tensor(after))
        diverged = len(losses) - 1
    window.restore_()
    step = min(diverged + 1, steps_taken)
    if stop_at_divergence:
        raise divergence(
            f"reconstruction diverged in the window {window.name}",
            f"step {step}",
            [float(loss) for loss in losses],
            settings,
            "windows finished before are kept",
        )
    return WindowResult(before, before, steps_taken, count, True, step)


def _first_not_finite(losses: list[Tensor]) -> int | None:
    bad = torch.nonzero(~torch.isfinite(torch.stack(losses)))
    return int(bad[0]) if len(bad) else None


def _in_float32(arguments: Any) -> Any:
    """Return arguments of a block with every floating-point tensor in float32, and all else as it
    is.
    """
    match arguments:
        case Tensor() if arguments.is_floating_point():
            return arguments.float()
        case tuple() | list():
            return type(arguments)(map(_in_float32, arguments))
        case dict():
            return {name: _in_float32(each) for name, each in arguments.items()}
    return arguments
