"""Model families: the names of the parts of a decoder block.

Whole blocks and single matrices need no names: they are found in the module tree, and their calls
are recorded. Everything in between (halves of a block, heads, channels) needs the names below.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from freelunch.core.errors import UserError

# A transformers config, or an excerpt with the same keys.
ModelConfig = Mapping[str, Any]


class Whole(NamedTuple):
    """A setting of a model's config with which its blocks have no halves."""

    setting: str
    value: bool
    # The value of a config without the setting.
    default: bool
    because: str


class Scores(NamedTuple):
    """What attention holds of the scores of all pairs of tokens, for each head and pair: copies at
    the peak of the pass, in its precision, beside their softmax in float32; and numbers that are
    kept for the backward pass.
    """

    passed: int
    saved: int


@dataclass(frozen=True)
class Family:
    """Names of the modules in a decoder block, and how they are called."""

    # Linear layers whose rows are the heads of each kind; the layer whose columns are the query
    # heads; and those whose rows and whose columns are the MLP's channels.
    query: str = "self_attn.q_proj"
    key: str = "self_attn.k_proj"
    value: str = "self_attn.v_proj"
    attention_output: str = "self_attn.o_proj"
    mlp_inputs: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    mlp_output: str = "mlp.down_proj"
    # The attention module; the modules that compute what attention adds to the residual stream (its
    # norms and itself), and what the MLP adds. Together the two halves are the block.
    attention: str = "self_attn"
    attention_half: tuple[str, ...] = ("input_layernorm", "self_attn")
    mlp_half: tuple[str, ...] = ("post_attention_layernorm", "mlp")
    # Settings that give every linear layer of a block a bias; None if the output projections cannot
    # have one. Settings of which each gives some layers a bias, with the defaults of a config; None
    # if some layers always have one.
    biases: Mapping[str, bool] | None = None
    some_biases: Mapping[str, bool] | None = field(default_factory=dict)
    # Whether one linear layer holds the rows of each key head after those of its query heads and
    # before its value head; if not, all queries, then all keys, all values.
    by_key_head: bool = False
    # Whether attention and MLP get the residual stream as their second argument, and add it.
    adds_residual: bool = False
    # Whether norms act on queries and keys, and whether one of them spans those of all heads.
    query_key_norms: bool = False
    norms_all_heads: bool = False
    # None if one of torch's kernels computes the scores, a few at a time.
    scores: Scores | None = None
    wholes: tuple[Whole, ...] = ()
    # If the config does not say it: the width of a head (None: the hidden size divided by the
    # number of query heads), whether the head shares the embedding's weights, and the highest rate
    # of dropout within a block.
    head_dim: int | None = None
    tied: bool = False
    dropout: float | None = None

    @property
    def fused(self) -> bool:
        """Whether one linear layer holds queries, keys and values, and one the MLP's inputs."""
        return self.query == self.key

    @property
    def norms(self) -> int:
        """How many norms of the hidden size a block has."""
        return sum("norm" in name for name in (*self.attention_half, *self.mlp_half))

    @property
    def begins_with_norm(self) -> bool:
        """Whether a norm precedes the attention."""
        return self.attention_half[0] != self.attention

    @property
    def gated(self) -> bool:
        """Whether the MLP has two inputs."""
        return len(self.mlp_inputs) == 2


def _fused(linear: str, family: Family, **names: Any) -> Family:
    return replace(family, query=linear, key=linear, value=linear, **names)


