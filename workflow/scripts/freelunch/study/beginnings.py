"""How the sequences of a model begin: what its tokenizer does, and what was decided."""

from typing import NamedTuple, TypedDict

from freelunch.core.errors import UserError


class Beginning(NamedTuple):
    """A tokenizer's beginning-of-sequence token, and whether it begins a text with it."""

    token: str | None
    added: bool

    @property
    def text(self) -> str:
        """What the tokenizer does, after its subject."""
        if self.token is None:
            return "has no beginning-of-sequence token"
        return f"{'begins' if self.added else 'does not begin'} a text with `{self.token}`"

    def check(self, setting: str, where: object) -> None:
        """Refuse, by UserError, the setting `always` without a token."""
        if setting == "always" and self.token is None:
            raise UserError(
                "the tokenizer has no beginning-of-sequence token",
                where=where,
                found="`bos: always`, and no bos_token in the tokenizer's config",
                expected="a bos_token, or another setting",
                todo="remove `bos` from the model's entry, or use the model's own tokenizer",
            )


class BosFacts(TypedDict):
    """How sequences begin, as records have it: the setting, what decided, and the dense model's
    losses on calibration text without and with the token, in nats per token; their difference, with
    minus without, and its standard error over windows. None: not measured, or not finite.
    """

    setting: str
    token: str | None
    added_by_tokenizer: bool
    used: bool
    loss_without: float | None
    loss_with: float | None
    difference: float | None
    standard_error: float | None


def decided_text(bos: BosFacts) -> str:
    """Return what was decided, after `sequences`."""
    tokenizer = Beginning(bos["token"], bos["added_by_tokenizer"])
    said = f"`bos: {bos['setting']}`; the tokenizer {tokenizer.text}"
    if bos["standard_error"] is not None:
        said += f"; with it, the dense loss changes by {bos['difference']:+.3f} nats "
        said += f"± {bos['standard_error']:.3f}"
    begin = f" `{bos['token']}`" if bos["used"] else "out such a token"
    return f"begin with{begin} ({said})"
