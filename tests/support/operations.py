"""Operations as torch counts them, including attention."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch._C import DispatchKey
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry


class Counter(TorchDispatchMode):
    """Counts by torch's formulas.

    Torch's own `FlopCounterMode` also keeps a count for each module, which takes most of its time,
    and omits attention on a CPU.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        aten = torch.ops.aten
        self._formulas: dict[Any, Callable[..., int]] = {
            **flop_registry,
            aten._scaled_dot_product_flash_attention_for_cpu: _attention,
            aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
        }

    def __torch_dispatch__(
        self, function: Any, types: object, given: Any = (), named: Any = None
    ) -> Any:
        named = named or {}
        formula = self._formulas.get(function._overloadpacket)
        if formula is None and _consists_of_others(function):
            with self:
                return function.decompose(*given, **named)
        result = function(*given, **named)
        if formula is not None:
            self.operations += formula(*given, **named, out_val=result)
        return result


@cache
def _consists_of_others(function: torch._ops.OpOverload) -> bool:
    return function.has_kernel_for_dispatch_key(DispatchKey.CompositeImplicitAutograd)


def _attention(query: torch.Tensor, *_: Any, **__: Any) -> int:
    """Return the operations of causal attention: half of those of two matrix products."""
    batch, heads, length, size = query.shape
    return 2 * batch * heads * length * length * size


def _attention_backward(_: torch.Tensor, query: torch.Tensor, *__: Any, **___: Any) -> int:
    return 2 * _attention(query)
