"""Times and sizes in words."""

_TIMES = ((365.25 * 86400, "y"), (86400, "d"), (3600, "h"), (60, "min"))


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it, e.g. `89 s`, `2 min`, `1.5 h` or `4.1 d`."""
    for size, unit in _TIMES:
        if seconds >= 1.5 * size:
            return f"{seconds / size:,.{int(size > 60)}f} {unit}"
    return f"{seconds:.0f} s"


def amount(size: float) -> str:
    """Return bytes in GB, or in MB below a tenth of a GB; with a fraction below 100."""
    number, unit = (size / 1e9, "GB") if size >= 0.1e9 else (size / 1e6, "MB")
    text = f"{number:,.0f}" if number >= 100 else f"{number:,.1f}".removesuffix(".0")
    return f"{text} {unit}"
