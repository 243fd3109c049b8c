"""Models that are refused by their configs: kinds that are not supported, and impossible numbers.

They are refused as soon as the config is known. A step would otherwise fail hours later, build a
module tree of a billion blocks, or leave most of the weights unpruned: transformers keeps experts
in tensors of three dimensions, which are not linear layers.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from freelunch.core.errors import UserError
from freelunch.study.families import OTHER_NAMES, ModelConfig, tested

# Largest value of each key of a transformers config that decides shapes; the least is 1. They are
# far beyond any published model's.
LARGEST = {
    "num_hidden_layers": 1_000,
    "hidden_size": 1_000_000,
    "intermediate_size": 10_000_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 100_000,
    "vocab_size": 10_000_000,
    "max_position_embeddings": 1_000_000_000,
}
_LARGEST_BY_NAME = LARGEST | {
    other: LARGEST[ours] for ours, others in OTHER_NAMES.items() for other in others
}
# Keys of what is added to the mean square that a norm divides by.
_EPSILON = re.compile("norm.*eps|^eps")


class _RefusedKind(NamedTuple):
    what: str
    because: str
    # Regular expressions of its model types, and of the keys of a config that only such models have
    # with at least this value.
    families: str
    keys: str
    least: int = 1


_KINDS = (
    _RefusedKind(
        "a mixture of experts",
        "each expert sees only the tokens that are routed to it, so that statistics, windows and "
        "costs would need token counts of each expert",
        "moe|mixtral|dbrx|arctic|gpt_oss|deepseek_v|dots1|hy_v|kimi_linear|llama4|longcat|minimax|"
        "mimo_v2|jamba|qwen3_next",
        "^(moe_)?(num|n)_(.*_)?experts$",
        # One expert is a dense model.
        least=2,
    ),
    _RefusedKind(
        "a state-space or other recurrent model",
        "its convolutions and recurrences are neither attention nor MLP, which criteria, windows "
        "and costs are defined for",
        "mamba|bamba|zamba|rwkv|xlstm|recurrent|falcon_h1|nemotron_h|olmo_hybrid|qwen3_5|lfm|plamo2",
        "mamba|^ssm_|^state_size$|^lru_width$|^linear_conv|^conv_L_cache$",
    ),
    _RefusedKind(
        "an encoder-decoder or encoder",
        "only decoders are pruned and reconstructed here",
        "^(t5|umt5|bart|mbart|pegasus|marian|bert|roberta|electra)$",
        "^is_encoder_decoder$",
    ),
    _RefusedKind(
        "a model whose blocks hold their matrices outside of linear layers",
        "these matrices (transformers' Conv1D) would not be pruned",
        "^(gpt2|openai-gpt|imagegpt|decision_transformer)$",
        # No key tells it.
        "(?!)",
    ),
)


def check_supported(config: object, where: str) -> None:
    """Refuse, with a UserError, a mixture of experts, and a model that is recurrent, no decoder, or
    whose matrices are not in linear layers. What is no transformers config, or an excerpt of one,
    is left to the reader of the config; `where` is the model's key in the study.
    """
    parts = list(_parts(config))
    model_type = next((str(part["model_type"]) for part in parts if "model_type" in part), "")
    for kind in _KINDS:
        keys = [shown for part in parts for shown in _shown(part, kind)]
        named = [f"model_type = {model_type}"] if model_type else []
        if keys or re.search(kind.families, model_type):
            raise UserError(
                f"this model is {kind.what}, which is not supported: {kind.because}",
                where=where,
                found=", ".join([*named, *keys[:2]]),
                expected=f"a decoder whose blocks are attention and MLP; {tested()}",
                todo="use another model",
            )


def check_shapes(config: object, where: object) -> None:
    """Refuse, with a UserError, shapes that are no whole number from 1 to their largest value,
    numbers beside which a norm's input is nothing, and NaN and infinity, which Python's JSON
    admits, in a config or any JSON data.
    """
    for part in _parts(config):
        for key, value in part.items():
            largest, expected = _LARGEST_BY_NAME.get(key), None
            is_shape = type(value) is int and 1 <= value <= (largest or value)
            if isinstance(value, float) and not math.isfinite(value):
                expected = "a finite number"
            elif _EPSILON.search(key) and isinstance(value, int | float) and not 0 <= value <= 0.1:
                expected = "a number from 0 to 0.1, such as 1e-05"
            elif largest is not None and value is not None and not is_shape:
                expected = f"a whole number from 1 to {largest:,}"
            if expected is not None:
                raise UserError(
                    "no model has this number",
                    where=where,
                    found=f"{key} = {repr(value)[:40]}",
                    expected=expected,
                    todo="use a sound config.json",
                )


def _parts(config: object) -> Iterator[ModelConfig]:
    """Yield a config and the configs in it, such as that of the text part."""
    if isinstance(config, Mapping):
        yield config
        for value in config.values():
            yield from _parts(value)


def _shown(part: ModelConfig, kind: _RefusedKind) -> Iterator[str]:
    # Settings of experts have defaults in some families, also without any expert.
    is_dense = part.get("is_moe") is False or part.get("enable_moe_block") is False
    for key, value in part.items():
        counts = isinstance(value, int) and value >= kind.least
        if counts and re.search(kind.keys, str(key)) and not (is_dense and "expert" in key):
            yield f"{key} = {value}"