_PARALLEL = "attention and MLP both read the block's input, so that neither half follows the other"
_ON_STREAM = "norms act on the residual stream, so that no half only adds to it"
_LLAMA = Family()
_ATTENTION_BIAS = {"attention_bias": False}
_ALL_BIASES = replace(
    _LLAMA,
    biases={"attention_bias": True, "mlp_bias": True},
    some_biases={**_ATTENTION_BIAS, "mlp_bias": False},
)
# Norms on both sides of attention and MLP.
_GEMMA = replace(
    _LLAMA,
    attention_half=("input_layernorm", "self_attn", "post_attention_layernorm"),
    mlp_half=("pre_feedforward_layernorm", "mlp", "post_feedforward_layernorm"),
    some_biases=_ATTENTION_BIAS,
    head_dim=256,
    tied=True,
)
_NEOX = _fused(
    "attention.query_key_value",
    _LLAMA,
    attention_output="attention.dense",
    mlp_inputs=("mlp.dense_h_to_4h",),
    mlp_output="mlp.dense_4h_to_h",
    attention="attention",
    attention_half=("input_layernorm", "attention"),
    biases={"attention_bias": True},
    some_biases=None,
    by_key_head=True,
    wholes=(Whole("use_parallel_residual", True, True, _PARALLEL),),
)
_BLOOM = _fused(
    "self_attention.query_key_value",
    _NEOX,
    attention_output="self_attention.dense",
    attention="self_attention",
    attention_half=("input_layernorm", "self_attention"),
    # Its linear layers always have one.
    biases={},
    adds_residual=True,
    # Scores and masked scores; the softmax is saved.
    scores=Scores(passed=2, saved=1),
    wholes=(Whole("apply_residual_connection_post_layernorm", True, False, _ON_STREAM),),
    tied=True,
)
# Keyed by the `model_type` of a model's config.
FAMILIES = {
    "llama": _ALL_BIASES,
    "mistral": _LLAMA,
    "qwen2": replace(_LLAMA, some_biases=None),
    "qwen3": replace(_LLAMA, head_dim=128, query_key_norms=True, some_biases=_ATTENTION_BIAS),
    "smollm3": replace(_ALL_BIASES, tied=True),
    "granite": _ALL_BIASES,
    # Norms behind attention and MLP only.
    "olmo2": replace(
        _LLAMA,
        attention_half=("self_attn", "post_attention_layernorm"),
        mlp_half=("mlp", "post_feedforward_layernorm"),
        some_biases=_ATTENTION_BIAS,
        query_key_norms=True,
        norms_all_heads=True,
    ),
    "gemma": replace(_LLAMA, head_dim=256, some_biases=_ATTENTION_BIAS, tied=True),
    # No kernel caps scores. Each step replaces the scores of the one before. The hyperbolic tangent
    # and the softmax are saved.
    "gemma2": replace(_GEMMA, scores=Scores(passed=1, saved=2)),
    "gemma3_text": replace(_GEMMA, query_key_norms=True),
    "phi3": _fused("self_attn.qkv_proj", _LLAMA, mlp_inputs=("mlp.gate_up_proj",) * 2),
    "opt": replace(
        _LLAMA,
        attention_output="self_attn.out_proj",
        mlp_inputs=("fc1",),
        mlp_output="fc2",
        attention_half=("self_attn_layer_norm", "self_attn"),
        mlp_half=("final_layer_norm", "fc1", "fc2"),
        biases={"enable_bias": True},
        some_biases={"enable_bias": True},
        wholes=(Whole("do_layer_norm_before", False, True, _ON_STREAM),),
        tied=True,
        dropout=0.1,
    ),
    "gpt_neox": _NEOX,
    "bloom": _BLOOM,
    "falcon": replace(
        _BLOOM,
        biases={"bias": True},
        some_biases={"bias": False},
        adds_residual=False,
        scores=None,
        wholes=(
            Whole("parallel_attn", True, True, _PARALLEL),
            Whole("new_decoder_architecture", True, False, _PARALLEL),
        ),
    ),
}
_UNGATED = replace(_LLAMA, mlp_inputs=("mlp.up_proj",))
_UNGATED_TIED = replace(_UNGATED, tied=True)
_FUSED_UNGATED = _fused("attention.qkv_proj", _UNGATED)
# What the shapes of other families differ in from Llama's. The names are not theirs: halves of
# their blocks, heads and channels cannot be adapted or pruned.
SHAPED_LIKE = {
    **dict.fromkeys(("apertus", "arcee", "gptj", "jais2", "nanochat", "nemotron", "phi"), _UNGATED),
    **dict.fromkeys(("biogpt", "gpt_neo", "starcoder2", "xglm"), _UNGATED_TIED),
    **dict.fromkeys(("codegen", "persimmon"), _FUSED_UNGATED),
    **dict.fromkeys(("gpt_bigcode", "mpt"), replace(_FUSED_UNGATED, tied=True)),
    **dict.fromkeys(("cohere", "cohere2", "vaultgemma"), replace(_LLAMA, tied=True)),
}


# Other families' names of sizes, by Llama's.
OTHER_NAMES = {
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "hidden_size": ("n_embed", "n_embd", "d_model"),
    "num_attention_heads": ("n_head", "n_heads", "num_heads", "attention_heads"),
    "num_key_value_heads": ("num_kv_heads",),
    "intermediate_size": ("ffn_dim", "ffn_hidden_size", "n_inner"),
    "max_position_embeddings": ("n_positions", "max_seq_len"),
}
# The width of their MLP, if the config does not say it, is four times the hidden size.
_FOUR_TIMES = ("bloom", "falcon", "gptj", "gpt_neo", "mpt", "codegen", "gpt_bigcode")


def tested() -> str:
    """Return which families are tested, as a phrase."""
    return f"these families are tested: {', '.join(FAMILIES)}"


