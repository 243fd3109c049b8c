"""Keep the result table of a Markdown file in step with a study's summary.

    python -m freelunch.readme README.md results/full/tables/summary.md
    python -m freelunch.readme --check README.md results/full/tables/summary.md

replaces (or compares) what stands between the lines `<!-- table: full -->` and `<!-- end -->`; the
study's name is taken from the path of its summary.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from freelunch.artifact import write_atomically
from freelunch.errors import UserError

END = "<!-- end -->"


def with_table(page: str, table: str, study: str, where: object) -> str:
    """Return a Markdown page with a study's block replaced by a table.

    Args:
        page: The page; lines that begin a block and end it stay.
        table: What is to stand in the block.
        study: Name in the line that begins the block.
        where: Place of the page, for messages.

    Raises:
        UserError: The page has no such block, several, or one without an end.
    """
    begin = f"<!-- table: {study} -->"
    # A block ends before another begins: a missing end must not swallow the page up to the next.
    block = re.compile(
        rf"^{re.escape(begin)}\n(?:(?!<!-- table: ).*\n)*?{re.escape(END)}$", re.MULTILINE
    )
    blocks, begins = block.findall(page), page.count(begin)
    if len(blocks) != 1 or begins != 1:
        raise UserError(
            "there has to be exactly one place for the table",
            where=where,
            found=f"{begins} times {begin!r}, {len(blocks)} of them with an end",
            expected=f"a line {begin!r} and, below it, a line {END!r}",
        )
    return block.sub(lambda _: f"{begin}\n{table.strip()}\n{END}", page)


def study_of(summary: Path) -> str:
    """Return the study that results/<study>/tables/summary.md belongs to."""
    return summary.resolve().parents[1].name


def main(arguments: Sequence[str] | None = None) -> int:
    """Bring the page into step, or check that it is; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m freelunch.readme",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("page", type=Path, help="the Markdown file")
    parser.add_argument("summary", type=Path, help="results/<study>/tables/summary.md")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if not in step")
    options = parser.parse_args(arguments)
    try:
        page, table = _read(options.page), _read(options.summary)
        wanted = with_table(page, table, study_of(options.summary), options.page)
        if options.check and page != wanted:
            raise UserError(
                "the table is not in step with the study's results",
                where=options.page,
                expected=f"what is in {options.summary}",
                todo=f"PYTHONPATH=workflow/scripts {parser.prog} {options.page} {options.summary}",
            )
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201
        return 1
    if page != wanted:
        write_atomically(options.page, wanted)
    return 0


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError("there is no such file", where=path) from error


if __name__ == "__main__":
    sys.exit(main())
