"""The measures that claims can name, each declared once beside its function."""

from freelunch.audit.measures import budgets, criteria, memory, recovery, windows
from freelunch.audit.measures.measure import Measure

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for module in (recovery, budgets, windows, criteria, memory)
    for measure in module.MEASURES
}
