"""Windows of the evaluation text: cut once per model, used for every checkpoint of that model."""

import random
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from freelunch.core.artifact import Artifact
from freelunch.core.errors import UserError
from freelunch.data.documents import read_documents
from freelunch.data.samples import Span, TokenJob, load_tokenizer
from freelunch.model.token_ids import begin_with
from freelunch.model.token_loss import scored_tokens
from freelunch.study.cell import derive_seed
from freelunch.study.steps import JOINED, TEXT_WINDOWS, WITHIN


def cut_windows(job: TokenJob, settings: Mapping[str, Any]) -> Artifact:
    """Write the token ids of a text's windows, (windows, length), int64, and what they cover; the
    settings, the facts and the UserError are those of `text_windows`.
    """
    input_ids, facts = text_windows(job.model, job.text, **settings, bos=job.bos)
    return job.write(input_ids, kind=TEXT_WINDOWS, settings=dict(settings), **facts)


def text_windows(
    model: Artifact,
    text: Artifact,
    length: int,
    windows: int | None,
    stride: int | None = None,
    cut: str = WITHIN,
    bos: int | None = None,
) -> tuple[Tensor, dict[str, Any]]:
    """Return `windows` windows of `length` tokens by a model's tokenizer, or as many as the text
    has; UserError if it has fewer.

    A window begins `stride` tokens after the one before; without it, windows do not overlap. With
    the cut WITHIN, they are within documents, drawn over all of them, and begin with the token
    `bos`, unless it is None; with JOINED, they are the first ones of the documents joined by two
    newlines, the tail dropped, with the special tokens that the tokenizer adds to a text.

    The facts are the `stride`; how many tokens at the end of each window are `scored`, so that each
    token of the text is scored once, behind at least length - stride others; their `bytes` in UTF-8
    and how many `words` begin in them, None if the tokenizer does not say where in the text a token
    is; and `documents`, that of each window, or None if they were joined.
    """
    tokenizer, is_joined = load_tokenizer(model), cut == JOINED
    documents = read_documents(text.folder)
    pieces = ["\n\n".join(documents)] if is_joined else documents
    asked = {"add_special_tokens": is_joined, "return_offsets_mapping": tokenizer.is_fast}
    encoded = [tokenizer(piece, verbose=False, **asked) for piece in pieces]
    lengths = [len(each["input_ids"]) for each in encoded]
    stride = stride or length
    starts = ((0, start) for start in range(0, lengths[0] - length + 1, stride))
    spans = list(islice(starts if is_joined else drawn(lengths, length), windows))
    least = max(windows or 0, 2)
    if len(spans) < least:
        raise UserError(
            "the evaluation text is too short",
            where=text.folder,
            found=f"{sum(lengths)} tokens, {len(spans)} windows of {length}"
            + ("" if is_joined else " within documents"),
            expected=f"{least} windows (study.evaluation.perplexity)",
            todo="ask for fewer or shorter windows, or use a longer text",
        )
    of = None if is_joined else [document for document, _ in spans]
    if of and len(set(of)) < 2:
        raise UserError(
            "the evaluation windows lie in a single document, so their errors are not known",
            where=text.folder,
            found=f"1 document of at least {length} tokens",
            expected="at least 2",
            todo="set `cut: joined` (study.evaluation.perplexity), use shorter windows, or a text "
            "with more documents",
        )
    tokens = [encoded[piece]["input_ids"][start : start + length] for piece, start in spans]
    amounts: dict[str, int | None] = {"bytes": None, "words": None}
    scored = scored_tokens(length, stride)
    if tokenizer.is_fast:
        ends = [(piece, start + length - scored, start + length) for piece, start in spans]
        amounts["bytes"], amounts["words"] = _amounts(pieces, encoded, ends)
    input_ids = begin_with(torch.tensor(tokens, dtype=torch.int64), None if is_joined else bos)
    return input_ids, {"stride": stride, "scored": scored, **amounts, "documents": of}


def drawn(lengths: Sequence[int], length: int) -> Iterator[Span]:
    """Yield windows within documents of so many tokens: the document and the first token of each,
    in random order.

    Every document that is long enough gives one window before any gives a second. Windows do not
    overlap. The order is the same in every study.
    """
    generator = random.Random(derive_seed(0, "windows of text"))
    places: dict[int, list[int]] = {}
    for document, tokens in enumerate(lengths):
        count, left = divmod(tokens, length)
        offset = generator.randrange(left + 1)
        places[document] = [offset + at * length for at in range(count)]
        generator.shuffle(places[document])
    order = [document for document in places if places[document]]
    generator.shuffle(order)
    while order:
        for document in order:
            yield document, places[document].pop()
        order = [document for document in order if places[document]]


def _amounts(
    pieces: Sequence[str], encoded: Sequence[Any], scored: Sequence[tuple[int, int, int]]
) -> tuple[int, int]:
    """Return how many bytes the scored tokens of a text have, and how many words begin in them.
    Each span of scored tokens is a piece of the text, its first token and its end.
    """
    size = words = 0
    begins: dict[int, tuple[list[int], list[int]]] = {}
    for piece, first, last in scored:
        if piece not in begins:
            # A token ends where the next begins: some tokenizers assign white space to neither.
            of_tokens = [begin for begin, _ in encoded[piece]["offset_mapping"]]
            of_words = [match.start() for match in re.finditer(r"\S+", pieces[piece])]
            begins[piece] = [*of_tokens, len(pieces[piece])], of_words
        of_tokens, of_words = begins[piece]
        begin, end = of_tokens[first], of_tokens[last]
        size += len(pieces[piece][begin:end].encode())
        words += bisect_left(of_words, end) - bisect_left(of_words, begin)
    return size, words
