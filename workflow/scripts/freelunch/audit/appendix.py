"""The artifact appendix: for each claim, the command that repeats it, its time, and the result.

An auditor who runs the command in a fresh clone gets the records behind the claim's numbers, and
compares them with those of the study.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from freelunch.analysis.pairing import Records
from freelunch.audit.claim_verdicts import ClaimVerdict, snakemake
from freelunch.audit.provenance import gather_costs
from freelunch.reporting.formatting import duration, three_digits
from freelunch.study.cell import Cell
from freelunch.study.study import Study

# What an auditor may expect of a rerun, a paragraph each.
EXPECTATIONS = (
    "In a fresh clone, `make env` makes the environment, and `source .venv/bin/activate` activates "
    "it. The command of a claim then makes the records of all cells that the claim compares. "
    "`make compare` says whether they are those of this study, if FOLDER is a copy of its results.",
    "The times are those in the records, of all jobs one after another, on the machines that "
    "`audit.json` lists under `provenance`. Jobs that run side by side take less; downloads are "
    "not included. `make plan` predicts the time of the whole study on another machine.",
    "With the same machine and threads, each number is expected to be equal to the last digit, and "
    "on other machines up to rounding. With other samples, orders or texts it is expected to "
    "differ. The 95 % interval is for the true value: another measurement has an error of its own, "
    "so it lies outside of the interval in more than 5 % of cases.",
)


@dataclass(frozen=True)
class ExpectedNumber:
    """A number that a rerun is expected to find."""

    says: str
    subject: str
    text: str
    threshold: str
    verdict: str


@dataclass(frozen=True)
class Repetition:
    """How to repeat the numbers of a claim, what that cost, and what to expect.

    Attributes:
        id, title, verdict: The claim's.
        cells: How many cells the command makes, with the dense models.
        jobs, wall_s, cpu_s, flops: The cost of their records.
        command: The command.
        expected: The numbers to expect.
    """

    id: str
    title: str
    verdict: str
    cells: int
    jobs: int
    wall_s: float
    cpu_s: float
    flops: float
    command: str
    expected: list[ExpectedNumber]

    @property
    def cost(self) -> str:
        """Return what it cost to make the records, in a sentence."""
        return (
            f"{self.cells} cells, {self.jobs:,} jobs: {duration(self.wall_s)} of wall time and "
            f"{duration(self.cpu_s)} of processor time, {three_digits(self.flops / 1e12)} TFLOP."
        )


def gather_appendix(
    study: Study, records: Records, claims: Sequence[ClaimVerdict]
) -> list[Repetition]:
    """Return, for each claim of which a number was measured, how to repeat it and what to expect."""
    repetitions = []
    for claim in claims:
        expected: list[ExpectedNumber] = []
        cells: set[Cell] = set()
        for part in claim.parts:
            for each in part.findings:
                if each.text:
                    facts = (part.says, each.subject, each.text, part.threshold, each.verdict)
                    expected.append(ExpectedNumber(*facts))
                    cells |= {*map(Cell.parse, each.cells)}
        if cells:
            repetitions.append(_repetition(study, records, claim, cells, expected))
    return repetitions


def _repetition(
    study: Study,
    records: Records,
    claim: ClaimVerdict,
    compared: set[Cell],
    expected: list[ExpectedNumber],
) -> Repetition:
    # Every cell is evaluated after the dense model.
    cells = sorted({*compared, *(Cell.dense(cell.model) for cell in compared)})
    costs = gather_costs({cell: records[cell] for cell in cells})
    targets = " ".join(str(study.paths.record(cell)) for cell in cells)
    return Repetition(
        claim.id,
        claim.title,
        claim.verdict,
        len(cells),
        sum(cost.jobs for cost in costs),
        sum(cost.wall_s for cost in costs),
        sum(cost.cpu_s for cost in costs),
        sum(cost.flops for cost in costs),
        f"{snakemake(study.source)} -- {targets}",
        expected,
    )
