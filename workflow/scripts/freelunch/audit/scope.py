"""The scope of verdicts: models, patterns, calibration tokens, seeds, beside the paper's."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from freelunch.analysis.intervals import told_apart
from freelunch.analysis.pairing import ENOUGH_SEEDS, Records, seed_groups
from freelunch.audit.claims import load_data
from freelunch.audit.protocol import PROTOCOL
from freelunch.reporting.formatting import criterion_label, pattern_label, significant
from freelunch.study.cell import NONE, Cell
from freelunch.study.steps import JOINED
from freelunch.study.study import Study


@dataclass(frozen=True)
class Regime:
    """The smallest calibration sample with which the paper makes a claim: the number of its
    sequences, and their tokens for models with as many positions.
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
    """Return the scale below which a study says nothing about a claim. UserError: the file does not
    match `workflow/schemas/protocol.schema.json`.
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
        names: The models, criteria and patterns, in words.
        tokens: The calibration tokens of each adaptation.
        shares: The same as shares of the paper's smallest sample for each model; none for a claim
            that is not the paper's.
        reconstructed: The largest such share of a reconstruction, for each model that has one.
        seeds: The seeds of each number.
        paper: The tokens of the paper's smallest sample for each model; none for a claim that is
            not the paper's.
    """

    names: list[str]
    tokens: list[int]
    shares: list[float]
    reconstructed: list[float]
    seeds: list[int]
    paper: list[int]

    @classmethod
    def of(
        cls, study: Study, cells: Iterable[Cell], seeds: Iterable[int], paper: Regime | None
    ) -> "Scope":
        """Return the scope of numbers that come from at least one cell, each from so many seeds,
        beside the paper's smallest calibration sample, which only the paper's claims have.
        """
        cells = list(cells)
        pruned = [cell for cell in cells if cell.is_pruned]
        models = dict.fromkeys(cell.model for cell in cells)
        adapted = dict.fromkeys(
            (cell.model, cell.adaptation) for cell in pruned if cell.adaptation != NONE
        )
        tokens = {it: study.tokens_of(*it) for it in adapted or [(model, NONE) for model in models]}
        papers = {model: paper.tokens_for(study, model) for model in models} if paper else {}
        shares = {key: tokens[key] / papers[key[0]] for key in tokens if papers}
        largest: dict[str, float] = {}
        for (model, name), share in shares.items():
            if name != NONE and not study.config.adaptations[name].is_retraining:
                largest[model] = max(share, largest.get(model, 0))
        criteria = dict.fromkeys(criterion_label(cell.criterion) for cell in pruned)
        patterns = dict.fromkeys(pattern_label(cell.pattern) for cell in pruned)
        return cls(
            [", ".join(names) for names in (models, criteria, patterns)],
            list(tokens.values()),
            list(shares.values()),
            list(largest.values()),
            list(seeds) or [1],
            list(papers.values()),
        )

    @property
    def too_small(self) -> bool:
        """Return whether all models are below the scale of the paper."""
        return bool(self.paper) and max(self.reconstructed, default=0) < 1

    @property
    def is_in_part_too_small(self) -> bool:
        """Return whether some of the models are below the scale of the paper."""
        return bool(self.paper) and min(self.reconstructed, default=0) < 1

    @property
    def text(self) -> str:
        """Return the scope in words."""
        tokens = f"{_range(self.tokens)} calibration tokens"
        if self.shares:
            shares = _range([100 * share for share in self.shares])
            tokens += f", {shares} % of the paper's smallest calibration sample"
        seeds = "one seed" if max(self.seeds) == 1 else f"{_range(self.seeds)} seeds"
        return "; ".join(filter(None, [*self.names, tokens, seeds]))


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
    worth = _of_scope(_of_study(study, records, regimes), regimes)
    if study.perplexity.text == study.calibration.text:
        worth += " Adaptation and evaluation read the same text and may share documents."
    width = told_apart(records, study.perplexity.cut == JOINED)
    dense = [
        loss
        for cell, record in records.items()
        if cell.is_dense and (loss := record["metrics"]["perplexity"]["loss"]) is not None
    ]
    if width is not None and dense:
        worth += (
            " On this text, the median pair of adaptations can be told apart if their losses "
            f"differ by {width:.2g} nats, {significant(100 * width / fmean(dense))} % of the dense "
            "model's loss; other samples and orders add to that."
        )
    return worth


def _of_scope(scope: Scope, regimes: Regimes) -> str:
    seeds = "."
    if min(scope.seeds) < ENOUGH_SEEDS:
        seeds = ", and what comes from fewer than three seeds holds on this sample and order only."
    if not scope.paper:
        return f"The paper's scale is not known{seeds}"
    if not scope.reconstructed:
        return f"No model was reconstructed, so this settles no claim of the paper{seeds}"
    models = "most" if {*scope.paper} == {_smallest(regimes).tokens} else "these"
    sample = (
        f"the paper's smallest calibration sample for {models} models ({_range(scope.paper)} "
        "tokens)"
    )
    if scope.too_small:
        share = f"{significant(100 * max(scope.reconstructed))} %"
        return f"At most {share} of {sample}, so this settles no claim at the paper's scale{seeds}"
    if scope.is_in_part_too_small:
        return (
            f"Only some models saw {sample}, so that only what is said of them can support or "
            f"weaken the paper's claims{seeds}"
        )
    return f"At least {sample}, so this can support or weaken the paper's claims{seeds}"


def _of_study(study: Study, records: Records, regimes: Regimes) -> Scope:
    seeds = [len(cells) for cells in seed_groups(records) if cells[0].is_pruned]
    return Scope.of(study, study.cells, seeds, _smallest(regimes) if regimes else None)


def _smallest(regimes: Regimes) -> Regime:
    return min(regimes.values(), key=lambda each: each.tokens)


def _range(numbers: Iterable[float]) -> str:
    """Return the least and the largest of some numbers, or one if they are equal."""
    known = sorted(numbers)
    low, high = (
        significant(value) if isinstance(value, float) else f"{value:,}"
        for value in (known[0], known[-1])
    )
    return low if low == high else f"{low} to {high}"
