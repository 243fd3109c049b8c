"""Pack continuations of one context into one sequence, so that the context passes only once.

A request asks for the log-likelihood of a continuation given a context. Requests that begin with
the same tokens (the choices of a question; the questions on a passage) become one packed sequence:
the tokens that they share, then the rest of each request. A token sees what it would see in a
sequence of its own, at the position that it would have there: the shared tokens, and the tokens
before it in the rest of its own request.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

# A request joins a group if it shares at least this part of its tokens with the group. Sharing less
# saves little, and a longer sequence costs attention and memory.
SHARED = 0.25
# Share of padding beyond which a sequence waits for a batch of shorter ones.
PADDED = 0.1
# Marks a place in a packed sequence that holds no token.
PADDING = -1


@dataclass(frozen=True)
class LikelihoodRequest:
    """A continuation whose log-likelihood is asked for.

    Attributes:
        context: Token ids of the context, at least one.
        continuation: Token ids of the continuation, at least one.
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
    """Several requests as one sequence.

    Attributes:
        requests: Indices of the requests.
        tokens: Token ids.
        positions: Position of each token in its own request.
        parts: Owner of each token: 0 if all requests share it, 1 for the first request, and so on.
        places: For each request, the places of the tokens that predict its continuation.
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
    """Return how many tokens two sequences have in common at their beginnings."""
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
    """Packed sequences that pass together, padded at their ends.

    Attributes:
        rows: The packed sequences.
        tokens: Token ids, (rows, length), int64.
        positions: Position of each token in its request, (rows, length), int64.
        parts: Owners as in `Packed`, PADDING where there is no token, (rows, length), int64.
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
        j.

        A place without a token sees itself, because a softmax needs at least one entry, and no
        other token sees it.

        Args:
            window: For sliding attention, how many tokens back a token sees, itself included.
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
    first.

    A batch that is a quarter full takes no sequence that it would have to pad by much.
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
