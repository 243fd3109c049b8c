"""Costs and refusals of plans, for tests."""

from freelunch.costs.jobs import PlannedJob
from freelunch.costs.machine import Machine
from freelunch.costs.plan import Plan
from freelunch.costs.work import Cost
from freelunch.study.cell import Cell

MACHINE = Machine.of(1e12, 1e9, 1e8)
CELL = "tiny/wanda-u50/recon_block/seed0"


def cost_of(plan: Plan, rule: str, cell: str = CELL) -> Cost:
    """Return the cost of a cell's job of a rule, which the plan must know."""
    cost = plan.cost(PlannedJob.of(rule, Cell.parse(cell)))
    assert cost is not None
    return cost


def line_of(text: str, *words: str) -> str:
    """Return the only line of a text that begins with these words."""
    (found,) = [line for line in text.splitlines() if line.split()[: len(words)] == list(words)]
    return found
