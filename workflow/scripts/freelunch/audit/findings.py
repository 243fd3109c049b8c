"""What a study found: a sentence for each result of the paper, and a table of perplexities.

They follow from an audit, and are about the pruned model that most adaptations start from, and
there about the reference. README, `docs/index.md` and the page show them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from freelunch.analysis.doubts import PERPLEXITY
from freelunch.audit.answers import AdaptationAnswer, PrunedModelAnswer, rivals_of
from freelunch.audit.claim_verdicts import ClaimVerdict, Finding, PartVerdict
from freelunch.audit.verdicts import ADDS, BESIDE, FAILS, HOLDS, IN_PART, Number, kind
from freelunch.reporting.drawing.adaptation_looks import marks
from freelunch.reporting.formatting import short_tokens
from freelunch.study.study import Study

# What windows are compared with.
_BLOCK, _MATRICES = " vs. one block", "single matrices"
_LEADS = ("Retraining's lead may be learning the text.", "Retraining leads beyond the text.")
# Other retrainings, by whether they are distilled.
_BESIDE = ("retraining all weights", "distilled retraining")
# How many retrainings a sentence names.
_MOST = 2
# Behind a number that could change with the seed; the note says it once, below.
FEW = "†"
FEW_NOTE = f"{FEW} Fewer than three seeds."


@dataclass(frozen=True)
class Result:
    """A result of the paper, in a few words and in sentences; or else what the study lacks."""

    head: str
    text: str = ""
    lacks: str = ""


def findings_of(
    study: Study, answers: Sequence[PrunedModelAnswer], claims: Sequence[ClaimVerdict]
) -> tuple[list[Result], list[list[str]]]:
    """Return the results of a study, and a table, its heads first: the perplexity of the reference
    and of each retraining, by budget. Without a reconstruction beside its models, there are none.
    """
    found = _Found.of(study, answers, claims)
    if found is None:
        return [], []
    results = [
        *(found.recovery(), found.tokens(), found.learnt_text()),
        *(found.windows(), found.criteria()),
    ]
    return results, found.table()


@dataclass(frozen=True)
class _Found:
    """What was found for one pruned model, by verdicts that may be about others, too."""

    study: Study
    model: PrunedModelAnswer
    claims: Sequence[ClaimVerdict]
    reference: AdaptationAnswer

    @classmethod
    def of(
        cls, study: Study, answers: Sequence[PrunedModelAnswer], claims: Sequence[ClaimVerdict]
    ) -> "_Found | None":
        model = min(answers, key=lambda each: each.rank, default=None)
        if model is None or model.dense is None or model.unadapted is None:
            return None
        order = study.comparisons.references
        local = [each for each in model.adaptations if each.adaptation in order]
        first = min(local, key=lambda each: order.index(each.adaptation), default=None)
        return cls(study, model, claims, first) if first else None

    @cached_property
    def by_name(self) -> Mapping[str, AdaptationAnswer]:
        return {each.adaptation: each for each in self.model.adaptations}

    def budgets(self, name: str) -> list[AdaptationAnswer]:
        """Return an adaptation with its other budgets, from small to large."""
        names = self.study.comparisons.budgets_of(name, self.by_name)
        return [self.by_name[each] for each in names]

    @cached_property
    def rivals(self) -> list[AdaptationAnswer]:
        return rivals_of(self.study, self.model)

    def label(self, each: AdaptationAnswer) -> str:
        """Return a retraining in words, without its amount of text."""
        series = marks(self.study.as_json()["adaptations"])[each.adaptation].series
        return series.partition(": ")[2]

    # --- The results

    def recovery(self) -> Result:
        """Return how much reconstruction recovers, and the memory it takes."""
        reference = self.reference
        heads = {"lowers": "Reconstruction works.", "raises": "Reconstruction does harm."}
        verb = reference.gain.verb if reference.gain else None
        known = [
            (each.recovered, each, each.seeds)
            for each in self.budgets(reference.adaptation)
            if each.recovered and each.recovered.value is not None
        ]
        text = f"Of the loss that pruning adds, it recovers {_by_tokens(known)}." if known else ""
        memory = [
            f"{each.peak_bytes / 1e9:.2f} ({self.label(each)})"
            for each in self.rivals[:_MOST]
            if each.peak_bytes
        ]
        if memory and reference.peak_bytes:
            text += (
                f" With {_short(reference)}, it takes {reference.peak_bytes / 1e9:.2f} GB of "
                f"memory; retraining takes {_and(memory)}."
            )
        return Result(heads.get(str(verb), "Reconstruction changes little."), text)

    def tokens(self) -> Result:
        """Return the tokens that retraining needs to match reconstruction."""
        ratios = [
            (part, each)
            for part, each in self._numbers("budget_ratio")
            if part.settings["unit"] == "tokens"
        ]
        deciding = {each.about: each for part, each in ratios if part.role != BESIDE}
        number = deciding.get(self.reference.adaptation)
        if number is None:
            return Result("The tokens that it saves", lacks=self._lacks("C1b"))
        heads = {HOLDS: "A tenth of the tokens suffices.", FAILS: "No tenfold saving."}
        text = (
            f"To match reconstruction on {_short(self.reference)} tokens, the best parameter-"
            f"efficient retraining needs {_times(number, ' as many')}"
        )
        # What says nothing of its tokens comes before what does.
        for name in sorted(deciding, key=self._is_sequential, reverse=True):
            if self._is_sequential(name):
                text += f"; for reconstruction on sequential inputs, {_times(deciding[name])}"
            elif name == self.budgets(number.about)[-1].adaptation != number.about:
                text += f"; on {_short(self.by_name[name])}, {_times(deciding[name])}"
        others = [
            f"{_BESIDE[part.settings['distilled']]} needs {_level(each)}"
            for part, each in ratios
            if part.role == BESIDE and each.about == number.about
        ]
        text += f". {_and(others).capitalize()}." if others else "."
        return Result(heads.get(kind(number.verdict), "A tenfold saving remains open."), text)

    def learnt_text(self) -> Result:
        """Return what retraining leaves beside the dense model that had the same training."""
        dense, own = self.model.dense, self.reference.minus_control
        beside = [
            (each, each.control.text, each.minus_control)
            for each in self.rivals
            if each.control is not None and each.minus_control is not None
        ][:_MOST]
        if not beside or own is None or dense is None:
            lacks = "the dense model with the same retraining (`criteria: [dense]`)"
            return Result("What retraining learns from the text", lacks=lacks)
        leads = any(each.beside_first.verb == "lowers" for each in self.rivals if each.beside_first)
        ahead = any(left < own for _, _, left in beside)
        levels = [f"{level} ({self.label(each)})" for each, level, _ in beside]
        above = [f"{left:.3f}" for _, _, left in beside]
        return Result(
            _LEADS[ahead] if leads else "Retraining has no lead.",
            f"On {_short(self.reference)} tokens, the same retraining takes the dense model itself "
            f"from {dense.text} to {_and(levels)}. Retrained pruned models stay {_and(above)} nats "
            "above these. Reconstruction, which learns from the dense model alone, stays "
            f"{own:.3f} nats above the original one.",
        )

    def windows(self) -> Result:
        """Return what other windows lose beside one block."""
        lost = {
            each.about.partition(_BLOCK)[0]: each
            for measure in ("window_difference", "matrix_penalty")
            for part, each in self._numbers(measure)
            if _BLOCK in each.about and not part.settings.get("exact")
        }
        if not lost:
            return Result("The size of windows", lacks=self._lacks("C2"))
        alike = [name for name in lost if name != _MATRICES and kind(lost[name].verdict) == HOLDS]
        heads = {
            HOLDS: "Window size hardly matters.",
            IN_PART: f"{_and(alike or ['some']).capitalize()} nearly match one block.",
            FAILS: "Window size matters.",
        }
        (first, one), *others = sorted(lost.items(), key=lambda item: float(item[1].value or 0))
        texts = [
            f"{first} lose {_percent(one, one.seeds)}",
            *(f"{name} {_percent(each, each.seeds)}" for name, each in others),
        ]
        return Result(
            heads.get(self._verdict("C2"), "Whether window size matters is open."),
            f"Of one block's improvement on {_short(self._adapted(one))} tokens, {_and(texts)}.",
        )

    def criteria(self) -> Result:
        """Return what reconstruction leaves of the gap between criteria."""
        left = self._numbers("gap_left")
        if not left:
            return Result("The criterion", lacks=self._lacks("C3"))
        shares = _by_tokens([(each, self._adapted(each), each.seeds) for _, each in left])
        one, _, others = left[0][1].about.partition(" vs. ")
        heads = {HOLDS: "The criterion hardly matters.", FAILS: f"{one} pruning stays behind."}
        behind = [_level(each) for _, each in self._numbers("criteria_behind")]
        return Result(
            heads.get(self._verdict("C3c"), "Whether the criterion matters is open."),
            f"Of {one.lower()} pruning's gap to {_and(others.split('/'))}, reconstruction leaves "
            f"{shares}{f', or {behind[-1]}' if behind else ''}.",
        )

    def table(self) -> list[list[str]]:
        first, dense, pruned = self.reference, self.model.dense, self.model.unadapted
        assert dense is not None and pruned is not None
        series = {"reconstruction": self.budgets(first.adaptation)}
        series |= {self.label(each): self.budgets(each.adaptation) for each in self.rivals}
        by_tokens = {
            name: {_short(each): f"{each.perplexity.text}{_few(each.seeds)}" for each in members}
            for name, members in series.items()
        }
        amounts = [
            amount
            for amount in by_tokens["reconstruction"]
            if sum(amount in each for each in by_tokens.values()) > 1
        ]
        if len(amounts) < 2:
            return []
        rows = [[name, *(its.get(each, "") for each in amounts)] for name, its in by_tokens.items()]
        return [[f"perplexity (dense {dense.text}, pruned {pruned.text})", *amounts], *rows]

    # --- Numbers of the verdicts

    def _numbers(self, measure: str) -> list[tuple[PartVerdict, Finding]]:
        """Return the numbers of a measure of perplexity for this pruned model, with their parts,
        without those that decide nothing and only add.
        """
        own = f"{self.model.model}/{self.model.criterion}-{self.model.pattern}/"
        return [
            (part, each)
            for claim in self.claims
            for part in claim.parts
            if (part.measure, part.metric) == (measure, PERPLEXITY) and part.role != ADDS
            for each in part.findings
            if each.value is not None and any(cell.startswith(own) for cell in each.cells)
        ]

    def _adapted(self, number: Finding) -> AdaptationAnswer:
        """Return the last adaptation that a number comes from."""
        names = [cell.split("/")[2] for cell in number.cells]
        return self.by_name[next(name for name in reversed(names) if name in self.by_name)]

    def _is_sequential(self, name: str) -> bool:
        settings = self.study.config.adaptations[name].as_json()
        return (settings["inputs"], settings["targets"]) == ("sparse", "dense")

    def _verdict(self, claim: str) -> str:
        return kind(next(each.verdict for each in self.claims if each.id == claim))

    def _lacks(self, claim: str) -> str:
        """Return why a claim has no number."""
        parts = next(each.parts for each in self.claims if each.id == claim)
        reasons = [each.reason for part in parts for each in part.findings if each.reason]
        return [*reasons, parts[0].reason][0]


def _percent(share: Number, seeds: int | None) -> str:
    return f"{100 * float(share.value or 0):.0f} %{_few(seeds)}"


def _by_tokens(shares: Sequence[tuple[Number, AdaptationAnswer, int | None]]) -> str:
    """Return the first and the last of shares, each with its tokens and seeds."""
    texts = [
        f"{_percent(share, seeds)} with {_short(each)}{'' if place else ' tokens'}"
        for place, (share, each, seeds) in enumerate((*shares[:1], *shares[1:][-1:]))
    ]
    return _and(texts)


def _short(each: AdaptationAnswer) -> str:
    return short_tokens(each.tokens or 0)


def _times(ratio: Finding, of: str = "") -> str:
    """Return a ratio, of what, and its interval."""
    interval = str(ratio.text).partition(" (")[2].replace(" times)", "").rstrip(")")
    return f"{_level(ratio, of)} ({interval})"


def _level(number: Finding, unit: str = "") -> str:
    """Return a number without its interval, and a mark if it has few seeds."""
    return f"{str(number.text).partition(' (')[0]}{unit}{_few(number.seeds)}"


def _few(seeds: int | None) -> str:
    return FEW if seeds in (1, 2) else ""


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))
