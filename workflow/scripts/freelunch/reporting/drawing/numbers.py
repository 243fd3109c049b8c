"""The numbers beside a forest plot: all numbers of a unit have equal decimals."""

import math
import re
from collections.abc import Mapping

# What a number is multiplied by to be shown, its unit, and its decimals.
UNITS = {
    "share": (100.0, "%", 1),
    "points": (100.0, "percentage points", 1),
    "times": (1.0, "times", 2),
    "nats": (1.0, "nats per token", 3),
    "perplexity": (1.0, "", 2),
}
# A number, whether it is a bound that is exceeded, and whether the number itself comes after it.
_NUMBER = re.compile(r"(more than )?(-?\d[\d,]*(?:\.\d+)?)(?=( \w+, at most )?)")


def number_text(row: Mapping[str, str]) -> str:
    """Return a number and its interval as the audit writes them, without words and units, and with
    the decimals that all numbers of this unit have.
    """
    scale, _, decimals = UNITS[row["unit"]]
    text, exact = row["text"].replace("(95 %: ", "("), iter(("value", "low", "high"))

    def written(found: re.Match[str]) -> str:
        beyond, shown, comes = found[1], float(found[2].replace(",", "")), found[3]
        value = shown if comes else scale * float(row[next(exact)])
        # The text has a bound in place of a number that is infinite or exceeds it.
        if math.isfinite(value) and not beyond:
            shown = value
        return f"{beyond or ''}{shown:,.{decimals}f}"

    text = _NUMBER.sub(written, text)
    for word, sign in (
        *(("at most ", "\N{LESS-THAN OR EQUAL TO}"), ("more than ", ">")),
        *((" %", ""), (" times", ""), (" points", ""), (" nats", "")),
    ):
        text = text.replace(word, sign)
    has_end = not row["high"] or math.isfinite(float(row["high"]))
    return signed(text if has_end else _without_end(text))


def _without_end(text: str) -> str:
    """Return a number and its interval, of which only the lower end is known."""
    rest, _, _ = text.rpartition(" to ")
    value, _, low = rest.partition(" (")
    return f"{value} (no upper end)" if low == value else f"{value} ({low}, no upper end)"


def signed(text: str) -> str:
    """Return text whose minus signs are as wide as plus signs."""
    return text.replace("-", "\N{MINUS SIGN}")
