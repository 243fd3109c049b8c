"""Tiny random models of every family, with a real tokenizer, as folders and as our checkpoints."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    SmolLM3Config,
)

from freelunch.adaptation.job import AdaptationJob
from freelunch.adaptation.reconstruction.windows_in_turn import reconstruct_windows
from freelunch.adaptation.retraining.training_run import retrain_model
from freelunch.core.artifact import Artifact, fingerprint
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.files import scratch_folder
from freelunch.core.progress import Report, silent
from freelunch.data.models import fetch_model
from freelunch.model import token_ids
from freelunch.model.checkpoint import StreamedModel, block_shard
from freelunch.model.hidden_states import DenseStates, open_states
from freelunch.model.mask_store import assemble_model
from freelunch.model.tensor_file import hidden_file, open_hidden
from freelunch.pruning.dense_pass import capture_dense
from freelunch.pruning.prune import prune_matrices, prune_model
from freelunch.pruning.sharing import Pruning
from freelunch.pruning.statistics import InputStatistics
from freelunch.study.adaptations import Reconstruction
from freelunch.study.criteria import OfWeights, read_criterion
from freelunch.study.methods import LOW_RANK
from freelunch.study.patterns import Pattern
from freelunch.study.retraining import read_adaptation
from freelunch.study.sources import read_model
from freelunch.study.windows import LEAST_SQUARES, split_windows

TRAINING_TEXT = (
    "the cat sat on the mat and the dog sat on the log",
    "she sells sea shells by the sea shore; the shells she sells are sea shells",
    "a window of blocks learns what the dense window did before it was pruned",
)
BLOCKS = 3
# Longer than the sliding windows below, so that a wrong mask shows.
LENGTH = 12
# Sequences of the models that many tests share: the last batch of two is short.
SEQUENCES = 5
# Of low-rank adapters; the tiny models' smallest matrix has room for it.
RANK = 4
_SLIDING_WINDOW = 4
Settings = dict[str, Any]
_COMMON: Settings = {"hidden_size": 16, "num_attention_heads": 4, "max_position_embeddings": 64}
_COMMON |= {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
_GATED: Settings = {**_COMMON, "intermediate_size": 24, "num_key_value_heads": 2}
_SLIDING: Settings = {**_GATED, "sliding_window": _SLIDING_WINDOW}
# A head size of its own: heads * head_dim is not the hidden size.
_GEMMA: Settings = {**_SLIDING, "head_dim": 6, "query_pre_attn_scalar": 6}
_SLIDING_LATER: Settings = {**_SLIDING, "use_sliding_window": True, "max_window_layers": 1}
_SCALED: Settings = {"embedding_multiplier": 2.0, "residual_multiplier": 0.7}
_SCALED |= {"attention_multiplier": 0.4, "logits_scaling": 0.6}
_OPT: Settings = {"ffn_dim": 32, "word_embed_proj_dim": 16, "dropout": 0.1, "pad_token_id": 1}
_FALCON: Settings = {"ffn_hidden_size": 24, "new_decoder_architecture": True, "num_kv_heads": 2}
_FAMILIES: dict[str, tuple[Callable[..., PreTrainedConfig], Settings]] = {
    "llama": (LlamaConfig, _GATED),
    "mistral": (MistralConfig, _SLIDING),
    "qwen2": (Qwen2Config, _SLIDING_LATER),
    # As in Qwen3's smallest models, heads * head_dim is not the hidden size.
    "qwen3": (Qwen3Config, {**_SLIDING_LATER, "head_dim": 6}),
    # Every other block has no rotary embedding, and these blocks slide.
    "smollm3": (
        SmolLM3Config,
        {**_SLIDING, "no_rope_layer_interval": 2, "use_sliding_window": True},
    ),
    "granite": (GraniteConfig, {**_GATED, **_SCALED}),
    "olmo2": (Olmo2Config, _GATED),
    "opt": (OPTConfig, {**_COMMON, **_OPT}),
    "gemma": (GemmaConfig, {**_GATED, "head_dim": 6}),
    "gemma2": (Gemma2Config, _GEMMA),
    # The family's default pattern has five sliding blocks before the first full one.
    "gemma3_text": (Gemma3TextConfig, {**_GEMMA, "sliding_window_pattern": 2}),
    "phi3": (Phi3Config, _SLIDING),
    "gpt_neox": (GPTNeoXConfig, {**_COMMON, "intermediate_size": 24, "rotary_pct": 0.5}),
    # BLOOM takes any number of positions and states none.
    "bloom": (
        BloomConfig,
        {key: value for key, value in _COMMON.items() if key != "max_position_embeddings"},
    ),
    "falcon": (FalconConfig, {**_COMMON, **_FALCON}),
}
FAMILIES = tuple(_FAMILIES)
# Families whose parts have no names in our table, as transformers calls them and their sizes.
_FEW: Settings = {**_COMMON, "intermediate_size": 24}
_WIDER: Settings = {**_GATED, "head_dim": 6}
_GPT: Settings = {"n_layer": BLOCKS, "n_embd": 16, "n_head": 2, "n_positions": 64}
_LOCAL = [[["global", "local"], 1], [["global"], 1]]
UNNAMED: dict[str, Settings] = {
    **dict.fromkeys(("apertus", "cohere", "exaone4", "jais2", "nanochat"), _GATED),
    **dict.fromkeys(("olmo", "olmo3", "phi", "stablelm", "starcoder2"), _GATED),
    **dict.fromkeys(("arcee", "ernie4_5", "glm", "glm4", "ministral", "seed_oss"), _WIDER),
    **dict.fromkeys(("biogpt", "persimmon"), _FEW),
    "codegen": {**_GPT, "n_head": 4, "rotary_dim": 4},
    "cohere2": {**_WIDER, "sliding_window": _SLIDING_WINDOW},
    "gpt_bigcode": _GPT,
    "gpt_neo": {
        **_COMMON,
        **{"num_layers": BLOCKS, "num_heads": 2, "attention_types": _LOCAL},
        **{"window_size": _SLIDING_WINDOW, "intermediate_size": 40},
    },
    "gptj": {**_GPT, "rotary_dim": 4, "n_inner": 40},
    "mpt": {"n_layers": BLOCKS, "d_model": 16, "n_heads": 4, "max_seq_len": 64},
    "nemotron": {**_GATED, "head_dim": 4},
    "vaultgemma": _GEMMA,
    "xglm": {"num_layers": BLOCKS, "d_model": 16, "attention_heads": 4, "ffn_dim": 24},
}
# Tests of many combinations pass all of them with the first families, and some with the others.
CROSSED = ("llama", "mistral", "qwen2", "opt", "gemma2", "gemma3_text", "phi3")
OTHERS = tuple(family for family in FAMILIES if family not in CROSSED)
# What makes a family's blocks differ from those of its tiny model above.
_IN_SEQUENCE: Settings = {"new_decoder_architecture": False, "parallel_attn": False}
_IN_SEQUENCE |= {"multi_query": False, "num_kv_heads": 4, "alibi": True, "bias": True}
VARIANTS: dict[str, tuple[str, Settings]] = {
    "gpt_neox in sequence": ("gpt_neox", {"use_parallel_residual": False}),
    "falcon of one key head": ("falcon", {"new_decoder_architecture": False}),
    "falcon in sequence": ("falcon", _IN_SEQUENCE),
    "bloom with norms on the stream": ("bloom", {"apply_residual_connection_post_layernorm": True}),
}
# Default settings of `reconstruct`.
RECONSTRUCTION: Reconstruction = read_adaptation(
    {"method": "reconstruction", "learning_rate": 0.003, "warmup": 0.3, "epochs": 2}
)
SEED = 7
# Calibration samples by their digests; the artifacts made from a sample name its digest.
_SAMPLES: dict[str, Artifact] = {}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer on three sentences; the result is the same each time."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    bpe.train_from_iterator(TRAINING_TEXT, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")


def tiny_config(family: str, **changes: Any) -> PreTrainedConfig:
    words = {"vocab_size": len(tokenizer()), "bos_token_id": 0, "eos_token_id": 0}
    if family in UNNAMED:
        sizes = {"num_hidden_layers": BLOCKS, **UNNAMED[family]}
        if "num_layers" in sizes or "n_layers" in sizes or "n_layer" in sizes:
            del sizes["num_hidden_layers"]
        return AutoConfig.for_model(family, **{**words, "pad_token_id": None, **sizes, **changes})
    kind, settings = _FAMILIES[family]
    return kind(**{**words, "num_hidden_layers": BLOCKS, **settings, **changes})


def tiny_model(family: str, seed: int = 0, **changes: Any) -> nn.Module:
    """Return a random model in eval mode; no bias is 0 and no norm is 1, so that each matters."""
    config = tiny_config(family, **changes)
    model: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            matrix = parameter.dim() == 2
            parameter.copy_(0.3 * noise if matrix else parameter + 0.1 * noise)
    return model


def save_tiny_model(folder: Path, family: str = "llama", **changes: Any) -> Path:
    """Save a random model and its tokenizer as `save_pretrained` does."""
    tiny_model(family, **changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def fetch_tiny_model(source: Path, folder: Path, dtype: str = "float32") -> Artifact:
    """Turn a model's folder into a checkpoint with one shard per block."""
    entry = {"source": "path", "path": str(source), "dtype": dtype}
    return fetch_model("tiny", read_model(entry), folder, fingerprint("code", entry))


