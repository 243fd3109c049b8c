"""Put continuations of one context into one sequence, so that the context is passed once.

A request asks for the log-likelihood of a continuation given a context. Requests that begin with
the same tokens (the choices of a question; the questions on a passage) become one packed sequence:
what they share, then the rest of each. A token sees what it would see in a sequence of its own, the
shared tokens and those of its own rest before it, at the position that it would have there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

import torch
from torch import Tensor

# A request joins others where at least this share of it is theirs too. Less saves little, and a
# longer sequence costs attention and memory.
SHARED = 0.25
# The share of padding in a sequence beyond which it waits for a batch of shorter ones.
PADDED = 0.1
# Of a place in a packed sequence that holds no token.
PADDING = -1


@dataclass(frozen=True)
class Request:
    """A continuation whose log-likelihood is asked for.

    Attributes:
        context: Token ids, at least one.
        continuation: Token ids, at least one.
    """

    context: Sequence[int]
    continuation: Sequence[int]

    @property
    def inputs(self) -> list[int]:
        """What passes through the model: all but the last token."""
        return [*self.context, *self.continuation][:-1]

    def truncated(self, length: int) -> "Request":
        """Return the request with as many tokens of its context as fit, the last ones.

        Args:
            length: The most tokens that pass through the model.
        """
        room = length + 1 - len(self.continuation)
        return Request(self.context[max(0, len(self.context) - room) :], self.continuation)


@dataclass(frozen=True)
class Packed:
    """Several requests as one sequence.

    Attributes:
        requests: Their indices.
        tokens: Token ids.
        positions: Of each token, in its own request.
        parts: 0 for a token that all share, else whose it is: 1 for the first request's.
        places: For each request where the tokens are that predict its continuation.
    """

    requests: Sequence[int]
    tokens: Sequence[int]
    positions: Sequence[int]
    parts: Sequence[int]
    places: Sequence[Sequence[int]]

    def __len__(self) -> int:
        return len(self.tokens)


def pack(requests: Sequence[Request]) -> list[Packed]:
    """Return packed sequences that hold each request once, the longest first.

    In the order of their tokens, requests that share most stand beside each other; each joins those
    before it if that saves tokens, and enough of its own.
    """
    inputs = [request.inputs for request in requests]
    groups: list[list[int]] = []
    shared = 0
    for index in sorted(range(len(requests)), key=inputs.__getitem__):
        if groups:
            # In this order the first and the last of a group share what all share.
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
    """Return how many tokens two sequences have in common at their beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _packed(group: Sequence[int], requests: Sequence[Request]) -> Packed:
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
        positions: Of each token in its request, (rows, length), int64.
        parts: As of `Packed`, PADDING where there is no token, (rows, length), int64.
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
        """Return what each token sees, (rows, length, length): [row, i, j] if i sees j.

        A place without a token sees itself, since a softmax needs something, and is seen by none.

        Args:
            window: Of sliding attention: how many tokens back a token sees, itself included.
        """
        length = self.tokens.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool).tril()
        viewer, viewed = self.parts[:, :, None], self.parts[:, None, :]
        seen = earlier & ((viewed == 0) | (viewer == viewed)) & (viewer != PADDING)
        if window is not None:
            seen &= self.positions[:, :, None] - self.positions[:, None, :] < window
        return seen | torch.eye(length, dtype=torch.bool)


def batches(packed: Sequence[Packed], tokens: int) -> list[Batch]:
    """Return packed sequences, the longest first, in batches of about as many tokens, padded.

    A batch that is a quarter full takes none that it would have to pad by much.
    """
    found: list[Batch] = []
    rest = list(packed)
    while rest:
        longest = max(1, len(rest[0]))
        size = 1
        while size < len(rest) and (size + 1) * longest <= tokens:
            padding = longest - len(rest[size])
            if padding > PADDED * longest and 4 * size * longest >= tokens:
                break
            size += 1
        found.append(Batch.of(rest[:size]))
        rest = rest[size:]
    return found
