"""Whether sequences begin with a model's beginning-of-sequence token.

Sequences are cut from within documents, so a tokenizer that begins a text with the token would give
it to hardly any of them. A model that was trained with the token in front may need it there (the
dense Gemma 3 270M loses 1.5 nats per token without it); another one may never have seen it there.
"""

import math
import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from freelunch.core.artifact import Artifact
from freelunch.core.artifact_writer import ArtifactWriter
from freelunch.core.progress import Report, silent
from freelunch.data.documents import TOKEN_IDS, read_documents
from freelunch.data.samples import encode, load_tokenizer
from freelunch.data.text_windows import drawn
from freelunch.evaluation.measurements import pass_through
from freelunch.evaluation.perplexity import Perplexity
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.token_ids import begin_with
from freelunch.study.beginnings import Beginning, check_beginning
from freelunch.study.cell import derive_seed
from freelunch.study.sources import ALWAYS
from freelunch.study.steps import BOS, BOS_LENGTH, BOS_WINDOWS, READY_TOKENS
from freelunch.study.windows import AUTO

# Standard errors by which the loss has to be lower for a choice against the tokenizer's.
CLEAR = 2.0


class MeasuredBos(NamedTuple):
    """The dense model's mean losses, in nats per token, without and with the token; `difference` is
    with minus without, and its standard error is over windows. None where it is not finite.
    """

    loss_without: float | None = None
    loss_with: float | None = None
    difference: float | None = None
    standard_error: float | None = None


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
    """Decide whether the sequences of a model, of `length` tokens, begin with its token, and write
    an artifact without files: `bos`, as records have it (`freelunch.records.record.BosFacts`); the
    `token_id`, None if sequences do not begin with it; `sequences` and `length` of what passed.

    UserError if the setting is ALWAYS, and the tokenizer has no such token.
    """
    tokenizer = load_tokenizer(model.artifact)
    token, measured = tokenizer.bos_token_id, MeasuredBos()
    habit = token is not None and token in tokenizer("a")["input_ids"][:1]
    check_beginning(Beginning(tokenizer.bos_token, habit), setting == ALWAYS, model.folder)
    windows = torch.empty(0, min(length, BOS_LENGTH), dtype=torch.int64)
    if token is not None:
        windows = bos_windows(text, tokenizer, windows.shape[1])
    if len(windows):
        measured = measure(model, windows, token, scratch, report)
    used = setting == ALWAYS or (setting == AUTO and begins(habit, measured))
    return ArtifactWriter(folder, BOS, fingerprint).finish(
        settings={} if setting == AUTO else {"bos": setting},
        bos={
            "setting": setting,
            "token": tokenizer.bos_token,
            "added_by_tokenizer": habit,
            "used": used,
            **measured._asdict(),
        },
        token_id=token if used else None,
        model=model.artifact.digest,
        text=text.digest,
        sequences=2 * len(windows),
        length=windows.shape[1],
    )


def begins(habit: bool, measured: MeasuredBos) -> bool:
    """Return what `auto` decides: the tokenizer's habit, unless the loss is lower the other way by
    more than CLEAR standard errors.
    """
    if measured.difference is None or measured.standard_error is None:
        return habit
    gain = measured.difference if habit else -measured.difference
    return habit != (gain > CLEAR * measured.standard_error)


def bos_windows(text: Artifact, tokenizer: Any, length: int) -> Tensor:
    """Return at most BOS_WINDOWS windows of so many tokens, (windows, length), int64, each from
    another document as far as there are enough; of ready token ids, the first ones.
    """
    if text.kind == READY_TOKENS:
        return load_file(text.path(TOKEN_IDS))["input_ids"][:BOS_WINDOWS, :length]
    documents = read_documents(text.folder)
    random.Random(derive_seed(0, BOS)).shuffle(documents)
    encoded = (encode(tokenizer, document)["input_ids"] for document in documents)
    long: Sequence[list[int]] = [*islice((e for e in encoded if len(e) >= length), BOS_WINDOWS)]
    spans = islice(drawn([*map(len, long)], length), BOS_WINDOWS)
    rows = [long[document][start : start + length] for document, start in spans]
    return torch.tensor(rows, dtype=torch.int64).reshape(-1, length)


def measure(
    model: StreamedModel, windows: Tensor, token: int, scratch: Path, report: Report = silent
) -> MeasuredBos:
    """Return the losses on windows, (windows, length), int64, as they are, and with the token in
    the place of their first token, which is never scored: the same tokens are.
    """
    measurements = []
    for name, bos in (("without", None), ("with", token)):
        (scratch / name).mkdir()
        measurements.append(Perplexity(model, begin_with(windows, bos), scratch / name))
    pass_through(model, measurements, report)
    losses = [each.result().metrics["window_losses"] for each in measurements]
    without, behind = (
        torch.tensor([math.nan if loss is None else loss for loss in each], dtype=torch.float64)
        for each in losses
    )
    differences = behind - without
    error = differences.std() / math.sqrt(len(differences))
    found = (without.mean(), behind.mean(), differences.mean(), error)
    return MeasuredBos(*(float(each) if each.isfinite() else None for each in found))
