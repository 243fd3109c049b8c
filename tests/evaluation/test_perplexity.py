"""Perplexity against an explicit sum over transformers' own model, and what evaluation checks."""

import hashlib
import json
import math
import statistics
from collections import Counter
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import tiny_models as tiny
from freelunch.core.artifact import Artifact
from freelunch.data.text_windows import drawn, text_windows
from freelunch.data.texts import fetch_text
from freelunch.evaluation.perplexity import per_text
from freelunch.model.checkpoint import StreamedModel, block_shard
from freelunch.model.mask_store import assemble_model
from freelunch.model.token_loss import check_dense, window_loss
from freelunch.study.sources import read_text
from freelunch.study.steps import HEAD_PLACES, JOINED
from measuring import identity_of, perplexity_of
from refusals import refused
from tiny_models import BLOCKS, FAMILIES, LENGTH, TRAINING_TEXT, Prepared

WINDOWS = 5


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return tiny.prepare(tmp_path_factory.mktemp("prepared"))


@torch.no_grad()
def slow_losses(folder: Path, input_ids: Tensor) -> list[float]:
    """Return -log p of each token given those before it, averaged over each window."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    losses = []
    for window in input_ids.tolist():
        logits = model(input_ids=torch.tensor([window]), use_cache=False).logits[0].double()
        total = 0.0
        for position in range(len(window) - 1):
            scores = logits[position]
            total += float(torch.logsumexp(scores, 0) - scores[window[position + 1]])
        losses.append(total / (len(window) - 1))
    return losses


@pytest.mark.parametrize(
    ("family", "dtype"),
    [
        *((family, "float32") for family in FAMILIES),
        # The logits are bfloat16; the loss of them is not.
        ("llama", "bfloat16"),
    ],
)
def test_perplexity_is_the_explicit_sum(tmp_path: Path, family: str, dtype: str) -> None:
    checkpoint = tiny.tiny_checkpoint(tmp_path, family, dtype)
    input_ids = tiny.random_tokens(WINDOWS)
    expected = slow_losses(checkpoint.folder, input_ids)
    found = perplexity_of(StreamedModel(checkpoint.folder), input_ids, tmp_path)
    mean = statistics.fmean(expected)
    error = statistics.stdev(expected) / math.sqrt(WINDOWS)
    assert error > 1e-3 * mean, "windows that are all alike would test nothing"
    assert found["window_losses"] == pytest.approx(expected, rel=1e-5)
    assert found["loss"] == pytest.approx(mean, rel=1e-6)
    assert found["loss_standard_error"] == pytest.approx(error, rel=1e-4)
    assert found["perplexity"] == pytest.approx(math.exp(mean), rel=1e-5)
    # The error of exp(x) to first order: exp(x) times the error of x.
    assert found["perplexity_standard_error"] == pytest.approx(math.exp(mean) * error, rel=1e-4)


@pytest.mark.parametrize("stride", [1, 3, LENGTH - 1])
def test_a_strided_perplexity_is_the_explicit_sum(tmp_path: Path, stride: int) -> None:
    """Each token that is scored is predicted from all of its window before it."""
    checkpoint = tiny.tiny_checkpoint(tmp_path)
    tokens = tiny.random_tokens(3).flatten()
    windows = [tokens[at : at + LENGTH] for at in range(0, len(tokens) - LENGTH + 1, stride)]
    model = AutoModelForCausalLM.from_pretrained(checkpoint.folder)
    expected = []
    for window in windows:
        with torch.no_grad():
            scores = model(input_ids=window[None], use_cache=False).logits[0].double()
        for position in range(LENGTH - stride, LENGTH):
            seen = scores[position - 1]
            expected.append(float(torch.logsumexp(seen, 0) - seen[window[position]]))
    found = perplexity_of(
        StreamedModel(checkpoint.folder), torch.stack(windows), tmp_path, stride=stride
    )
    assert found["loss"] == pytest.approx(statistics.fmean(expected), rel=1e-6)
    assert found["stride"] == stride
    little_endian = b"".join(int(token).to_bytes(8, "little") for row in windows for token in row)
    assert found["token_ids_sha256"] == hashlib.sha256(little_endian).hexdigest()
    assert found["predicted_tokens"] == len(expected)
    assert found["tokens"] == len(windows) * LENGTH, "all that passed"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scored", [1, HEAD_PLACES - 1, HEAD_PLACES, HEAD_PLACES + 1, 600])
def test_a_long_window_is_scored_in_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scored: int, dtype: str
) -> None:
    """Its logits are never in memory all at once; those of a short window are, as ever."""
    model = StreamedModel(tiny.tiny_checkpoint(tmp_path, dtype=dtype).folder)
    (input_ids,) = tiny.random_tokens(1, length=601)
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(601, model.config.hidden_size, generator=generator).to(model.dtype)
    before = slice(600 - scored, -1)
    logits = model.logits(input_ids[None, before], hidden[None, before])[0].float()
    expected = nn.functional.cross_entropy(logits, input_ids[-scored:])
    at_once: list[int] = []
    whole = StreamedModel.logits

    def note(self: StreamedModel, tokens: Tensor, states: Tensor) -> Tensor:
        at_once.append(tokens.shape[1])
        return whole(self, tokens, states)

    monkeypatch.setattr(StreamedModel, "logits", note)
    found = window_loss(model, input_ids, hidden, scored)
    assert found.dtype == torch.float64
    assert sum(at_once) == scored and max(at_once) <= HEAD_PLACES
    if scored <= HEAD_PLACES:
        assert float(found) == float(expected)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_zeros_are_counted_in_what_was_loaded(prepared: Prepared, tmp_path: Path) -> None:
    pruned = assemble_model(prepared.model, prepared.masks, [], tmp_path / "model", "fingerprint")
    found = identity_of(StreamedModel(pruned.folder))
    matrices = found["matrices"]
    expected = {}
    for index in range(BLOCKS):
        for name, value in load_file(pruned.path(block_shard(index))).items():
            if value.dim() == 2:
                rows, columns = value.shape
                zeros = sum(entry == 0 for row in value.tolist() for entry in row)
                assert zeros == rows * (columns // 2), name
                counts = {"rows": rows, "columns": columns, "zeros": zeros}
                expected[name.removesuffix(".weight")] = counts
    assert matrices == expected
    dense = identity_of(prepared.model)
    assert all(counts["zeros"] == 0 for counts in dense["matrices"].values())
    files = list(prepared.model.folder.glob("*.safetensors"))
    assert dense["stored_bytes"] == sum(file.stat().st_size for file in files)
    model = AutoModelForCausalLM.from_pretrained(prepared.model.folder)
    # Of tied matrices it gives one.
    assert dense["parameters"] == sum(each.numel() for each in model.parameters())
    assert dense["checkpoint_digest"] != found["checkpoint_digest"]


def model_with_norm(tmp_path: Path, scale: float) -> StreamedModel:
    source = tiny.save_tiny_model(tmp_path / "source")
    weights = load_file(source / "model.safetensors")
    weights["model.norm.weight"].fill_(scale)
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    return StreamedModel(tiny.fetch_tiny_model(source, tmp_path / "checkpoint").folder)


@pytest.mark.parametrize("scale", [3e38, 1e4])
def test_a_perplexity_that_is_not_finite_is_null(tmp_path: Path, scale: float) -> None:
    """Losses that are not finite, and losses that are too large for exp."""
    found = perplexity_of(model_with_norm(tmp_path, scale), tiny.random_tokens(2), tmp_path)
    finite = scale == 1e4
    assert all((loss is not None and loss > 710) == finite for loss in found["window_losses"])
    for key in ("perplexity", "perplexity_standard_error", "loss", "loss_standard_error"):
        assert found[key] is None
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize("perplexity", [1.0, 1000.0, None, math.nan, math.inf, 1000.01])
def test_an_implausible_dense_model_stops_the_study(perplexity: float | None) -> None:
    if perplexity in (1.0, 1000.0):
        check_dense(perplexity, 1000, "somewhere")
        return
    with refused(where="somewhere", expected="dense_limit = 1000"):
        check_dense(perplexity, 1000, "somewhere")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    folder = tmp_path_factory.mktemp("text")
    source = folder / "text.jsonl"
    source.write_text("".join(json.dumps({"text": line}) + "\n" for line in TRAINING_TEXT))
    entry = {"source": "path", "path": str(source), "format": "jsonl", "field": "text"}
    return fetch_text("lines", read_text(entry), folder / "text", "fingerprint")


def windows_of(prepared: Prepared, text: Artifact, *settings: Any) -> SimpleNamespace:
    input_ids, facts = text_windows(prepared.model.artifact, text, *settings)
    return SimpleNamespace(input_ids=input_ids, **facts)


def joined_windows(
    prepared: Prepared,
    text: Artifact,
    length: int,
    windows: int | None,
    stride: int | None = None,
) -> SimpleNamespace:
    return windows_of(prepared, text, length, windows, stride, JOINED)


def expected_tokens() -> list[int]:
    return tiny.tokenizer()("\n\n".join(TRAINING_TEXT))["input_ids"]


@pytest.mark.parametrize("stride", [1, 4, 7])
def test_strided_windows_score_each_token_once(
    prepared: Prepared, text: Artifact, stride: int
) -> None:
    tokens, length = expected_tokens(), 7
    found = joined_windows(prepared, text, length, None, stride)
    assert found.stride == stride
    # Documents are joined by two newlines; without overlap the tail is dropped.
    starts = range(0, len(tokens) - length + 1, stride)
    assert found.input_ids.tolist() == [tokens[start : start + length] for start in starts]
    scored = [token for window in found.input_ids.tolist() for token in window[length - stride :]]
    first = length - stride
    assert scored == tokens[first : first + len(scored)]
    assert first + len(scored) + stride > len(tokens), "no window more would fit"


@pytest.mark.parametrize(("length", "stride"), [(7, None), (7, 3), (20, 20)])
def test_bytes_and_words_are_those_of_the_scored_text(
    prepared: Prepared, text: Artifact, length: int, stride: int | None
) -> None:
    found = joined_windows(prepared, text, length, None, stride)
    scored = min(stride or length, length - 1)
    joined = "\n\n".join(TRAINING_TEXT)
    offsets = tiny.tokenizer()(joined, return_offsets_mapping=True)["offset_mapping"]
    begins = [begin for begin, _ in offsets] + [len(joined)]
    size = words = 0
    for window in range(len(found.input_ids)):
        end = window * found.stride + length
        for at in range(begins[end - scored], begins[end]):
            size += len(joined[at].encode())
            words += not joined[at].isspace() and (at == 0 or joined[at - 1].isspace())
    assert (found.bytes, found.words) == (size, words)
    assert 0 < words < size < len(joined.encode())


def test_windows_are_drawn_over_all_documents(prepared: Prepared, text: Artifact) -> None:
    length = 4
    documents = [tiny.tokenizer()(line)["input_ids"] for line in TRAINING_TEXT]
    found = windows_of(prepared, text, length, None)
    assert found.stride == length and found.documents is not None
    for window, document in zip(found.input_ids.tolist(), found.documents, strict=True):
        starts = range(len(documents[document]) - length + 1)
        assert window in [documents[document][start : start + length] for start in starts]
    counts = Counter(found.documents)
    assert counts == {at: len(each) // length for at, each in enumerate(documents) if each[3:]}
    assert found.documents != sorted(found.documents)
    few = windows_of(prepared, text, length, len(counts))
    assert set(few.documents or ()) == set(counts), "each document before a second window of any"
    assert few.input_ids.tolist() == found.input_ids.tolist()[: len(counts)]
    assert few.bytes is not None and few.words is not None
    pieces = [tiny.tokenizer().decode(window[1:]) for window in few.input_ids.tolist()]
    assert few.bytes == sum(len(piece.encode()) for piece in pieces)


@given(
    st.lists(st.integers(0, 60), min_size=1, max_size=12),
    st.integers(1, 20),
)
def test_drawn_windows_are_disjoint_and_in_turns(lengths: list[int], length: int) -> None:
    spans = list(drawn(lengths, length))
    assert spans == list(drawn(lengths, length)), "the same in every study"
    assert len(spans) == sum(tokens // length for tokens in lengths)
    for document, tokens in enumerate(lengths):
        starts = sorted(start for of, start in spans if of == document)
        assert all(0 <= start <= tokens - length for start in starts)
        assert all(after - before >= length for before, after in pairwise(starts))
    # No document is drawn twice before all others that have windows left.
    seen: Counter[int] = Counter()
    for document, _ in spans:
        left = [of for of, tokens in enumerate(lengths) if tokens // length > seen[of]]
        assert seen[document] == min(seen[of] for of in left)
        seen[document] += 1


def test_windows_within_a_single_document(prepared: Prepared, tmp_path: Path) -> None:
    source = tmp_path / "text.jsonl"
    source.write_text(json.dumps({"text": " ".join(TRAINING_TEXT)}) + "\n")
    entry = {"source": "path", "path": str(source), "format": "jsonl", "field": "text"}
    artifact = fetch_text("lines", read_text(entry), tmp_path / "text", "fingerprint")
    with refused(todo="set `cut: joined`"):
        windows_of(prepared, artifact, 4, 3)


def test_perplexity_of_bytes_and_words() -> None:
    windows = {"bytes": 90, "words": 15}
    found = per_text({"loss": 3.0, "predicted_tokens": 20}, windows)
    assert found["byte_perplexity"] == pytest.approx(math.exp(60 / 90))
    assert found["word_perplexity"] == pytest.approx(math.exp(60 / 15))
    assert 2 ** found["bits_per_byte"] == pytest.approx(found["byte_perplexity"])
    unknown = {"bytes": None, "words": None}
    for metrics, of in (
        ({"loss": None, "predicted_tokens": 20}, windows),
        ({"loss": 3.0, "predicted_tokens": 20}, unknown),
    ):
        found = per_text(metrics, of)
        assert found["byte_perplexity"] is found["word_perplexity"] is None
        assert found["bits_per_byte"] is None


@pytest.mark.parametrize(("length", "windows"), [(7, 1000), (60, None), (5000, None)])
def test_a_text_that_is_too_short(
    prepared: Prepared, text: Artifact, length: int, windows: int | None
) -> None:
    tokens = len(expected_tokens())
    assert tokens // 60 == 1, "one window has no standard error"
    found = f"{tokens} tokens, {tokens // length} windows of {length}"
    with refused(found=found, expected=f"{windows or 2} windows"):
        joined_windows(prepared, text, length, windows)
