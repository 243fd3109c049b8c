"""How the sequences of a model begin, in words: what its tokenizer does, and what was decided."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from freelunch.core.errors import UserError


class Beginning(NamedTuple):
    """The beginning-of-sequence token of a tokenizer, if it has one, and whether it begins a text
    with it.
    """

    token: str | None
    added: bool

    @property
    def text(self) -> str:
        """What the tokenizer does, after its subject."""
        if self.token is None:
            return "has no beginning-of-sequence token"
        return f"{'begins' if self.added else 'does not begin'} a text with `{self.token}`"


def check_beginning(beginning: Beginning, always: bool, where: object) -> None:
    """Refuse, by UserError, that sequences always begin with a token that a tokenizer lacks."""
    if always and beginning.token is None:
        raise UserError(
            "sequences cannot begin with a token that the tokenizer does not have",
            where=where,
            found="no bos_token",
            expected="a bos_token, since the model's entry says `bos: always`",
            todo="remove `bos` from the model's entry, or use the tokenizer that belongs to it",
        )


def decided_text(bos: Mapping[str, Any]) -> str:
    """Return what was decided, from `bos` of a record's provenance, as a sentence's predicate."""
    tokenizer = Beginning(bos["token"], bos["added_by_tokenizer"])
    said = f"`bos: {bos['setting']}`; its tokenizer {tokenizer.text}"
    if bos["standard_error"] is not None:
        said += f"; with it, the dense loss changes by {bos['difference']:+.3f} nats "
        said += f"± {bos['standard_error']:.3f}"
    token = f"`{bos['token']}`" if bos["used"] else "a token of the text"
    return f"begin with {token} ({said})"