def tiny_checkpoint(
    base: Path, family: str = "llama", dtype: str = "float32", **changes: Any
) -> Artifact:
    """Make a random model below `base` and turn it into a checkpoint."""
    base.mkdir(parents=True, exist_ok=True)
    source = save_tiny_model(base / "source", family, **changes)
    return fetch_tiny_model(source, base / "checkpoint", dtype)


def random_tokens(sequences: int, length: int = LENGTH, seed: int = 0) -> Tensor:
    """Return token ids, (sequences, length), int64; the special token and padding left out."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, len(tokenizer()), (sequences, length), generator=generator)


def save_calibration(model: Artifact, folder: Path, input_ids: Tensor, **facts: object) -> Artifact:
    """Write token ids, (sequences, length), as a calibration sample."""
    writer = ArtifactWriter(folder, token_ids.KIND, fingerprint("code", input_ids.tolist()))
    writer.add(token_ids.TOKENS, lambda path: save_file({"input_ids": input_ids}, path))
    return writer.finish(model=model.digest, **facts)


def capture(
    model: StreamedModel,
    sample: Artifact,
    folder: Path,
    fingerprint: str = "fingerprint",
    report: Report = silent,
    dense_limit: float = 1e9,
    gram: bool = True,
    keep: str = "all",
) -> Artifact:
    """Run the dense pass of an untrained model, whose perplexity may by default be of any size.

    Hidden states are written beside the statistics, into `hidden_folder(folder)`.
    """
    _SAMPLES[sample.digest] = sample
    with scratch_folder(folder.with_name(f".{folder.name}.scratch")) as scratch:
        hidden = hidden_folder(folder)
        settings = {"keep": keep, "gram": gram, "dense_limit": dense_limit, "report": report}
        return capture_dense(model, sample, folder, hidden, fingerprint, scratch, **settings)


def hidden_folder(dense: Path) -> Path:
    """Return the folder of the hidden states that belong to a folder of statistics."""
    return dense.with_name(f"{dense.name}-hidden")


@contextmanager
def dense_states(model: StreamedModel, dense: Artifact) -> Iterator[DenseStates]:
    """Give the hidden states of the sample that the statistics come from."""
    sample = _SAMPLES[dense.facts["calibration"]]
    with tempfile.TemporaryDirectory() as scratch:
        yield open_states(model, sample, hidden_folder(dense.folder), Path(scratch))


@dataclass
class Prepared:
    """A model with everything that a reconstruction starts from."""

    model: StreamedModel
    dense: Artifact
    masks: Artifact

    def hidden(self, boundary: int) -> Tensor:
        """Return the dense hidden states at a boundary, (sequences, length, d)."""
        return open_hidden(hidden_folder(self.dense.folder) / hidden_file(boundary))[:]

    def job(self, states: DenseStates, settings: Any, *others: Any) -> AdaptationJob[Any]:
        """Return the job of an adaptation; `others` are the arguments after its settings."""
        return AdaptationJob(self.model, self.masks, states, settings, *others)


def prepare(
    base: Path,
    family: str = "llama",
    dtype: str = "float32",
    sequences: int = 6,
    pattern: str = "u50",
    keep: str = "all",
    length: int = LENGTH,
    **changes: Any,
) -> Prepared:
    """Make a random model, pass random tokens through it and prune it by Wanda.

    A structured pattern prunes heads and channels; any other pattern prunes single weights.
    """
    checkpoint = tiny_checkpoint(base, family, dtype, **changes)
    model = StreamedModel(checkpoint.folder)
    sample = save_calibration(checkpoint, base / "calibration", random_tokens(sequences, length))
    dense = capture(model, sample, base / "dense", keep=keep)
    score = "wanda_sp" if Pattern.parse(pattern).structured else "wanda"
    return Prepared(model, dense, prune(model, dense, base / "masks", score, pattern))


def prune(
    model: StreamedModel,
    dense: Artifact,
    folder: Path,
    score: str,
    pattern: str = "u50",
    seed: int = 0,
    report: Report = silent,
    **settings: Any,
) -> Artifact:
    """Prune a model by a criterion with these settings, and defaults for all others."""
    with dense_states(model, dense) as states:
        pruning = Pruning(
            criterion=read_criterion({"score": score, **settings}),
            pattern=Pattern.parse(pattern),
            seed=seed,
            folder=folder,
            fingerprint=fingerprint("code", [score, pattern, seed, settings], dense),
        )
        source = dense if pruning.criterion.statistics == "dense" else states.calibration
        return prune_model(model, source, pruning, states, report)


def prune_matrix(
    module: ModuleType,
    weight: Tensor,
    statistics: InputStatistics,
    pattern: Pattern,
    settings: OfWeights,
    seed: int = 0,
    where: object = None,
) -> tuple[Tensor, Tensor | None, dict[str, Any]]:
    """Prune a single matrix, as `prune_matrices` prunes several."""
    return prune_matrices(module, [weight], statistics, pattern, settings, [seed], [where])[0]


def read_any(entry: dict[str, Any]) -> Any:
    """Return an adaptation's settings, also with rates that are refused since training diverges."""
    settings = read_adaptation({key: entry[key] for key in entry if key != "learning_rate"})
    rate = {key: entry[key] for key in entry if key == "learning_rate"}
    return settings.model_copy(update=rate)


