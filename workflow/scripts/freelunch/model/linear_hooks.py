"""Watch the linear layers of a block while activations pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from freelunch.model.blocks import block_linears


class LinearWatcher:
    """See what enters and leaves each linear layer of a block.

    Layers that are fed the very same tensor (q, k and v; gate and up) form a group, named after the
    first of them; their input is seen once. Subclasses say what is done with what is seen.

    Args:
        block: The block.

    Attributes:
        linears: The block's linear layers, by name.
        groups: For each linear layer that was called, the name of its group, in the order of calls.
    """

    def __init__(self, block: nn.Module) -> None:
        self.linears = block_linears(block)
        self.groups: dict[str, str] = {}
        self._last: tuple[str, Tensor] | None = None

    def see_input(self, group: str, inputs: Tensor) -> None:
        """Take notice of the input of a group, (batch, length, features)."""

    def see_output(self, name: str, outputs: Tensor) -> None:
        """Take notice of the output of a layer, (batch, length, outputs)."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the block's passes."""
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
                raise RuntimeError(f"{name} shared its input with another layer before, not now")
            if group == name:
                self.see_input(name, tensor)
                self._last = (name, tensor)

        return note

    def _after(self, name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: Any, outputs: Tensor) -> None:
            self.see_output(name, outputs)

        return note
