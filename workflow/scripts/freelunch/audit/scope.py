"""The scope of verdicts: models, patterns, calibration tokens, seeds, beside the paper's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TypeVar

from freelunch.analysis.intervals import told_apart
from freelunch.analysis.pairing import ENOUGH_SEEDS, Records, seed_groups
from freelunch.audit.claims import load_data
from freelunch.audit.protocol import PROTOCOL
from freelunch.reporting.formatting import significant
from freelunch.reporting.labels import criterion_label, pattern_label
from freelunch.study.cell import NONE, Cell
from freelunch.study.steps import JOINED
from freelunch.study.study import Study

N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Regime:
    """The smallest calibration sample with which the paper makes a claim.

    Attributes:
        sequences: Number of its sequences.
        length: Their tokens, for models with as many positions.
    """

    sequences: int
    length: int

    @property
    def tokens(self) -> int:
        """Return its tokens, for models with enough positions."""
        return self.sequences * self.length

    def tokens_for(self, study: Study, model: str) -> int:
        """Return its tokens for a model, whose `max_length` may be shorter than its sequences."""
        return self.sequences * min(self.length, study.model(model).max_length or self.length)


# By the claim.
Regimes = Mapping[str, Regime]


def load_regimes(path: Path = PROTOCOL) -> Regimes:
    """Return the scale below which a study says nothing about a claim.

    Raises:
        UserError: The file does not match `workflow/schemas/protocol.schema.json`.
    """
    return {
        claim: Regime(regime["sequences"], regime["length"])
        for regime in load_data(path, "protocol").get("regimes", [])
        for claim in regime["claims"]
    }


@dataclass(frozen=True)
class Scope:
    """What a verdict is about.

    Attributes:
        models: The models.
        criteria: The criteria.
        patterns: The patterns.
        tokens: The fewest and the most calibration tokens of an adaptation.
        shares: The same as shares of the paper's smallest sample for each model; None for a claim
            that is not the paper's.
        reconstructed: The largest such share of a reconstruction: of the model in which it is
            smallest, and of that in which it is largest; 0 if no model was reconstructed.
        seeds: The fewest and the most seeds of a number.
        paper: The paper's smallest sample: its fewest and its most tokens for these models; None
            for a claim that is not the paper's.
    """

    models: list[str]
    criteria: list[str]
    patterns: list[str]
    tokens: tuple[int, int]
    shares: tuple[float, float] | None
    reconstructed: tuple[float, float]
    seeds: tuple[int, int]
    paper: tuple[int, int] | None

    @classmethod
    def of(
        cls, study: Study, cells: Iterable[Cell], seeds: Iterable[int], paper: Regime | None
    ) -> "Scope":
        """Return the scope of numbers.

        Args:
            study: The study.
            cells: The cells that the numbers come from; at least one.
            seeds: The number of seeds of each number.
            paper: The paper's smallest calibration sample; None for a claim that is not the
                paper's.
        """
        cells, seeds = list(cells), list(seeds) or [1]
        pruned = [cell for cell in cells if not cell.is_dense]
        of = {
            (cell.model, cell.adaptation): study.tokens_of(cell.model, cell.adaptation)
            for cell in pruned
            if cell.adaptation != NONE
        }
        models = list(dict.fromkeys(cell.model for cell in cells))
        tokens = of or {(model, NONE): study.tokens_of(model, NONE) for model in models}
        papers = {model: paper.tokens_for(study, model) for model in models} if paper else {}
        shares = {key: tokens[key] / papers[key[0]] for key in tokens if papers}
        reconstructed: dict[str, float] = {}
        for (model, name), share in shares.items():
            if name != NONE and not study.config.adaptations[name].is_retraining:
                reconstructed[model] = max(share, reconstructed.get(model, 0))
        return cls(
            models,
            list(dict.fromkeys(cell.criterion for cell in pruned)),
            list(dict.fromkeys(cell.pattern for cell in pruned)),
            _ends(tokens.values()),
            _ends(shares.values()) if papers else None,
            _ends(reconstructed.values()) if reconstructed else (0, 0),
            _ends(seeds),
            _ends(papers.values()) if papers else None,
        )

    @property
    def too_small(self) -> bool:
        """Return whether all models are below the scale of the paper."""
        return self.paper is not None and self.reconstructed[1] < 1

    @property
    def is_in_part_too_small(self) -> bool:
        """Return whether some of the models are below the scale of the paper."""
        return self.paper is not None and self.reconstructed[0] < 1

    @property
    def text(self) -> str:
        """Return the scope in words."""
        parts = [
            ", ".join(self.models),
            ", ".join(map(criterion_label, self.criteria)),
            ", ".join(map(pattern_label, self.patterns)),
        ]
        tokens = f"{_range(*self.tokens)} calibration tokens"
        if self.shares is not None:
            shares = f"{_range(*(100 * share for share in self.shares))} %"
            tokens += f", {shares} of the paper's smallest calibration sample"
        least, most = self.seeds
        parts += [tokens, "one seed" if most == 1 else f"{_range(least, most)} seeds"]
        return "; ".join(filter(None, parts))


def scope_text(study: Study, records: Records, regimes: Regimes) -> str:
    """Return the scope of all verdicts on a study, which a reader needs to know before any."""
    unfinished = f"; {cells_text(study)}" if study.is_unfinished else ""
    return (
        f"{_of_study(study, records, regimes).text}; calibration on `{study.calibration.text}`; "
        f"{measured_text(study)}{unfinished}."
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
    shared = None
    if study.perplexity.text == study.calibration.text:
        shared = "Adaptation and evaluation read the same text and may share documents."
    parts = [_of_scope(study, records, regimes), shared, _of_text(study, records)]
    return " ".join(filter(None, parts))


def _of_text(study: Study, records: Records) -> str | None:
    """Return in a sentence how small a difference the text can show; None if that is not known."""
    width = told_apart(records, study.perplexity.cut == JOINED)
    dense = [
        loss
        for cell, record in records.items()
        if cell.is_dense and (loss := record["metrics"]["perplexity"]["loss"]) is not None
    ]
    if width is None or not dense:
        return None
    share = f"{significant(100 * width / fmean(dense))} %"
    return (
        f"On this text, the median pair of adaptations can be told apart if their losses differ by "
        f"{width:.2g} nats, {share} of the dense model's loss; other samples and orders add to "
        "that."
    )


def _of_scope(study: Study, records: Records, regimes: Regimes) -> str:
    scope = _of_study(study, records, regimes)
    seeds = ""
    if scope.seeds[0] < ENOUGH_SEEDS:
        seeds = ", and what comes from fewer than three seeds holds on this sample and order only"
    if scope.paper is None:
        return f"The paper's scale is not known{seeds}."
    most = scope.reconstructed[1]
    if not most:
        return f"No model was reconstructed, so this settles no claim of the paper{seeds}."
    models = "most" if set(scope.paper) == {_smallest(regimes).tokens} else "these"
    sample = (
        f"the paper's smallest calibration sample for {models} models ({_range(*scope.paper)} "
        "tokens)"
    )
    if scope.too_small:
        share = f"{significant(100 * most)} %"
        return f"At most {share} of {sample}, so this settles no claim at the paper's scale{seeds}."
    if scope.is_in_part_too_small:
        return (
            f"Only some models saw {sample}, so that only what is said of them can support or "
            f"weaken the paper's claims{seeds}."
        )
    return f"At least {sample}, so this can support or weaken the paper's claims{seeds}."


def _of_study(study: Study, records: Records, regimes: Regimes) -> Scope:
    seeds = [len(cells) for cells in seed_groups(records) if not cells[0].is_dense]
    return Scope.of(study, study.cells, seeds, _smallest(regimes) if regimes else None)


def _smallest(regimes: Regimes) -> Regime:
    return min(regimes.values(), key=lambda each: each.tokens)


def _ends(numbers: Iterable[N]) -> tuple[N, N]:
    known = list(numbers)
    return min(known), max(known)


def _range(least: float, most: float) -> str:
    """Return two numbers, or one if they are equal."""
    low, high = (
        significant(value) if isinstance(value, float) else f"{value:,}" for value in (least, most)
    )
    return low if low == high else f"{low} to {high}"