def reconstruction(**changes: Any) -> Reconstruction:
    """Return RECONSTRUCTION with some settings changed."""
    changed: Reconstruction = read_any({**RECONSTRUCTION.as_json(), **changes})
    return changed


def reconstruct(
    prepared: Prepared,
    folder: Path,
    windows: Sequence[range] | None = None,
    seed: int = SEED,
    fingerprint: str = "fingerprint",
    report: Report | None = None,
    stop_at_divergence: bool = True,
    **changes: Any,
) -> Artifact:
    """Adapt windows of a pruned model; all of them by default."""
    exact = changes.get("method") == LEAST_SQUARES
    settings = read_adaptation(changes) if exact else reconstruction(**changes)
    window = settings.window
    with dense_states(prepared.model, prepared.dense) as states:
        job = prepared.job(
            states, settings, seed, folder, fingerprint, report or silent, stop_at_divergence
        )
        chosen = split_windows(BLOCKS, window) if windows is None else windows
        return reconstruct_windows(job, window, chosen)


def prepare_on(device: str, prepared: Prepared, base: Path) -> Prepared:
    """Capture and prune a prepared model again on a device."""
    model = StreamedModel(prepared.model.folder, device)
    sample = save_calibration(model.artifact, base / f"sample-{device}", random_tokens(6))
    dense = capture(model, sample, base / f"dense-{device}")
    return Prepared(model, dense, prune(model, dense, base / f"masks-{device}", "magnitude"))


