"""What is said of families, beside what transformers makes of them."""

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from freelunch.model.blocks import find_blocks
from freelunch.study.families import has_biases
from tiny_models import BLOCKS, FAMILIES, VARIANTS, tiny_config

ALIKE: dict[str, tuple[str, dict[str, Any]]] = {
    **{family: (family, {}) for family in FAMILIES},
    **VARIANTS,
    **{
        f"{family} with {key}": (family, {key: True})
        for family, keys in {
            "llama": ("attention_bias", "mlp_bias"),
            "qwen3": ("attention_bias",),
            "smollm3": ("attention_bias", "mlp_bias"),
            "granite": ("attention_bias", "mlp_bias"),
            "olmo2": ("attention_bias",),
            "gemma": ("attention_bias",),
            "gemma2": ("attention_bias",),
            "gemma3_text": ("attention_bias",),
            "falcon": ("bias",),
        }.items()
        for key in keys
    },
    "opt without": ("opt", {"enable_bias": False}),
    "gpt_neox without": ("gpt_neox", {"attention_bias": False}),
}


@pytest.mark.parametrize(("family", "changes"), ALIKE.values(), ids=ALIKE)
def test_biases_are_those_that_transformers_makes(family: str, changes: dict[str, Any]) -> None:
    config = tiny_config(family, **changes)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    block = model.get_submodule(find_blocks(model, BLOCKS))[0]
    found = any(it.bias is not None for it in block.modules() if isinstance(it, nn.Linear))
    assert has_biases(config.to_dict()) is found
    if not changes:
        # What a hub's config.json or `architecture` leaves out is the family's own.
        assert has_biases({"model_type": family}) is found


def test_of_an_unknown_family_nothing_is_said() -> None:
    assert has_biases({"model_type": "other"}) is None
