"""Kinds of models that are refused, by their configs and the names of their families.

They are refused as soon as the family is known, since a step would otherwise fail hours later, or
leave most of the weights unpruned: transformers keeps experts in tensors of three dimensions, which
are not linear layers.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from freelunch.core.errors import UserError
from freelunch.study.families import tested


class _RefusedKind(NamedTuple):
    """A kind of model that is refused.

    Attributes:
        what: What such a model is.
        because: Why it is refused.
        families: Which model types are of this kind.
        keys: Which keys of a config have such models alone.
        least: Least value of such a key that counts; text always does.
    """

    what: str
    because: str
    families: re.Pattern[str]
    keys: re.Pattern[str]
    least: int


_KINDS = (
    _RefusedKind(
        "a mixture of experts",
        "each expert sees only the tokens that are routed to it, so that statistics, windows and "
        "costs would need token counts of each expert",
        re.compile(
            "moe|mixtral|dbrx|arctic|gpt_oss|deepseek_v|dots1|hy_v|kimi_linear|llama4|longcat|"
            "minimax|mimo_v2|jamba|qwen3_next"
        ),
        # `num_experts` of 1 is a dense model.
        re.compile("^(moe_)?(num|n)_(.*_)?experts$"),
        2,
    ),
    _RefusedKind(
        "a state-space or other recurrent model",
        "its convolutions and recurrences are neither attention nor MLP, which criteria, windows "
        "and costs are defined for",
        re.compile(
            "mamba|bamba|zamba|rwkv|xlstm|recurrent|falcon_h1|nemotron_h|olmo_hybrid|qwen3_5|lfm|"
            "plamo2"
        ),
        re.compile("mamba|^ssm_|^state_size$|^lru_width$|^linear_conv|^conv_L_cache$"),
        1,
    ),
    _RefusedKind(
        "an encoder-decoder or encoder",
        "only decoders are pruned and reconstructed here",
        re.compile("^(t5|umt5|bart|mbart|pegasus|marian|bert|roberta|electra)$"),
        re.compile("^is_encoder_decoder$"),
        1,
    ),
    _RefusedKind(
        "a model whose blocks hold their matrices outside of linear layers",
        "these matrices (transformers' Conv1D) would not be pruned",
        re.compile("^(gpt2|openai-gpt|imagegpt|decision_transformer)$"),
        # No key tells it.
        re.compile("(?!)"),
        1,
    ),
)


def check_supported(config: Mapping[str, Any], where: str) -> None:
    """Refuse a model of a kind that is not supported.

    Args:
        config: A transformers config, an excerpt with the same keys, or any JSON data: what is not
            a config is left to the reader of the config.
        where: The model's key in the study, for messages.

    Raises:
        UserError: The model is a mixture of experts, recurrent, no decoder, or one whose matrices
            are not in linear layers.
    """
    parts = list(_parts(config))
    model_type = next((str(part["model_type"]) for part in parts if "model_type" in part), "")
    for kind in _KINDS:
        keys = [shown for part in parts for shown in _shown(part, kind)]
        named = [f"model_type = {model_type}"] if model_type else []
        if keys or kind.families.search(model_type):
            raise UserError(
                f"this model is {kind.what}, which is not supported: {kind.because}",
                where=where,
                found=", ".join([*named, *keys[:2]]),
                expected=f"a decoder whose blocks are attention and MLP; {tested()}",
                todo="use another model",
            )


def _parts(config: Any) -> Iterator[Mapping[str, Any]]:
    """Yield a config and the configs in it, such as that of the text part."""
    if isinstance(config, Mapping):
        yield config
        for value in config.values():
            yield from _parts(value)


def _shown(part: Mapping[str, Any], kind: _RefusedKind) -> Iterator[str]:
    """Yield each key of a config that shows a kind, with its value."""
    if part.get("is_moe") is False or part.get("enable_moe_block") is False:
        # Settings of experts have defaults in these families, also without any expert.
        part = {key: value for key, value in part.items() if "expert" not in key}
    for key, value in part.items():
        counts = isinstance(value, int) and value >= kind.least
        if kind.keys.search(str(key)) and counts:
            yield f"{key} = {value}"
