"""A window of the pruned model, ready to be adapted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from freelunch.adaptation.training.parameters import (
    Masked,
    TrainedParameters,
    nothing_trained,
    other_parameters,
)
from freelunch.model.blocks import BlockCall, block_linears
from freelunch.model.mask_store import round_
from freelunch.study.methods import Trained

# Returns the calls of a window's modules for a batch with this number of sequences.
Calls = Callable[[int], Sequence[BlockCall]]


@dataclass
class WindowModules:
    """Pruned modules that are adapted together.

    Attributes:
        name: Name of the window, by its blocks and its part of them: "3-4", "3.attention",
            "3.self_attn.q_proj".
        modules: Blocks, one half of a block, or one linear layer; each takes the output of the one
            before it.
        calls: Returns how the modules are called, given the number of sequences in a batch.
        keep_masks: For each module, the masks of its linear layers by name in the module, (out,
            in), bool, True where the weight is kept.
        pruned: Yields the pruned parameters of each module, by name, for `restore_`.
        dtype: Precision of the checkpoint.
        device: Device on which the modules run.
    """

    name: str
    modules: Sequence[nn.Module]
    calls: Calls
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

    def widen_(self) -> None:
        """Convert the weights to float32, in which they are trained."""
        for module in self.modules:
            module.float()

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
    def restore_(self) -> None:
        """Restore the weights that pruning left."""
        for module, before in zip(self.modules, self.pruned(), strict=True):
            for name, parameter in module.named_parameters():
                parameter.copy_(before[name])

    def round_(self) -> None:
        """Round the weights to the checkpoint's precision; they are still stored as float32."""
        parameters = (each for module in self.modules for each in module.parameters())
        masked = ((linear, keep) for _, linear, keep in self.masked())
        round_(parameters, masked, self.dtype)

    def settle_(self) -> None:
        """Convert the rounded weights to the checkpoint's precision."""
        for module in self.modules:
            module.requires_grad_(False).to(self.dtype)


def _in_float32(arguments: Any) -> Any:
    """Return arguments of a block with every floating-point tensor in float32.

    Tensors in float32 are returned as they are, and so is what holds no tensor.
    """
    match arguments:
        case Tensor() if arguments.is_floating_point():
            return arguments.float()
        case tuple() | list():
            return type(arguments)(map(_in_float32, arguments))
        case dict():
            return {name: _in_float32(each) for name, each in arguments.items()}
    return arguments
