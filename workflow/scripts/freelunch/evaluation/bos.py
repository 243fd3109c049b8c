"""Decide whether sequences begin with a model's beginning-of-sequence token.

They are cut from within documents, so that a tokenizer would give it to hardly any of them. Models
that were trained with it may need it (without it, the dense Gemma 3 270M loses 2 nats per token);
others may never have seen it there.
"""

import math
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.progress import Report, silent
from freelunch.data.documents import TOKEN_IDS, read_documents
from freelunch.data.samples import encode, load_tokenizer
from freelunch.data.text_windows import drawn
from freelunch.evaluation.window_losses import WindowLosses
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_states import pass_through
from freelunch.model.token_ids import begin_with
from freelunch.study.beginnings import Beginning
from freelunch.study.cell import derive_seed
from freelunch.study.steps import BOS, BOS_LENGTH, BOS_WINDOWS, READY_TOKENS
from freelunch.study.windows import AUTO

# Standard errors by which the loss has to be lower for a choice against the tokenizer's.
CLEAR = 2.0
# The measured facts of `freelunch.study.beginnings.BosFacts`, in their order.
MEASURED = ("loss_without", "loss_with", "difference", "standard_error")


def decide_bos(
    model: StreamedModel,
    text: Artifact,
    setting: str,
    length: int,
    folder: Path,
    fingerprint: str,
    scratch: Path,
    report: Report = silent,
) -> Artifact:
    """Write an artifact without files. Its facts are `bos` (`freelunch.study.beginnings.BosFacts`);
    the `token_id` that sequences of `length` tokens begin with, or None; and the `sequences` that
    passed, and their `length`. UserError if the setting asks for a token that there is not.
    """
    tokenizer = load_tokenizer(model.artifact)
    token, length = tokenizer.bos_token_id, min(length, BOS_LENGTH)
    adds = token is not None and token in tokenizer("a")["input_ids"][:1]
    Beginning(tokenizer.bos_token, adds).check(setting, model.folder)
    windows = torch.empty(0) if token is None else bos_windows(text, tokenizer, length)
    losses: Sequence[float | None] = [None] * len(MEASURED)
    if len(windows):
        losses = measure(model, windows, token, scratch, report)
    used = begins(adds, *losses[2:]) if setting == AUTO else setting == "always"
    decided = {"token": tokenizer.bos_token, "added_by_tokenizer": adds, "used": used}
    return ArtifactWriter(folder, BOS, fingerprint).finish(
        settings={} if setting == AUTO else {"bos": setting},
        bos={"setting": setting, **decided, **dict(zip(MEASURED, losses, strict=True))},
        token_id=token if used else None,
        model=model.artifact.digest,
        text=text.digest,
        sequences=2 * len(windows),
        length=length,
    )


def begins(adds: bool, difference: float | None, standard_error: float | None) -> bool:
    """Return what `auto` decides: what the tokenizer does, unless the loss is lower the other way
    by more than CLEAR standard errors.
    """
    if difference is None or standard_error is None:
        return adds
    return adds != ((difference if adds else -difference) > CLEAR * standard_error)


def bos_windows(text: Artifact, tokenizer: Any, length: int) -> Tensor:
    """Return at most BOS_WINDOWS windows of so many tokens, (windows, length), int64, each from
    another document as far as there are enough; of ready token ids, the first ones.
    """
    if text.kind == READY_TOKENS:
        return load_file(text.path(TOKEN_IDS))["input_ids"][:BOS_WINDOWS, :length]
    documents = read_documents(text.folder)
    random.Random(derive_seed(0, BOS)).shuffle(documents)
    encoded = (encode(tokenizer, document) for document in documents)
    long = [*islice((tokens for tokens in encoded if len(tokens) >= length), BOS_WINDOWS)]
    spans = islice(drawn([*map(len, long)], length), BOS_WINDOWS)
    rows = [long[document][start : start + length] for document, start in spans]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, length)


def measure(
    model: StreamedModel, windows: Tensor, token: int, scratch: Path, report: Report = silent
) -> list[float | None]:
    """Return what MEASURED names on windows, (windows, length), int64, as they are and with the
    token in the place of their first one, which is never scored.
    """
    passing = []
    for name, bos in (("without", None), ("with", token)):
        (scratch / name).mkdir()
        passing.append(WindowLosses(model, begin_with(windows, bos), scratch / name))
    pass_through(model, passing, report)
    without, behind = (each.losses() for each in passing)
    change = behind - without
    error = change.std() / math.sqrt(len(change))
    found = (without.mean(), behind.mean(), change.mean(), error)
    return [float(each) if each.isfinite() else None for each in found]
