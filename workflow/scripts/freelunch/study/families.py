"""What has to be known of a model family beyond its module tree: names of the parts of a block.

Whole blocks and single matrices need none of this: they are found, and their calls are recorded.
Whatever lies between (halves of a block, heads, channels) needs the names below.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from freelunch.core.errors import UserError


@dataclass(frozen=True)
class Family:
    """Names in a decoder block. Where one linear layer holds several parts, their rows follow each
    other in the order of the fields.

    Attributes:
        query: Linear layer whose rows are the query heads.
        key: The same of the key heads.
        value: The same of the value heads.
        attention_output: Linear layer whose columns are the query heads.
        mlp_inputs: Linear layers whose rows are the MLP's channels.
        mlp_output: Linear layer whose columns are the channels.
        attention: The module that is the attention.
        attention_half: Modules of the block whose output the attention adds to the residual
            stream: its norms and itself.
        mlp_half: The same of the MLP. Together the two halves are the block.
        biases: Settings of the model's config that give every linear layer of a block a bias; None
            where output projections can have none.
    """

    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    attention_output: str = "self_attn.o_proj"
    mlp_inputs: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    mlp_output: str = "mlp.down_proj"
    attention: str = "self_attn"
    attention_half: tuple[str, ...] = ("input_layernorm", "self_attn")
    mlp_half: tuple[str, ...] = ("post_attention_layernorm", "mlp")
    biases: Mapping[str, Any] | None = None

    @property
    def linears(self) -> tuple[str, ...]:
        """Return the names of a block's linear layers, in the order of `Shapes.matrices`."""
        attention = (self.query, self.key, self.value, self.attention_output)
        return tuple(dict.fromkeys((*attention, *self.mlp_inputs, self.mlp_output)))


_LLAMA = Family()
_FUSED = "self_attn.qkv_proj"
# Norms on both sides of attention and MLP.
_GEMMA = replace(
    _LLAMA,
    attention_half=("input_layernorm", "self_attn", "post_attention_layernorm"),
    mlp_half=("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
)
# By `model_type` of the config.
FAMILIES = {
    "llama": replace(_LLAMA, biases={"attention_bias": True, "mlp_bias": True}),
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi3": replace(
        _LLAMA,
        query=_FUSED,
        key=_FUSED,
        value=_FUSED,
        mlp_inputs=("mlp.gate_up_proj", "mlp.gate_up_proj"),
    ),
    "opt": replace(
        _LLAMA,
        attention_output="self_attn.out_proj",
        mlp_inputs=("fc1",),
        mlp_output="fc2",
        attention_half=("self_attn_layer_norm", "self_attn"),
        mlp_half=("final_layer_norm", "fc1", "fc2"),
        biases={"enable_bias": True},
    ),
}


def biases_of(model_type: str) -> dict[str, Any]:
    """Return what a model's config has to say for all its linear layers to have a bias.

    Raises:
        UserError: The family's output projections can have none, or it is not in the table.
    """
    biases = family_of(model_type).biases
    if biases is None:
        raise UserError(
            "this family has no bias to put the mean of what was pruned into",
            where=model_type,
            expected=", ".join(name for name, it in FAMILIES.items() if it.biases is not None),
            todo="set `bias_compensation: false` for this criterion",
        )
    return dict(biases)


def family_of(model_type: str) -> Family:
    """Return a family's entry; UserError if there is none."""
    if model_type not in FAMILIES:
        raise UserError(
            "the parts of this family's blocks are not known, so it can be worked on by whole "
            "blocks and single matrices only, not by halves of blocks, heads or channels",
            where=model_type,
            expected=f"one of {', '.join(FAMILIES)}",
            todo="add the family to workflow/scripts/freelunch/study/families.py: names of its "
            "linear layers and of the modules of each half of a block",
        )
    return FAMILIES[model_type]


def is_fused(model_type: str) -> bool:
    """Tell whether one linear layer holds queries, keys and values, and one both MLP inputs."""
    family = FAMILIES.get(model_type)
    return family is not None and family.query == family.key


def halves_of(model_type: str, norms_before: bool) -> Family:
    """Return the entry of a family whose blocks have two halves.

    Args:
        model_type: The family.
        norms_before: Whether norms come before attention and MLP, and not on the residual stream.

    Raises:
        UserError: The family is not in the table, or its norms lie on the residual stream itself.
    """
    family = family_of(model_type)
    if not norms_before:
        raise UserError(
            "the norms of this model lie on the residual stream, so its blocks have no halves that "
            "add to it",
            where=model_type,
            found="do_layer_norm_before = false",
            expected="a window of whole blocks, or matrix",
        )
    return family


def has_halves(model_type: str, norms_before: bool) -> bool:
    """Tell whether a window of half a block is possible."""
    return norms_before and model_type in FAMILIES
