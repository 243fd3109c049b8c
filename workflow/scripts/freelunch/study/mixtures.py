"""Mixtures in a config: what can be wrong with them, and how much text a study draws from one."""

import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from freelunch.core.errors import nearest
from freelunch.study.config import Config
from freelunch.study.sources import REFUSE, LocalText, Mixture, Tokens

if TYPE_CHECKING:
    from freelunch.study.study import Study


def mixture_of(study: "Study") -> Mixture | None:
    """Return the mixture that a study calibrates on; None if it calibrates on a single text."""
    entry = study.text(study.calibration.text)
    return entry if isinstance(entry, Mixture) else None


def texts_of(study: "Study") -> list[str]:
    """Return the texts that a study reads, with the parts of a mixture instead of itself."""
    mixture = mixture_of(study)
    sampled = mixture.parts if mixture else [study.calibration.text]
    return list(dict.fromkeys([*sampled, study.perplexity.text]))


def most_samples(study: "Study") -> int:
    """Return the number of sequences of the largest sample that any cell trains on."""
    sizes = (max(study.sizes(cell.adaptation), default=0) for cell in study.cells)
    return max(study.calibration.samples, *sizes)


def mixture_problems(
    name: str, entry: Mixture, config: Config, names: Mapping[str, list[str]]
) -> Iterator[str]:
    """Yield what is wrong with the parts of a mixture."""
    where = f"  texts.{name}.parts"
    for part in entry.parts:
        if part not in names["texts"]:
            others = [each for each in names["texts"] if each != name]
            yield f"{where}: {part!r} is not in `texts`; expected {nearest(part, others)}"
        elif isinstance(config.texts.get(part), Mixture):
            yield f"{where}.{part}: found a mixture; expected a text that is not one itself"
        elif isinstance(config.texts.get(part), Tokens):
            yield f"{where}.{part}: a `tokens` source has no documents to mix; expected a text"
    yield from _repeated_parts(where, entry, config)
    if entry.evaluation_text == REFUSE and config.study.calibration.text == name:
        yield from _evaluated_parts(where, entry, config)


def _repeated_parts(where: str, entry: Mixture, config: Config) -> Iterator[str]:
    """Yield the parts that are an earlier part under another name."""
    first: dict[str, str] = {}
    for part in entry.parts:
        text = config.texts.get(part)
        if text is None:
            continue
        written = text.deciding()
        if isinstance(text, LocalText):
            written |= {"path": os.path.realpath(text.path)}
        other = first.setdefault(str(sorted(written.items())), part)
        if other != part:
            yield f"{where}.{part}: this is the same text as {other}; expected another text"


def _evaluated_parts(where: str, entry: Mixture, config: Config) -> Iterator[str]:
    """Yield the parts that are the evaluation text itself, perhaps under another name."""
    text = config.study.evaluation.perplexity.text
    for part in entry.parts:
        # Others tell of names that are not defined.
        if not {part, text} <= config.texts.keys():
            continue
        if config.texts[part].deciding() == config.texts[text].deciding():
            yield (
                f"{where}.{part}: this is the evaluation text, {text}, whose documents the mixture "
                "refuses; expected another text, or `evaluation_text: leave_out` in the mixture"
            )
