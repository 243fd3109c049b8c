"""How a model in training is passed."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class Passes:
    """How a model in training is passed.

    Attributes:
        precision: Precision of the passes; trained parameters are always float32.
        recompute: Whether the backward pass of a model in memory runs blocks again instead of
            keeping their activations (gradient checkpointing).
        streamed: Whether only one block is in memory at a time.
    """

    precision: torch.dtype
    recompute: bool = False
    streamed: bool = False

    def autocast(self, device: torch.device) -> AbstractContextManager[object]:
        """Return the context in which the model is passed."""
        if self.precision == torch.float32:
            return nullcontext()
        return torch.autocast(device.type, self.precision)

    def widen_(self, root: nn.Module, is_block: bool) -> None:
        """Widen norms and biases, in which passes need float32, and in passes in float32 everything
        but the matrices of blocks, which are widened when they are used.
        """
        everything = self.precision == torch.float32
        for module in root.modules():
            is_matrix = isinstance(module, nn.Linear) and is_block
            for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                # In some families, the weight of a norm must not be narrower than its input.
                narrow = isinstance(tensor, nn.Parameter) and tensor.dim() == 1
                if tensor.is_floating_point() and (narrow or (everything and not is_matrix)):
                    # Norms and biases may be trained in place, and the outer part shares its values
                    # with the dense model: they are copied even if they are float32.
                    tensor.data = tensor.data.to(torch.float32, copy=narrow)
