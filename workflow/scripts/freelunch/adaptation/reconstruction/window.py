"""A window of the pruned model, ready to be adapted."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from freelunch.adaptation.training.matrices import Masked, TrainedParameters, other_parameters
from freelunch.model.blocks import BlockCall, block_linears
from freelunch.model.mask_store import round_
from freelunch.study.methods import Trained

# How the modules of a window are called, for a batch of so many sequences.
Calls = Callable[[int], Sequence[BlockCall]]


@dataclass
class Window:
    """Pruned modules that are adapted together.

    Attributes:
        name: Its blocks, and what of them: "3-4", "3.attention", "3.self_attn.q_proj".
        modules: Blocks, one half of a block, or one linear layer; each takes what the one before it
            returns.
        calls: How they are called.
        keep_masks: For each module, the mask of each of its linear layers, (out, in), bool, by name
            in the module.
        pruned: Yields for each module the parameters it had before, by name; to go back to.
        dtype: Precision of the checkpoint.
        device: Where passes run.
    """

    name: str
    modules: Sequence[nn.Module]
    calls: Calls
    keep_masks: Sequence[dict[str, Tensor]]
    pruned: Callable[[], Iterator[dict[str, Tensor]]]
    dtype: torch.dtype
    device: torch.device

    def __call__(self, hidden: Tensor, precision: torch.dtype) -> Tensor:
        """Return the outputs for inputs of (batch, length, features); not below `precision`."""
        half = precision != torch.float32
        if not half:
            hidden = hidden.float()
        calls = self.calls(len(hidden))
        with torch.autocast(self.device.type, precision) if half else nullcontext():
            for module, call in zip(self.modules, calls, strict=True):
                hidden = call(module, hidden)
        return hidden

    def masked(self) -> Iterator[Masked]:
        """Yield each linear layer with its name, after that of its module, and its mask."""
        for place, (module, masks) in enumerate(zip(self.modules, self.keep_masks, strict=True)):
            for name, linear in block_linears(module).items():
                yield f"{place}.{name}".rstrip("."), linear, masks[name]

    def widen_(self) -> None:
        """Turn the weights into float32, in which they are trained."""
        for module in self.modules:
            module.float()

    def train_(self, trained: Trained, seed: int) -> TrainedParameters:
        """Mark what is trained and return it; `seed` is that of what is drawn."""
        for module in self.modules:
            module.requires_grad_(False)
        others = other_parameters(self.modules, trained)
        return TrainedParameters(self.masked(), others, trained, seed)

    @torch.no_grad()
    def restore_(self) -> None:
        """Go back to what pruning left."""
        for module, before in zip(self.modules, self.pruned(), strict=True):
            for name, parameter in module.named_parameters():
                parameter.copy_(before[name])

    def round_(self) -> None:
        """Round the weights to what a checkpoint holds of them; they stay float32."""
        parameters = [it for module in self.modules for it in module.parameters()]
        masked = ((linear, keep) for _, linear, keep in self.masked())
        round_(parameters, masked, self.dtype)

    def settle_(self) -> None:
        """Give rounded weights the precision of a checkpoint."""
        for module in self.modules:
            module.requires_grad_(False).to(self.dtype)
