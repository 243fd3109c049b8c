"""Windows of the evaluation text: cut once per model, used for every checkpoint of that model."""

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.data.documents import read_documents
from freelunch.model.token_ids import check_vocabulary, write_tokens
from freelunch.model.token_loss import scored_tokens
from freelunch.study.steps import TEXT_WINDOWS


@dataclass(frozen=True)
class TextWindows:
    """Windows of a text, and the amount of text that their scored tokens stand for.

    Attributes:
        input_ids: (windows, length), int64.
        stride: Tokens from the start of a window to the next. A window's last `stride` tokens are
            scored: each token of the text once, with at least length - stride tokens before it.
        bytes: Length of the scored tokens' text in UTF-8; None if the tokenizer does not say where
            in the text a token is.
        words: Number of words, runs of characters other than white space, that begin in that text;
            None if the tokenizer does not say where a token is.
    """

    input_ids: Tensor
    stride: int
    bytes: int | None
    words: int | None


def cut_windows(
    model: Artifact,
    text: Artifact,
    length: int,
    windows: int | None,
    stride: int | None,
    folder: Path,
    fingerprint: str,
) -> Artifact:
    """Write the token ids of a text's windows, (windows, length), int64, and what they cover.

    Args:
        model: For its tokenizer.
        text: The text.
        length: Tokens in a window.
        windows: Number of windows; None for as many as the text has.
        stride: Tokens from one to the next; None for `length`.
        folder: Output folder.
        fingerprint: Digest of everything the result depends on.

    Raises:
        UserError: As `text_windows`.
    """
    found = text_windows(model, text, length, windows, stride)
    return write_tokens(
        folder,
        fingerprint,
        found.input_ids,
        kind=TEXT_WINDOWS,
        settings={"length": length, "windows": windows, "stride": stride},
        stride=found.stride,
        scored=scored_tokens(length, found.stride),
        bytes=found.bytes,
        words=found.words,
        model=model.digest,
        text=text.digest,
    )


def text_windows(
    model: Artifact, text: Artifact, length: int, windows: int | None, stride: int | None = None
) -> TextWindows:
    """Return the first windows of a text, its documents joined by two newlines, its tail dropped.

    Args:
        model: For its tokenizer.
        text: The text.
        length: Tokens in a window.
        windows: Number of windows; None for as many as the text has.
        stride: Tokens from one to the next; None for `length`: windows that do not overlap.

    Raises:
        UserError: The text has fewer windows than this.
    """
    tokenizer = AutoTokenizer.from_pretrained(model.folder, trust_remote_code=False)
    joined = "\n\n".join(read_documents(text.folder))
    encoded = tokenizer(joined, verbose=False, return_offsets_mapping=tokenizer.is_fast)
    tokens = torch.tensor(encoded["input_ids"], dtype=torch.int64)
    stride = stride or length
    available = max(0, (len(tokens) - length) // stride + 1)
    wanted = available if windows is None else windows
    if available < max(wanted, 2):
        raise UserError(
            "the evaluation text is too short",
            where=text.folder,
            found=f"{len(tokens)} tokens, {available} windows of {length}",
            expected=f"{max(wanted, 2)} windows (study.evaluation.perplexity)",
            todo="ask for fewer or shorter windows, or use a longer text",
        )
    check_vocabulary(tokens, model, text.folder)
    amounts: tuple[int | None, int | None] = (None, None)
    if tokenizer.is_fast:
        # A token ends where the next begins: some tokenizers assign white space to neither of two.
        begins = [begin for begin, _ in encoded["offset_mapping"]] + [len(joined)]
        lasts = range(length, length + wanted * stride, stride)
        scored = scored_tokens(length, stride)
        amounts = _amounts(joined, [(begins[last - scored], begins[last]) for last in lasts])
    return TextWindows(tokens.unfold(0, length, stride)[:wanted].contiguous(), stride, *amounts)


def _amounts(text: str, spans: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return how many bytes the spans of a text have, and how many words begin in them."""
    starts = [match.start() for match in re.finditer(r"\S+", text)]
    return (
        sum(len(text[begin:end].encode()) for begin, end in spans),
        sum(bisect_left(starts, end) - bisect_left(starts, begin) for begin, end in spans),
    )
