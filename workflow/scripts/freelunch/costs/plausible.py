"""Valid settings that cannot be meant: numbers that a model, a text or time cannot hold."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from freelunch.core.errors import UserError
from freelunch.costs.model_shapes import config_of
from freelunch.costs.text_lengths import bytes_of, characters_of
from freelunch.study.cell import NONE
from freelunch.study.config import Calibration
from freelunch.study.sources import LocalText

if TYPE_CHECKING:
    from freelunch.costs.plan import Plan
    from freelunch.study.study import Study

# How often the sample of an adaptation may draw each token of its text.
MOST_DRAWS = 10
SELECTION = "study.selection.samples"
# A year at 300 PFLOP/s, more than the training of any published model.
MOST_OPERATIONS = 1e25
# Documents are joined by two characters, and each may consist of one.
_WITH_SEPARATORS = 3


def check_plausible(plan: "Plan") -> None:
    """Refuse numbers that cannot be meant.

    Raises:
        UserError: There are such numbers; the message says which and why.
    """
    found = [*_lengths(plan), *_of_texts(plan), *_of_mixture(plan), *_operations(plan)]
    problems = dict.fromkeys(found)
    if problems:
        count = "1 number" if len(problems) == 1 else f"{len(problems)} numbers"
        raise UserError(
            f"{count} in the study cannot be meant\n" + "\n".join(problems),
            where=plan.study.source,
        )


def _lengths(plan: "Plan") -> Iterator[str]:
    """Yield each length beyond the positions of a model."""
    study = plan.study
    for model in study.models:
        lengths = {
            "study.calibration.length": study.calibration_of(model).length,
            "study.evaluation.perplexity.length": study.perplexity_of(model).length,
        }
        config = config_of(study, model)
        part = config.get("text_config")
        most = (part if isinstance(part, dict) else config).get("max_position_embeddings")
        for key, length in lengths.items():
            if isinstance(most, int) and length > most:
                yield (
                    f"  {key}: found {length}; expected at most {most}, since the model {model} "
                    f"has no more positions (max_position_embeddings); `models.{model}.max_length` "
                    "shortens the sequences of this model alone"
                )


def _of_texts(plan: "Plan") -> Iterator[str]:
    """Yield each number that needs more text than there is; a token is at least a byte of it."""
    study = plan.study
    if (most := _most_tokens(plan, study.perplexity.text)) is not None:
        asked = max(map(study.perplexity_of, study.models), key=lambda it: it.length)
        needed = asked.length + ((asked.windows or 2) - 1) * (asked.stride or asked.length)
        if most == 0:
            yield f"  texts.{asked.text}: the file is empty"
        elif needed > most:
            yield (
                f"  study.evaluation.perplexity.windows: found {asked.windows}, {needed:,} tokens "
                f"in all; the text {asked.text} holds at most {most:,}"
            )
    if (most := _most_tokens(plan, study.calibration.text)) is not None:
        sample = _longest_sample(study)
        if most == 0:
            yield f"  texts.{sample.text}: the file is empty"
            return
        if sample.length > most:
            yield (
                f"  study.calibration.length: found {sample.length}; the text {sample.text} holds "
                f"at most {most:,} tokens"
            )
        for key, samples, times in samples_drawn(study):
            if samples * sample.length > times * most:
                yield (
                    f"  {key}: {samples:,} sequences draw {samples * sample.length:,} tokens from "
                    f"the text {sample.text}, which holds at most {most:,}; expected at most "
                    f"{'' if times == 1 else f'{times} times '}as many"
                )


def samples_drawn(study: "Study") -> Iterator[tuple[str, int, int]]:
    """Yield each number of sequences that is drawn from the calibration text: its key, the number,
    and how often a token may be drawn.
    """
    yield "study.calibration.samples", study.calibration.samples, 1
    yield SELECTION, study.block.selection.samples, 1
    for name in dict.fromkeys(cell.adaptation for cell in study.cells):
        if name != NONE:
            yield f"adaptations.{name}", max(study.sizes(name), default=0), MOST_DRAWS


def _longest_sample(study: "Study") -> Calibration:
    """Return the calibration sample of the model whose sequences are longest."""
    return max(map(study.calibration_of, study.models), key=lambda it: it.length)


def _of_mixture(plan: "Plan") -> Iterator[str]:
    """Yield each part of a mixture that is too short for its share of the largest sample."""
    study = plan.study
    drawn = study.most_samples * _longest_sample(study).length
    mixture = study.mixture
    for part, share in mixture.parts.items() if mixture else ():
        most = _most_tokens(plan, part)
        if most is not None and share * drawn > most:
            yield (
                f"  texts.{study.calibration.text}.parts.{part}: {share:g} of {drawn:,} tokens are "
                f"drawn from it, each once; it holds at most {most:,}"
            )


def _operations(plan: "Plan") -> Iterator[str]:
    """Yield each adaptation that no machine finishes."""
    study = plan.study
    for model, name in dict.fromkeys((cell.model, cell.adaptation) for cell in study.cells):
        if name == NONE or model not in plan.shapes:
            continue
        for run in study.candidate_names(name) or [name]:
            settings = study.adaptation(run)
            assert settings is not None  # Only `none` has no settings.
            cost = plan.step(settings.rule, model, adaptation=run)
            found = sum(cost.work.values()) if cost else 0
            if found > MOST_OPERATIONS:
                yield (
                    f"  adaptations.{name}: its samples and epochs take {found:.1e} operations of "
                    f"the model {model}; expected at most {MOST_OPERATIONS:.0e}, a year at 300 "
                    "PFLOP/s"
                )


def _most_tokens(plan: "Plan", text: str) -> int | None:
    """Return the most tokens that a text can hold; None if that is not known yet."""
    entry = plan.study.config.texts.get(text)
    if isinstance(entry, LocalText):
        size = bytes_of(entry)
        return None if size is None else _WITH_SEPARATORS * size
    characters = characters_of(plan.study, text)
    # A character has at most 4 bytes in UTF-8.
    return None if characters is None else _WITH_SEPARATORS * 4 * characters
