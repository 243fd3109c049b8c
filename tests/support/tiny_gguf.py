"""Write a model of one family as a GGUF file, as llama.cpp's own converter would."""

import json
from pathlib import Path

import gguf
import numpy
from torch import nn

from tiny_models import tokenizer

# GGUF keeps the weights of this family in their own order.
FAMILY = "qwen2"


def write_gguf(
    path: Path,
    model: nn.Module,
    dtype: type = numpy.float16,
    architecture: str = FAMILY,
    experts: int = 0,
    leave_out: str = "",
) -> None:
    """Write a model of FAMILY with the tokenizer of tiny models; norms and biases are float32.

    Args:
        path: Where to write it.
        model: The model.
        dtype: Precision of matrices.
        architecture: Name of the architecture in the header.
        experts: Number of experts in the header.
        leave_out: Name of a tensor that is not written.
    """
    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    if experts:
        writer.add_expert_count(experts)
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    bpe = json.loads(tokenizer().backend_tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL, *[gguf.TokenType.NORMAL] * (len(tokens) - 1)])
    writer.add_token_merges([" ".join(pair) for pair in bpe["merges"]])
    writer.add_bos_token_id(0)
    writer.add_add_bos_token(False)
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        stored = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if stored is not None and name not in ("lm_head.weight", leave_out):
            writer.add_tensor(stored, tensor.numpy().astype(dtype if tensor.dim() == 2 else "f4"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
