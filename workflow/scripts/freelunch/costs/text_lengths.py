"""How long texts are: for `windows: null`, and to see that a sample is not longer than its text."""

import json
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from freelunch.study.fetched import facts_at, fetched_text
from freelunch.study.sources import PACKED, TABLES, WIKI, LocalText, Mixture
from freelunch.study.study import Study

# Tokens of a text whose length is not known yet.
ASSUMED_TOKENS = 1_000_000
# Characters of a token: those of Wikipedia with the tokenizer of SmolLM2 (4.1 in docs/full).
TOKEN_CHARACTERS = 4.1


class TextWindows(NamedTuple):
    """The windows of a text.

    Attributes:
        windows: How many.
        note: How that is known, if the study does not say it.
    """

    windows: int
    note: str | None = None


def text_windows(study: Study, model: str) -> TextWindows:
    """Return how many windows of the evaluation text a model is evaluated on.

    If the study says `null`, the text is looked up: cut for this model, or fetched, or in a file of
    one's own. A text that is neither is assumed to have a million tokens.
    """
    settings = study.perplexity_of(model)
    if settings.windows is not None:
        return TextWindows(settings.windows)
    whole = f"evaluation on all of {settings.text}"
    cut = study.paths.text_windows(model)
    if facts_at(cut).get("settings") == settings.cutting():
        # A file that cannot be read says nothing.
        with suppress(OSError, ValueError, KeyError, TypeError, IndexError):
            windows = _sequences(cut / "tokens.safetensors")
            return TextWindows(windows, f"{whole}: {windows:,} windows")
    tokens: float = ASSUMED_TOKENS
    note = "its length is unknown until it is fetched, and a million tokens is assumed"
    for size, unit in (
        (characters_of(study, settings.text), "characters"),
        (bytes_of(study.text(settings.text)), "bytes"),
    ):
        if size is not None:
            tokens = size / TOKEN_CHARACTERS
            note = f"about {tokens / 1e6:,.2f} million tokens, by its {size:,} {unit}"
            break
    steps = int(tokens - settings.length) // (settings.stride or settings.length)
    return TextWindows(max(2, steps + 1), f"{whole}: {note}")


def characters_of(study: Study, text: str) -> int | None:
    """Return how many characters a text has; None if it, or a part of it, is not fetched."""
    if folder := fetched_text(study, text):
        characters = facts_at(folder).get("characters")
        if isinstance(characters, int):
            return characters
    if not isinstance(entry := study.text(text), Mixture):
        return None
    parts = [characters_of(study, part) for part in entry.parts]
    return None if None in parts else sum(filter(None, parts))


def bytes_of(text: object) -> int | None:
    """Return the size of a text in a file of one's own; None if it is elsewhere, or packed. A
    character has 1 to 4 bytes, and lines of JSON also have what is not text.
    """
    if not isinstance(text, LocalText) or text.format in (*TABLES, WIKI):
        return None
    path = Path(text.path)
    return path.stat().st_size if path.is_file() and path.suffix not in PACKED else None


def _sequences(tokens: Path) -> int:
    """Return how many sequences a safetensors file of token ids has, by its header."""
    with tokens.open("rb") as file:
        # A damaged file may announce a header of any size.
        size = min(int.from_bytes(file.read(8), "little"), 2**16)
        return int(json.loads(file.read(size))["input_ids"]["shape"][0])
