"""The scope of verdicts: models, patterns, calibration tokens, seeds, beside the paper's."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from freelunch.analysis.intervals import told_apart
from freelunch.analysis.pairing import ENOUGH_SEEDS, Records, seed_groups
from freelunch.audit.claims import CLAIMS, load_data
from freelunch.reporting.formatting import criterion_label, pattern_label, range_text, significant
from freelunch.study.cell import NONE, Cell
from freelunch.study.steps import JOINED
from freelunch.study.study import Study


@dataclass(frozen=True)
class Regime:
    """The models of which the paper makes a claim, by their repositories on the Hub, and its
    smallest calibration sample: the number of its sequences, and their tokens for models with as
    many positions.
    """

    sequences: int
    length: int
    repositories: Sequence[str]

    @property
    def tokens(self) -> int:
        """Return the tokens of the sample, for models with enough positions."""
        return self.sequences * self.length

    def has(self, study: Study, cell: Cell) -> bool:
        """Return whether a cell is of one of these models and, if it was reconstructed, saw as much
        text; `max_length` of a model may be shorter than the paper's sequences.
        """
        model = study.model(cell.model)
        tokens = self.sequences * min(self.length, model.max_length or self.length)
        is_own = getattr(model, "repository", None) in self.repositories
        return is_own and (not _is_local(study, cell) or study.tokens_of(*_place(cell)) >= tokens)


# By the claim.
Regimes = Mapping[str, Regime]


def load_regimes(path: Path = CLAIMS) -> Regimes:
    """Return the models and the scale without which a study says nothing about a claim. UserError:
    the file does not match `workflow/schemas/claims.schema.json`.
    """
    return {
        claim: Regime(regime["sequences"], regime["length"], regime["repositories"])
        for regime in load_data(path, "claims").get("regimes", [])
        for claim in regime["claims"]
    }


def scope_of(
    study: Study, cells: Iterable[Cell], seeds: Iterable[int], paper: Regime | None
) -> str:
    """Return what numbers are about that come from at least one cell, each from so many seeds: the
    models, criteria and patterns, and the calibration tokens, beside the paper's smallest sample.
    """
    cells = list(cells)
    pruned = [cell for cell in cells if cell.is_pruned]
    names = (
        dict.fromkeys(cell.model for cell in cells),
        dict.fromkeys(criterion_label(cell.criterion) for cell in pruned),
        dict.fromkeys(pattern_label(cell.pattern) for cell in pruned),
    )
    adapted = dict.fromkeys(_place(cell) for cell in pruned if cell.adaptation != NONE)
    amounts = [study.tokens_of(*place) for place in adapted or map(_place, cells)]
    tokens = f"{range_text(amounts, ',')} calibration tokens"
    if paper:
        tokens += f" (the paper: at least {paper.tokens:,} for most models)"
    counts = list(seeds) or [1]
    told = "one seed" if max(counts) == 1 else f"{range_text(counts, ',')} seeds"
    return "; ".join(filter(None, [*map(", ".join, names), tokens, told]))


def _place(cell: Cell) -> tuple[str, str]:
    return cell.model, cell.adaptation


def _is_local(study: Study, cell: Cell) -> bool:
    adapted = cell.is_pruned and cell.adaptation != NONE
    return adapted and not study.config.adaptations[cell.adaptation].is_retraining


def scope_text(study: Study, records: Records, regimes: Regimes) -> str:
    """Return the scope of all verdicts on a study, which a reader needs to know before any."""
    unfinished = f"; {cells_text(study)}" if study.is_unfinished else ""
    scope = scope_of(study, study.cells, _seeds(records), _smallest(regimes))
    return (
        f"{scope}; calibration on `{study.calibration.text}`; {measured_text(study)}{unfinished}."
    )


def cells_text(study: Study) -> str:
    """Return how many cells a study has; of an unfinished one, how many have finished."""
    cells = len(study.cells)
    if study.is_unfinished:
        return f"unfinished: {cells} of {len(study.asked)} cells"
    return f"{cells} cells"


def measured_text(study: Study) -> str:
    """Return what perplexity is measured on."""
    perplexity = study.perplexity
    windows = f"{perplexity.windows:,}" if perplexity.windows else "all"
    return f"perplexity on {windows} windows of {study.window_text} tokens of `{perplexity.text}`"


def worth_text(study: Study, records: Records, regimes: Regimes) -> str:
    """Return what the scope of a study makes its verdicts worth, and what its text can show."""
    worth = _for_the_paper(study, _seeds(records), _smallest(regimes))
    if study.perplexity.text == study.calibration.text:
        worth += " Adaptation and evaluation read the same text and may share documents."
    width = told_apart(records, study.perplexity.cut == JOINED)
    dense = [
        loss
        for cell, record in records.items()
        if cell == Cell.dense(cell.model)
        and (loss := record["metrics"]["perplexity"]["loss"]) is not None
    ]
    if width is not None and dense:
        worth += (
            " On this text, the median pair of adaptations can be told apart if their losses "
            f"differ by {width:.2g} nats, {significant(100 * width / fmean(dense))} % of the dense "
            "model's loss; other samples and orders add to that."
        )
    return worth


def _for_the_paper(study: Study, seeds: Sequence[int], paper: Regime | None) -> str:
    few = "."
    if min(seeds, default=1) < ENOUGH_SEEDS:
        few = ", and what comes from fewer than three seeds is single-seed."
    local = [cell for cell in study.cells if _is_local(study, cell)]
    own = [cell for cell in local if paper and paper.has(study, cell)]
    if own:
        models = ", ".join(dict.fromkeys(cell.model for cell in own))
        return f"What is said of {models} can support or weaken the paper's claims{few}"
    if not local:
        return f"No model was reconstructed, so this settles no claim of the paper{few}"
    return (
        "No model is one of the paper's with at least its smallest calibration sample, so this is "
        f"about these models and amounts of text, and settles no claim of the paper{few}"
    )


def _seeds(records: Records) -> list[int]:
    return [len(cells) for cells in seed_groups(records) if cells[0].is_pruned]


def _smallest(regimes: Regimes) -> Regime | None:
    return min(regimes.values(), key=lambda each: each.tokens, default=None)
