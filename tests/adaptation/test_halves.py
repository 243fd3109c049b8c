"""The halves of a block, attention and MLP: together they are the block."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from freelunch.model.blocks import block_linears, half
from freelunch.model.checkpoint import StreamedModel
from freelunch.study.families import halves_of, whole_of
from tiny_models import FAMILIES, LENGTH, VARIANTS, tiny_checkpoint
from windows_for_tests import PARALLEL


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        *((family, {}) for family in FAMILIES if family not in PARALLEL),
        VARIANTS["gpt_neox in sequence"],
        VARIANTS["falcon in sequence"],
    ],
    ids=str,
)
@torch.no_grad()
def test_the_halves_are_the_block(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    """Attention, then MLP: the hidden states between are those before the MLP's own norm."""
    model = StreamedModel(tiny_checkpoint(tmp_path, family, **changes).folder)
    assert whole_of(model.config.to_dict()) is None
    parts = halves_of(model.config.model_type, None)
    hidden = torch.randn(2, LENGTH, model.config.hidden_size, generator=torch.manual_seed(0))
    for index, call in enumerate(model.calls(2, LENGTH)):
        block = model.load_block(index)
        before_mlp: list[Tensor] = []
        handle = block.get_submodule(parts.mlp_half[0]).register_forward_pre_hook(
            lambda _, args, found=before_mlp: found.append(args[0])
        )
        expected = call(block, hidden)
        handle.remove()
        middle = call(half(block, parts, out=parts.mlp_half), hidden)
        torch.testing.assert_close(middle, before_mlp[0].reshape(middle.shape), rtol=0, atol=0)
        found = call(half(block, parts, out=parts.attention_half), middle)
        torch.testing.assert_close(found, expected, rtol=0, atol=0)
        assert (middle - hidden).abs().max() > 1e-3 and (found - middle).abs().max() > 1e-3
    block = model.load_block(0)
    attention, mlp = (
        {id(value) for value in half(block, parts, out).parameters()}
        for out in (parts.mlp_half, parts.attention_half)
    )
    assert attention | mlp == {id(value) for value in block.parameters()}
    assert not attention & mlp
    assert set(block_linears(half(block, parts, parts.mlp_half))) == {
        name for name in block_linears(block) if name.startswith(parts.attention)
    }
