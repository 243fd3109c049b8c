"""The card at the head of an audit's page: what was run, and the meaning of names in cells."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from freelunch.audit.audit import Audit
from freelunch.audit.claim_verdicts import ClaimVerdict
from freelunch.audit.scope import cells_text, measured_text
from freelunch.audit.verdicts import VERDICTS
from freelunch.reporting.formatting import range_text
from freelunch.reporting.labels import criterion_label, pattern_label, place_text
from freelunch.study.cell import NONE
from freelunch.study.patterns import Pattern
from freelunch.study.study import Study

# The settings of an adaptation that explain its name.
_TOLD = (
    *("method", "window", "inputs", "targets", "lost_residual", "model_dropout"),
    *("loss", "trains", "learning_rate", "epochs"),
)


def run_facts(study: Study, audit: Audit) -> dict[str, str]:
    """Return what was run: the study, models, pruning, adaptations, texts and seeds."""
    pruned = [cell for cell in study.cells if not cell.is_dense]
    models = ", ".join(
        f"{name} ({place_text(study.config.models[name].as_json())})" for name in study.models
    )
    criteria = ", ".join(dict.fromkeys(criterion_label(cell.criterion) for cell in pruned))
    patterns = ", ".join(dict.fromkeys(pattern_label(cell.pattern) for cell in pruned))
    adapted = {(cell.model, cell.adaptation) for cell in pruned if cell.adaptation != NONE}
    names = {name for _, name in adapted}
    of_cells = Counter((cell.model, cell.pruning, cell.adaptation) for cell in pruned)
    seeds = range_text([*of_cells.values()] or [1], ",")
    facts = {
        "Study": f"`{study.name}` (`{audit.config_file}`), {cells_text(study)}",
        "Models": f"{models}, pruned by {criteria}; {patterns}" if pruned else models,
        "Measured": f"{measured_text(study)}{_held_out(study)}; {seeds} "
        f"seed{'' if seeds == '1' else 's'} for each cell",
    }
    if names:
        tokens = range_text([study.tokens_of(*each) for each in adapted], ",")
        facts["Adapted"] = (
            f"in {len(names)} way{'s' if len(names) > 1 else ''}, on {tokens} tokens of "
            f"`{study.calibration.text}`"
        )
    facts["Worth"] = audit.worth
    return facts


def _held_out(study: Study) -> str:
    """Return on how much held-out text cells are measured, if they are."""
    if study.drift is None:
        return ""
    return (
        f", and on {study.drift.samples:,} held-out sequences of {study.sequence_text} tokens of "
        f"`{study.calibration.text}` for each seed"
    )


def tally_text(claims: Sequence[ClaimVerdict]) -> str:
    """Return the number of claims with each verdict, and what that says of them, in a few words."""
    verdicts = [claim.verdict for claim in claims]
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS if verdict in verdicts}
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    bearings = Counter(claim.bearing for claim in claims)
    said = ", ".join(f"{count} {bearing}" for bearing, count in bearings.items())
    return f"Of the paper's {len(claims)} claims: {told}. What that says of the paper: {said}."


def meanings(study: Study) -> Iterator[tuple[str, str]]:
    """Yield the meaning of the names in cells: patterns, criteria and adaptations."""
    pruned = [cell for cell in study.cells if not cell.is_dense]
    for pattern in dict.fromkeys(cell.pattern for cell in pruned):
        yield pattern, f"pattern: {pattern_in_words(Pattern.parse(pattern))}"
    for name in dict.fromkeys(cell.criterion for cell in pruned):
        keys = ("score", "scope", "statistics", "swaps")
        yield name, f"criterion: {_listed(study.criterion(name).as_json(), keys)}"
    for name in dict.fromkeys(cell.adaptation for cell in pruned):
        if name == NONE:
            yield name, "pruned and not adapted"
        else:
            entry = study.config.adaptations[name].as_json()
            yield name, f"adaptation: {_listed(entry, _TOLD)}; {study.samples(name):,} sequences"
    yield "held out", "perplexity on calibration text that no sample uses"
    yield "drift", "relative error of the last block's output there, averaged over tokens"


def pattern_in_words(pattern: Pattern) -> str:
    """Return which weights become zero."""
    if pattern.group is not None:
        zeros = pattern.zeros_in_group(pattern.group)
        return f"{zeros} of each {pattern.group} consecutive weights of a row become zero"
    share = f"{100 * pattern.sparsity:.0f} %"
    if pattern.structured:
        return f"{share} of the attention heads and MLP channels become zero"
    return f"{share} of the weights become zero, wherever they lie"


def _listed(entry: Mapping[str, Any], keys: Sequence[str]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} `{entry[key]}`" for key in keys if key in entry)
