"""The scope of the verdicts on a study: models, tokens, text and seeds, in one sentence."""

from freelunch.analysis.pairing import Records, seed_groups
from freelunch.reporting.cells import cell_rows
from freelunch.study.study import Study

# The paper calibrates on at least 128 sequences of 4096 tokens.
PAPER_TOKENS = 128 * 4096


def scope_text(study: Study, records: Records) -> str:
    """Return the scope, which a reader needs to know before any verdict."""
    models = ", ".join(dict.fromkeys(cell.model for cell in study.cells))
    amounts = [row["adaptation_tokens"] for row in cell_rows(records)]
    tokens = _range([int(amount) for amount in amounts if amount is not None])
    seeds = _range([len(cells) for cells in seed_groups(records) if not cells[0].is_dense])
    perplexity = study.perplexity
    windows = f"{perplexity.windows:,}" if perplexity.windows else "all"
    return (
        f"{models}; adaptation on {tokens} tokens of `{study.calibration.text}` (the paper: "
        f"{PAPER_TOKENS:,} and more); perplexity on {windows} windows of {perplexity.length:,} "
        f"tokens of `{perplexity.text}`; number of seeds: {seeds}."
    )


def _range(values: list[int]) -> str:
    """Return the smallest and the largest value, or one number if they are equal."""
    least, most = min(values, default=0), max(values, default=0)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
