"""How many tokens the documents of a text have, and whether a study can draw its samples from them.

No tensor library is imported, so that planning can ask.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from freelunch.study.cell import derive_seed

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# Characters that the tokenizer counts, in about a second. The rest is estimated from their ratio.
COUNTED_CHARACTERS = 500_000
# Characters per token if there is no tokenizer: as in Wikipedia with SmolLM2's (4.1 in docs/full).
TOKEN_CHARACTERS = 4.1


@dataclass(frozen=True)
class Amounts:
    """The documents of a text in tokens.

    Attributes:
        lengths: Tokens of each document.
        exact: Whether a tokenizer counted all of them.
        complete: Whether these are all documents of the text, rather than its beginning.
    """

    lengths: Sequence[int]
    exact: bool
    complete: bool = True

    @classmethod
    def of(
        cls, documents: Iterable[str], tokenizer: "Tokenizer | None", complete: bool = True
    ) -> "Amounts":
        """Count the tokens of documents, or estimate them by their characters."""
        lengths, counted, tokens, exact = [], 0, 0, tokenizer is not None
        for document in documents:
            left = COUNTED_CHARACTERS - counted
            if tokenizer is None or left <= 0:
                ratio = counted / tokens if tokens else TOKEN_CHARACTERS
                lengths.append(round(len(document) / ratio))
                exact = False
                continue
            found = len(tokenizer.encode(document[:left]).ids)
            counted += min(len(document), left)
            tokens += found
            if len(document) > left:
                found, exact = round(found * len(document) / left), False
            lengths.append(found)
        return cls(lengths, exact, complete)

    @property
    def tokens(self) -> int:
        """Return the tokens of the documents joined, with one between each two."""
        return sum(self.lengths) + len(self.lengths) - 1

    def longer_than(self, length: int) -> int:
        """Return how many documents a sequence of this length can be drawn from."""
        return sum(tokens > length for tokens in self.lengths)

    def left_after(self, samples: int, length: int, seed: int) -> int:
        """Return how many documents are long enough and not touched by the calibration sample.

        It draws as `data.drawing.Drawing` does; if the lengths are estimates, so is the result.
        At least one document has to be longer than a sequence.
        """
        generator = random.Random(derive_seed(seed, "calibration"))
        touched: set[int] = set()
        drawn = 0
        while drawn < samples:
            index = generator.randrange(len(self.lengths))
            if self.lengths[index] > length:
                generator.randrange(self.lengths[index] - length + 1)
                touched.add(index)
                drawn += 1
        return self.longer_than(length) - len(touched)
