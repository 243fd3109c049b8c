"""Log-likelihoods of continuations under a model that is streamed block by block.

All requests pass through one block before the next is read, as in every other step: the model may
be larger than memory, and its weights are read once however many requests there are.

Requests that begin with the same tokens (the choices of a question; the questions on a passage) are
packed into one sequence: the tokens that they share, then the rest of each request. A token sees
what it would see in a sequence of its own, at the position that it would have there: the shared
tokens, and the tokens before it in the rest of its own request.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from freelunch.model.checkpoint import StreamedModel
from freelunch.model.tensor_file import create_hidden, hidden_file
from freelunch.model.transfer import read_batches, writing_behind
from freelunch.study.steps import BATCH_TOKENS, HEAD_PLACES

# A request joins a group if it shares at least this part of its tokens with the group. Sharing less
# saves little, and a longer sequence costs attention and memory.
SHARED = 0.25
# Share of padding beyond which a sequence waits for a batch of shorter ones.
PADDED = 0.1
# Marks a place in a packed sequence that holds no token.
PADDING = -1


@dataclass(frozen=True)
class LikelihoodRequest:
    """A continuation whose log-likelihood given a context is asked for, as token ids, at least one
    of each.
    """

    context: Sequence[int]
    continuation: Sequence[int]

    @property
    def inputs(self) -> list[int]:
        """Return the token ids that pass through the model: all but the last one."""
        return [*self.context, *self.continuation][:-1]

    def truncated(self, length: int) -> "LikelihoodRequest":
        """Return the request with its context cut at the beginning, so that at most `length` tokens
        pass through the model.
        """
        room = length + 1 - len(self.continuation)
        return LikelihoodRequest(
            self.context[max(0, len(self.context) - room) :], self.continuation
        )


@dataclass(frozen=True)
class Packed:
    """Several requests, by their indices, as one sequence of token ids, each with its position in
    its own request and its owner among `parts`: 0 if all requests share it, 1 for the first
    request, and so on; and for each request, the `places` of the tokens that predict its
    continuation.
    """

    requests: Sequence[int]
    tokens: Sequence[int]
    positions: Sequence[int]
    parts: Sequence[int]
    places: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.tokens)


def apart(requests: Sequence[LikelihoodRequest]) -> list[Packed]:
    """Return each request as a sequence of its own, the longest first."""
    alone = (_packed([index], requests) for index in range(len(requests)))
    return sorted(alone, key=len, reverse=True)


def pack(requests: Sequence[LikelihoodRequest]) -> list[Packed]:
    """Return packed sequences that hold each request once, the longest first.

    Requests are sorted by their tokens, so that those that share the most are neighbours. Each
    request joins the group before it if this saves tokens, and enough of the request's own.
    """
    inputs = [request.inputs for request in requests]
    groups: list[list[int]] = []
    shared = 0
    for index in sorted(range(len(requests)), key=inputs.__getitem__):
        if groups:
            # In sorted order, all requests of a group share what its first and its last request
            # share.
            common = _common(inputs[groups[-1][0]], inputs[index])
            lost = (shared - common) * (len(groups[-1]) - 1)
            if common - lost >= SHARED * len(inputs[index]):
                groups[-1].append(index)
                shared = common
                continue
        groups.append([index])
        shared = len(inputs[index])
    return sorted((_packed(group, requests) for group in groups), key=len, reverse=True)


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _packed(group: Sequence[int], requests: Sequence[LikelihoodRequest]) -> Packed:
    inputs = [requests[index].inputs for index in group]
    shared = min(_common(inputs[0], each) for each in inputs)
    tokens, positions, parts = [*inputs[0][:shared]], [*range(shared)], [0] * shared
    places = []
    for part, (index, own) in enumerate(zip(group, inputs, strict=True), 1):
        start = len(tokens)
        tokens += own[shared:]
        positions += range(shared, len(own))
        parts += [part] * (len(own) - shared)
        where = [*range(shared), *range(start, len(tokens))]
        places.append(where[-len(requests[index].continuation) :])
    return Packed(group, tokens, positions, parts, places)


@dataclass(frozen=True)
class Batch:
    """Packed sequences that pass together, padded at their ends: token ids, their positions, and
    their owners as in `Packed`, PADDING where there is no token; each (rows, length), int64.
    """

    rows: Sequence[Packed]
    tokens: Tensor
    positions: Tensor
    parts: Tensor

    @classmethod
    def of(cls, rows: Sequence[Packed]) -> "Batch":
        """Return a batch of packed sequences."""
        length = max(map(len, rows))

        def padded(values: Sequence[Sequence[int]], filler: int) -> Tensor:
            return torch.tensor([[*each, *[filler] * (length - len(each))] for each in values])

        return cls(
            rows,
            padded([row.tokens for row in rows], 0),
            padded([row.positions for row in rows], 0),
            padded([row.parts for row in rows], PADDING),
        )

    def seen(self, window: int | None = None) -> Tensor:
        """Return what each token sees, (rows, length, length), bool: [row, i, j] is True if i sees
        j. A place without a token sees itself, because a softmax needs at least one entry, and
        no other token sees it. With sliding attention, a token sees `window` tokens back, itself
        included.
        """
        length = self.tokens.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool).tril()
        viewer, viewed = self.parts[:, :, None], self.parts[:, None, :]
        seen = earlier & ((viewed == 0) | (viewer == viewed)) & (viewer != PADDING)
        if window is not None:
            seen &= self.positions[:, :, None] - self.positions[:, None, :] < window
        return seen | torch.eye(length, dtype=torch.bool)


def batches(packed: Sequence[Packed], tokens: int) -> list[Batch]:
    """Return batches of about `tokens` tokens, padding included, of packed sequences, longest
    first. A batch that is a quarter full takes no sequence that it would have to pad by much.
    """
    made: list[Batch] = []
    rest = list(packed)
    while rest:
        longest = max(1, len(rest[0]))
        size = 1
        while size < len(rest) and (size + 1) * longest <= tokens:
            padding = longest - len(rest[size])
            if padding > PADDED * longest and 4 * size * longest >= tokens:
                break
            size += 1
        made.append(Batch.of(rest[:size]))
        rest = rest[size:]
    return made


@dataclass(frozen=True)
class Likelihoods:
    """A model's answers: for each request, the log-likelihood of its continuation given its
    context, in nats, summed over its tokens, and whether each of these tokens is the most likely
    one; the tokens that passed through the blocks, padding included; the packed sequences that
    held them; and the tokens that passed through the head.
    """

    values: Sequence[tuple[float, bool]]
    passed_tokens: int
    sequences: int
    predicted_tokens: int


class LogLikelihood:
    """Measure the log-likelihoods of requests, none longer than the model can take, while its
    blocks pass by. The hidden states of all requests are in `scratch`, not in memory.
    """

    @torch.no_grad()
    def __init__(
        self, model: StreamedModel, requests: Sequence[LikelihoodRequest], scratch: Path
    ) -> None:
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
        by_request: dict[int, tuple[float, bool]] = {}
        predicted = 0
        arriving = read_batches(self._model.device, self._slices, self._hidden)
        for batch, (states,) in zip(self._parts, arriving, strict=True):
            places, of_batch = _of_batch(self._model, batch, states[:, 0], self._requests)
            predicted += places
            by_request |= of_batch
        values = [by_request[index] for index in range(len(self._requests))]
        sequences = sum(len(batch.rows) for batch in self._parts)
        return Likelihoods(values, self._tokens, sequences, predicted)


def takes_packed(model: StreamedModel) -> bool:
    """Return whether a model takes the positions of tokens, and so packed sequences. One that
    biases attention by distance (ALiBi) takes positions from the tokens' order.
    """
    if getattr(model.config, "alibi", False):
        return False
    return "position_ids" in inspect.signature(model.outer.backbone.forward).parameters


def arguments(batch: Batch, model: StreamedModel) -> dict[str, Tensor | dict[str, Tensor]]:
    """Return the arguments that a model takes besides the tokens, so that each token sees what it
    should: `position_ids`, (rows, length), and `attention_mask`, which is added to the attention
    scores, (rows, 1, length, length), or one mask for each kind of attention that the model has.

    They are none if each sequence is one request: padding follows all its tokens, so causal
    attention does not see it.
    """
    if not takes_packed(model):
        return {}
    config = model.config
    window = sliding_window(config)
    kinds = set(getattr(config, "layer_types", None) or ())

    def added(seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=model.dtype)
        return mask.masked_fill_(~seen, torch.finfo(model.dtype).min)[:, None].to(model.device)

    near = added(batch.seen(window))
    slides = "sliding_attention" in kinds
    mask = {"full_attention": added(batch.seen()), "sliding_attention": near} if slides else near
    return {"attention_mask": mask, "position_ids": batch.positions.to(model.device)}


def sliding_window(config: PreTrainedConfig) -> int | None:
    """Return how many tokens back a token sees in sliding attention; None if attention does not
    slide.
    """
    if not getattr(config, "use_sliding_window", True):
        return None
    return getattr(config, "sliding_window", None)


def _of_batch(
    model: StreamedModel, batch: Batch, hidden: Tensor, requests: Sequence[LikelihoodRequest]
) -> tuple[int, dict[int, tuple[float, bool]]]:
    """Return how many tokens were predicted, and the log-likelihoods of a batch's requests by
    index, from hidden states after the last block, (tokens, d), on the model's device.
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
    answers: dict[int, tuple[float, bool]] = {}
    for owner, value, first in zip(owners, values.tolist(), greedy.tolist(), strict=True):
        total, all_first = answers.get(owner, (0.0, True))
        answers[owner] = total + value, all_first and first
    return len(distinct), answers
