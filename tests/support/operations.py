"""Operations as torch counts them, including attention."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def counted_operations() -> FlopCounterMode:
    """Return torch's counter, extended by attention on a CPU, which it omits by default."""
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    return FlopCounterMode(
        display=False, custom_mapping={kernel: _attention, backward: _attention_backward}
    )


def _attention(query: Sequence[int], *_: Any, **__: Any) -> int:
    """Return the operations of causal attention: half of those of two matrix products."""
    batch, heads, length, size = query
    return 2 * batch * heads * length * length * size


def _attention_backward(_: Sequence[int], query: Sequence[int], *__: Any, **___: Any) -> int:
    return 2 * _attention(query)
