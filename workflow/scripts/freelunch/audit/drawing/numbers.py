"""The numbers beside a forest plot: all numbers of a unit have equal decimals."""

import math
from collections.abc import Mapping

from freelunch.analysis.intervals import Estimate
from freelunch.audit.numbers import Notation, estimate_text
from freelunch.audit.verdicts import UNBOUNDED

# The names of units.
UNITS = {
    "share": "%",
    "points": "percentage points",
    "times": "times",
    "nats": "nats per token",
    "perplexity": "",
}
# The head of the column says what a number and its interval are, and the panel's title its unit.
COLUMN = Notation(
    at_most="\N{LESS-THAN OR EQUAL TO}",
    more_than=">",
    open_end="no upper end",
    decimals={"share": 1, "points": 1, "times": 2, "nats": 3, "perplexity": 2},
)


def column_text(row: Mapping[str, str]) -> str:
    """Return the number of a row of effects.csv and its interval, without words and units, and with
    the decimals that all numbers of its unit have.
    """
    value, low, high = (float(row[key] or math.nan) for key in ("value", "low", "high"))
    least, most = UNBOUNDED
    bounds = float(row["known_from"] or least), float(row["known_to"] or most)
    return signed(estimate_text(Estimate(value, low, high, ()), row["unit"], bounds, COLUMN))


def signed(text: str) -> str:
    """Return text whose minus signs are as wide as plus signs."""
    return text.replace("-", "\N{MINUS SIGN}")