def positions_of(config: ModelConfig) -> int | None:
    """Return the most tokens that a model's config allows in a sequence; None if it states none."""
    names = ("max_position_embeddings", *OTHER_NAMES["max_position_embeddings"])
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def sizes_of(config: ModelConfig) -> dict[str, Any]:
    """Return a model's config with the sizes under Llama's names, by any family."""
    sizes = dict(config)
    for ours, others in OTHER_NAMES.items():
        for other in others:
            if ours not in sizes and config.get(other) is not None:
                sizes[ours] = config[other]
    model_type, family = sizes.get("model_type"), shaped_like(sizes.get("model_type", ""))
    if model_type in _FOUR_TIMES and not sizes.get("intermediate_size"):
        sizes["intermediate_size"] = 4 * sizes["hidden_size"]
    if model_type == "gpt_bigcode" and config.get("multi_query", True):
        sizes["num_key_value_heads"] = 1
    if model_type == "falcon" and not config.get("new_decoder_architecture", False):
        multi_query = config.get("multi_query", True)
        sizes["num_key_value_heads"] = 1 if multi_query else sizes["num_attention_heads"]
    heads = sizes.get("num_attention_heads")
    sizes["num_key_value_heads"] = sizes.get("num_key_value_heads") or heads
    if not sizes.get("head_dim") and heads:
        sizes["head_dim"] = family.head_dim or sizes["hidden_size"] // heads
    sizes.setdefault("tie_word_embeddings", family.tied)
    return sizes


def shaped_like(model_type: str) -> Family:
    """Return the entry that has the shapes of a family: by default, Llama's."""
    return FAMILIES.get(model_type) or SHAPED_LIKE.get(model_type, _LLAMA)


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


def biases_of(model_type: str) -> dict[str, Any]:
    """Return the settings of a model's config that give all its linear layers a bias; UserError if
    the family's output projections cannot have one, or it is not in the table.
    """
    biases = family_of(model_type).biases
    if biases is None:
        raise UserError(
            "the output projections of this family cannot have the bias that compensation needs",
            where=model_type,
            expected=", ".join(name for name in FAMILIES if FAMILIES[name].biases is not None),
            todo="set `bias_compensation: false` for this criterion",
        )
    return dict(biases)


def has_biases(config: ModelConfig) -> bool | None:
    """Return whether some linear layers of a model's blocks have a bias, by its config or an
    excerpt; None if its family is not in the table.
    """
    family = FAMILIES.get(config.get("model_type", ""))
    if family is None or family.some_biases is None:
        return None if family is None else True
    return any(config.get(key, usual) for key, usual in family.some_biases.items())


def units_of(model_type: str) -> Family:
    """Return the entry of a family whose heads and channels can be pruned; UserError if it is not
    in the table, or pruning a head would change other heads.
    """
    family = family_of(model_type)
    if family.norms_all_heads:
        raise UserError(
            "whole heads cannot be pruned in this family: one norm spans the queries of all heads, "
            "so that each head depends on all others",
            where=model_type,
            expected="a pattern of single weights, uNN or NofM",
        )
    return family


def whole_of(config: ModelConfig) -> Whole | None:
    """Return the setting with which a model's blocks have no halves; None if they have halves."""
    family = FAMILIES.get(config.get("model_type", ""))
    for whole in family.wholes if family else ():
        if config.get(whole.setting, whole.default) == whole.value:
            return whole
    return None


def halves_of(model_type: str, whole: Whole | None) -> Family:
    """Return the entry of a family whose blocks have two halves; UserError if it is not in the
    table, or the model's blocks have none, by what `whole_of` returns.
    """
    family = family_of(model_type)
    if whole is not None:
        raise UserError(
            f"the blocks of this model have no halves: {whole.because}",
            where=model_type,
            found=f"{whole.setting} = {str(whole.value).lower()}",
            expected="a window of whole blocks, or matrix",
        )
    return family


def has_halves(model_type: str, whole: Whole | None) -> bool:
    """Return whether half a block can be a window."""
    return whole is None and model_type in FAMILIES


# Keys of a config with the rates of dropout within a block, in every family that is tested.
_DROPOUT_RATES = ("dropout", "attention_dropout", "hidden_dropout", "resid_pdrop")


def dropout_of(config: ModelConfig) -> float | None:
    """Return the highest rate of dropout within a block, by a transformers config or an excerpt;
    None if it has no rate.
    """
    rates = [float(config[key] or 0.0) for key in _DROPOUT_RATES if key in config]
    family = FAMILIES.get(config.get("model_type", ""))
    if family and family.dropout is not None and "dropout" not in config:
        rates.append(family.dropout)
    return max(rates, default=None)


def check_dropout(rate: float | None, model_type: str) -> None:
    """Refuse, with a UserError, to keep dropout active if the rate is 0 or missing."""
    if not rate:
        raise UserError(
            "the blocks of this model have no dropout, so `model_dropout` would change nothing",
            where=model_type,
            found="a rate of 0" if rate == 0.0 else "no rate in its config",
            expected=f"a model such as OPT, with a rate above 0 as {', '.join(_DROPOUT_RATES)}",
            todo="remove `model_dropout` from the adaptation",
        )
