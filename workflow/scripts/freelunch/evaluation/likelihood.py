"""Log-likelihoods of continuations under a model that is streamed block by block.

All requests pass through one block before the next is read, as in every other step. The model may
therefore be larger than memory, and its weights are read once however many requests there are.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from freelunch.evaluation.packing import Batch, Request, apart, batches, pack
from freelunch.model.checkpoint import StreamedModel
from freelunch.model.hidden_file import create_hidden, hidden_file
from freelunch.model.transfer import read_batches, writing_behind
from freelunch.study.steps import BATCH_TOKENS, HEAD_PLACES


@dataclass(frozen=True)
class Likelihoods:
    """A model's answers to requests.

    Attributes:
        values: For each request, the log-likelihood of its continuation given its context, in nats,
            summed over its tokens; and whether each of these tokens is the most likely one.
        passed_tokens: Number of tokens that passed through the blocks, padding included.
        sequences: Number of packed sequences that held them.
        predicted_tokens: Number of tokens that passed through the head.
    """

    values: Sequence[tuple[float, bool]]
    passed_tokens: int
    sequences: int
    predicted_tokens: int


class LogLikelihood:
    """Measure the log-likelihoods of requests while the blocks of a model pass by.

    Args:
        model: The model.
        requests: Requests, none longer than the model can take.
        scratch: Folder for the hidden states of all requests, which are on disk, not in memory.
    """

    @torch.no_grad()
    def __init__(self, model: StreamedModel, requests: Sequence[Request], scratch: Path) -> None:
        self._model, self._requests = model, requests
        packed = pack(requests) if takes_packed(model) else apart(requests)
        self._parts = batches(packed, BATCH_TOKENS)
        ends = torch.tensor([batch.tokens.numel() for batch in self._parts]).cumsum(0).tolist()
        self._slices = [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
        self._tokens, width = ends[-1], model.config.hidden_size
        # One token per row: batches differ in their lengths.
        shape = (self._tokens, 1, width)
        self._hidden = create_hidden(scratch / hidden_file(0), shape, model.dtype)
        with writing_behind(model.device) as write:
            for batch, rows in zip(self._parts, self._slices, strict=True):
                states, _ = model.embed(batch.tokens, **arguments(batch, model))
                write(self._hidden, rows, states.reshape(-1, 1, width))

    @torch.no_grad()
    def through_(self, index: int, block: nn.Module) -> None:
        """Pass all requests through a block."""
        width = self._model.config.hidden_size
        arriving = read_batches(self._model.device, self._slices, self._hidden)
        passing = zip(self._parts, self._slices, arriving, strict=True)
        with writing_behind(self._model.device) as write:
            for batch, rows, (states,) in passing:
                # Recomputed for each block: the masks of all batches together may be larger than
                # the model.
                _, calls = self._model.embed(batch.tokens, **arguments(batch, self._model))
                inputs = states.reshape(*batch.tokens.shape, width)
                write(self._hidden, rows, calls[index](block, inputs).reshape(-1, 1, width))

    @torch.no_grad()
    def values(self) -> Likelihoods:
        """Return the log-likelihoods, after the last block."""
        found: dict[int, tuple[float, bool]] = {}
        predicted = 0
        arriving = read_batches(self._model.device, self._slices, self._hidden)
        for batch, (states,) in zip(self._parts, arriving, strict=True):
            places, of_batch = _of_batch(self._model, batch, states[:, 0], self._requests)
            predicted += places
            found |= of_batch
        values = [found[index] for index in range(len(self._requests))]
        sequences = sum(len(batch.rows) for batch in self._parts)
        return Likelihoods(values, self._tokens, sequences, predicted)


def takes_packed(model: StreamedModel) -> bool:
    """Return whether a model takes the positions of tokens, and so packed sequences.

    A model that biases attention by distance (ALiBi) takes positions from the tokens' order.
    """
    if getattr(model.config, "alibi", False):
        return False
    return "position_ids" in inspect.signature(model.outer.backbone.forward).parameters


def arguments(batch: Batch, model: StreamedModel) -> dict[str, Tensor | dict[str, Tensor]]:
    """Return the arguments that a model takes besides the tokens, so that each token sees what it
    should.

    They are none if each sequence is one request: padding follows all its tokens, so causal
    attention does not see it.

    Returns:
        `position_ids`, (rows, length), and `attention_mask`, which is added to the attention
        scores, (rows, 1, length, length), or one mask for each kind of attention that the model
        has.
    """
    if not takes_packed(model):
        return {}
    config = model.config
    window = sliding_window(config)
    kinds = set(getattr(config, "layer_types", None) or ())

    def added(seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=model.dtype)
        return mask.masked_fill_(~seen, torch.finfo(model.dtype).min)[:, None].to(model.device)

    mask: Tensor | dict[str, Tensor]
    if "sliding_attention" in kinds:
        mask = {
            "full_attention": added(batch.seen()),
            "sliding_attention": added(batch.seen(window)),
        }
    else:
        mask = added(batch.seen(window))
    return {"attention_mask": mask, "position_ids": batch.positions.to(model.device)}


def sliding_window(config: PreTrainedConfig) -> int | None:
    """Return how many tokens back a token sees in sliding attention; None if attention does not
    slide.
    """
    if not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None)


def _of_batch(
    model: StreamedModel, batch: Batch, hidden: Tensor, requests: Sequence[Request]
) -> tuple[int, dict[int, tuple[float, bool]]]:
    """Return how many tokens were predicted, and the log-likelihoods of a batch's requests by
    index.

    Args:
        model: The model, whose head is used.
        batch: The batch.
        hidden: Hidden states after the last block, (tokens, d), on the model's device.
        requests: All requests.
    """
    length = batch.tokens.shape[1]
    owners: list[int] = []
    places: list[int] = []
    targets: list[int] = []
    for row, packed in enumerate(batch.rows):
        for index, of_request in zip(packed.requests, packed.places, strict=True):
            owners += [index] * len(of_request)
            places += [row * length + place for place in of_request]
            targets += requests[index].continuation
    # Choices that begin with the same tokens, and choices of a single token, are predicted at the
    # same place.
    distinct, inverse = torch.unique(torch.tensor(places), return_inverse=True)
    wanted = torch.tensor(targets)
    values = torch.empty(len(places), dtype=torch.float64)
    greedy = torch.empty(len(places), dtype=torch.bool)
    for start in range(0, len(distinct), HEAD_PLACES):
        here = distinct[start : start + HEAD_PLACES]
        states = hidden[here.to(model.device)][None]
        logits = model.logits(torch.zeros(1, len(here), dtype=torch.int64), states)[0].float()
        normaliser = logits.logsumexp(-1).cpu()
        mine = ((inverse >= start) & (inverse < start + len(here))).nonzero()[:, 0]
        at, tokens = inverse[mine] - start, wanted[mine]
        chosen = logits[at.to(model.device), tokens.to(model.device)].cpu()
        values[mine] = (chosen - normaliser[at]).double()
        greedy[mine] = logits.argmax(-1).cpu()[at] == tokens
    found: dict[int, tuple[float, bool]] = {}
    for owner, value, first in zip(owners, values.tolist(), greedy.tolist(), strict=True):
        total, all_first = found.get(owner, (0.0, True))
        found[owner] = total + value, all_first and first
    return len(distinct), found
