"""The measures that claims can name, each declared once beside its function."""

from freelunch.audit.measures import criteria_gaps, recovery, retraining_budget, window_gain
from freelunch.audit.measures.measure import Measure

MEASURES: dict[str, Measure] = {
    measure.name: measure
    for module in (recovery, retraining_budget, window_gain, criteria_gaps)
    for measure in module.MEASURES
}
