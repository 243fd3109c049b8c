"""Model families: the names of the parts of a decoder block.

Whole blocks and single matrices need no names: they are found in the module tree, and their calls
are recorded. Everything in between (halves of a block, heads, channels) needs the names below.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from freelunch.core.errors import UserError


@dataclass(frozen=True)
class Family:
    """Names of the modules in a decoder block. If one linear layer holds several parts, their rows
    follow each other in the order of the fields.

    Attributes:
        query: Linear layer whose rows are the query heads.
        key: Linear layer whose rows are the key heads.
        value: Linear layer whose rows are the value heads.
        attention_output: Linear layer whose columns are the query heads.
        mlp_inputs: Linear layers whose rows are the MLP's channels.
        mlp_output: Linear layer whose columns are the MLP's channels.
        attention: The attention module.
        attention_half: Modules that compute what attention adds to the residual stream: its norms
            and the attention itself.
        mlp_half: Modules that compute what the MLP adds. Together the two halves are the block.
        biases: Settings of the model's config that give every linear layer of a block a bias; None
            if the output projections cannot have one.
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
# Keyed by the `model_type` of a model's config.
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
    """Return the settings of a model's config that give all its linear layers a bias.

    Raises:
        UserError: The family's output projections cannot have a bias, or it is not in the table.
    """
    biases = family_of(model_type).biases
    if biases is None:
        raise UserError(
            "the output projections of this family cannot have the bias that compensation needs",
            where=model_type,
            expected=", ".join(name for name, it in FAMILIES.items() if it.biases is not None),
            todo="set `bias_compensation: false` for this criterion",
        )
    return dict(biases)


def family_of(model_type: str) -> Family:
    """Return a family's entry; UserError if there is none."""
    if model_type not in FAMILIES:
        raise UserError(
            "the parts of this family's blocks are not known, so only whole blocks and single "
            "matrices can be adapted or pruned, not halves of blocks, heads or channels",
            where=model_type,
            expected=f"one of {', '.join(FAMILIES)}",
            todo="add the family to workflow/scripts/freelunch/study/families.py, with the names "
            "of its linear layers and of the modules in each half of a block",
        )
    return FAMILIES[model_type]


def is_fused(model_type: str) -> bool:
    """Return whether one linear layer holds queries, keys and values, and one both MLP inputs."""
    family = FAMILIES.get(model_type)
    return family is not None and family.query == family.key


def halves_of(model_type: str, norms_before: bool) -> Family:
    """Return the entry of a family whose blocks have two halves.

    Args:
        model_type: The family.
        norms_before: Whether norms precede attention and MLP and leave the residual stream alone.

    Raises:
        UserError: The family is not in the table, or its norms act on the residual stream.
    """
    family = family_of(model_type)
    if not norms_before:
        raise UserError(
            "the norms of this model act on the residual stream, so its blocks have no halves that "
            "add to it",
            where=model_type,
            found="do_layer_norm_before = false",
            expected="a window of whole blocks, or matrix",
        )
    return family


def has_halves(model_type: str, norms_before: bool) -> bool:
    """Return whether half a block can be a window."""
    return norms_before and model_type in FAMILIES
