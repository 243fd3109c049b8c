"""What is known of a study's models and texts before a run: shapes from a model's own config.json
or the header of its GGUF file, if it is on disk, and otherwise from `architecture` in the study;
and how long the evaluation text is, for `windows: null`.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from freelunch.costs.shapes import DTYPE_BYTES, Shapes
from freelunch.study import sources
from freelunch.study.gguf_header import read_header
from freelunch.study.model_limits import check_shapes
from freelunch.study.paths import facts_at
from freelunch.study.source_files import files_at, gguf_of
from freelunch.study.study import Study

# Tokens of a text whose length is not known yet.
ASSUMED_TOKENS = 1_000_000
# Characters of a token: those of Wikipedia with the tokenizer of SmolLM2 (4.1 in docs/full).
TOKEN_CHARACTERS = 4.1


# --- Models


def shapes_of(study: Study, model: str) -> Shapes | None:
    """Return the shapes of a model; None if they are not known yet. A config.json that leaves
    shapes to defaults is passed over: once it is fetched, it is complete. UserError: no model can
    have the shapes in its config.json.
    """
    dtype = dtype_of(study, model)
    for path, config in _configs(study, model):
        check_shapes(config, path)
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            return Shapes.of(config, dtype)
    return None


def config_of(study: Study, model: str) -> Mapping[str, Any]:
    """Return what is known of a model's config; empty if nothing is."""
    return next((config for _, config in _configs(study, model)), {})


def is_gguf(study: Study, model: str) -> bool:
    """Return whether a model is a GGUF file."""
    is_in_wheel = isinstance(study.model(model), sources.WheelModel | sources.JoinedModel)
    return is_in_wheel or _gguf_file(study, model) is not None


def _gguf_file(study: Study, model: str) -> Path | None:
    """Return the GGUF file of a model of one's own; None if it is none."""
    entry = study.model(model)
    if not isinstance(entry, sources.LocalModel):
        return None
    return gguf_of(Path(entry.path), f"models.{model}.path")


def dtype_of(study: Study, model: str) -> str:
    """Return the dtype in which a model is stored: the entry's, or else the checkpoint's own.

    A GGUF file is dequantised to float32. Other models that are not on disk yet are assumed to be
    bfloat16, as today's checkpoints are.
    """
    entry = study.model(model)
    if entry.dtype is not None:
        return entry.dtype
    if is_gguf(study, model):
        return "float32"
    for _, config in _configs(study, model):
        # transformers wrote `torch_dtype` before version 5.
        stated = config.get("dtype") or config.get("torch_dtype")
        # Fetching refuses any other dtype.
        if isinstance(stated, str) and stated in DTYPE_BYTES:
            return stated
    return "bfloat16"


def _configs(study: Study, model: str) -> Iterator[tuple[object, dict[str, Any]]]:
    """Yield what each config.json that is JSON says, in the model's own folder and in the fetched
    model's, what the header of a GGUF file says, and what the study says, with the place of each.
    """
    entry, folders = study.model(model), [study.fetched("models", model)]
    gguf = _gguf_file(study, model)
    # What lies beside a GGUF file is not used.
    if isinstance(entry, sources.LocalModel) and gguf is None:
        folders.insert(0, Path(entry.path))
    for folder in filter(None, folders):
        with suppress(OSError, ValueError, RecursionError):
            config = json.loads((folder / "config.json").read_text())
            if isinstance(config, dict):
                yield folder / "config.json", config
    if gguf is not None:
        # A file that is damaged is refused when it is looked at.
        with suppress(OSError, ValueError, KeyError, TypeError):
            yield gguf, read_header(gguf).config
    if entry.architecture is not None:
        yield f"models.{model}.architecture", entry.architecture.as_json()


# --- Texts


class TextWindows(NamedTuple):
    """How many windows a text has, and how that is known, if the study does not say it."""

    windows: int
    note: str | None = None


def text_windows(study: Study, model: str) -> TextWindows:
    """Return how many windows of the evaluation text a model is evaluated on.

    If the study says `null`, the text's length is estimated by what was fetched, or by a file of
    one's own. A text that is neither is assumed to have a million tokens.
    """
    settings = study.perplexity_of(model)
    if settings.windows is not None:
        return TextWindows(settings.windows)
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
    return TextWindows(max(2, steps + 1), f"evaluation on all of {settings.text}: {note}")


def characters_of(study: Study, text: str) -> int | None:
    """Return how many characters a text has; None if it is not fetched."""
    folder = study.fetched("texts", text)
    characters = facts_at(folder).get("characters") if folder else None
    return characters if isinstance(characters, int) else None


def bytes_of(text: object) -> int | None:
    """Return the size of a text in files of one's own; None if it is elsewhere, or packed. A
    character has 1 to 4 bytes, and lines of JSON also have what is not text.
    """
    if not isinstance(text, sources.LocalText) or text.format in sources.TABLES:
        return None
    paths = [Path(file) for file in files_at(text.path)]
    if any(path.suffix == sources.PACKED or not path.is_file() for path in paths):
        return None
    return sum(path.stat().st_size for path in paths)