def retrain(
    prepared: Prepared,
    folder: Path,
    method: str = "full",
    seed: int = SEED,
    report: Report = silent,
    stop_at_divergence: bool = True,
    save_s: float = 1e9,
    streamed: bool = False,
    **settings: Any,
) -> Artifact:
    """Retrain a pruned model on its calibration sample."""
    entry = read_any({"method": method, "learning_rate": 0.01, **settings})
    fingerprint = f"fingerprint of {entry.as_json()} and {seed}"
    with dense_states(prepared.model, prepared.dense) as states:
        job = prepared.job(states, entry, seed, folder, fingerprint, report, stop_at_divergence)
        return retrain_model(job, streamed, save_s)


def retrained_facts(adapted: Artifact) -> dict[str, Any]:
    """Return what a retraining notes about itself."""
    facts: dict[str, Any] = adapted.files[block_shard(0)]["windows"]["model"]
    return facts


def assembled(prepared: Prepared, adapted: Artifact | None, folder: Path) -> nn.Module:
    """Return the checkpoint of an adapted (or merely pruned) model, as transformers loads it."""
    parts = [] if adapted is None else [adapted]
    assemble_model(prepared.model, prepared.masks, parts, folder, "fingerprint")
    model: nn.Module = AutoModelForCausalLM.from_pretrained(folder)
    return model.eval()


def retraining_entry(method: str, **settings: Any) -> dict[str, Any]:
    """Return an entry of a retraining whose rank fits the tiny models."""
    low_rank = {"rank": RANK} if method in LOW_RANK else {}
    return {"method": method, **low_rank, **settings}


def shards(adapted: Artifact) -> dict[str, str]:
    """Return the digest of each file of an artifact."""
    return {name: entry["sha256"] for name, entry in adapted.files.items()}


def weights(adapted: Artifact, index: int) -> dict[str, Tensor]:
    """Return a block's tensors by their names in the block."""
    tensors = load_file(adapted.path(block_shard(index)))
    return {name.split(f".{index}.", 1)[1]: value for name, value in tensors.items()}
