"""Watch the inputs and outputs of a block's linear layers during a pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from freelunch.model.blocks import block_linears


class LinearWatcher:
    """See the input and the output of each linear layer of a block.

    Layers that get the same tensor as input (q, k and v; gate and up) form a group, named after the
    first of them; their input is seen once. Subclasses decide what to do with inputs and outputs.

    Args:
        block: The block.

    Attributes:
        linears: The block's linear layers, by name.
        groups: The name of its group for each linear layer that was called, in the order of calls.
    """

    def __init__(self, block: nn.Module) -> None:
        self.linears = block_linears(block)
        self.groups: dict[str, str] = {}
        self._last: tuple[str, Tensor] | None = None

    def see_input(self, group: str, inputs: Tensor) -> None:
        """Handle the input of a group, (batch, length, features)."""

    def see_output(self, name: str, outputs: Tensor) -> None:
        """Handle the output of a layer, (batch, length, outputs)."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch all passes through the block within the `with` statement."""
        handles = []
        for name, linear in self.linears.items():
            handles.append(linear.register_forward_pre_hook(self._before(name)))
            handles.append(linear.register_forward_hook(self._after(name)))
        try:
            yield
        finally:
            self._last = None
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            tensor = inputs[0]
            same = self._last is not None and self._last[1] is tensor
            group = self._last[0] if same and self._last is not None else name
            if self.groups.setdefault(name, group) != group:
                raise RuntimeError(f"{name} shares its input with other layers than before")
            if group == name:
                self.see_input(name, tensor)
                self._last = (name, tensor)

        return note

    def _after(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
            self.see_output(name, outputs)

        return note
