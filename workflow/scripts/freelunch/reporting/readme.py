"""Keep what a Markdown file shows of a study in step with the study's results.

    python -m freelunch.reporting.readme README.md results/full/tables/summary.md
    python -m freelunch.reporting.readme --check README.md results/full/audit/verdicts.md

replaces (or compares) what stands between the lines `<!-- summary: full -->` and `<!-- end -->`;
the names of the block and of the study are taken from the path of what is to stand there.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from freelunch.core.artifact import write_atomically
from freelunch.core.errors import UserError

END = "<!-- end -->"


def with_block(page: str, content: str, name: str, where: object) -> str:
    """Return a Markdown page with a block replaced.

    Args:
        page: The page; lines that begin a block and end it stay.
        content: What is to stand in the block.
        name: In the line that begins the block, such as `summary: full`.
        where: Place of the page, for messages.

    Raises:
        UserError: The page has no such block, several, or one without an end.
    """
    begin = f"<!-- {name} -->"
    # A block ends before another begins: a missing end must not swallow the page up to the next.
    block = re.compile(
        rf"^{re.escape(begin)}\n(?:(?!<!-- \w+: ).*\n)*?{re.escape(END)}$", re.MULTILINE
    )
    blocks, begins = block.findall(page), page.count(begin)
    if len(blocks) != 1 or begins != 1:
        raise UserError(
            "there has to be exactly one place for this",
            where=where,
            found=f"{begins} times {begin!r}, {len(blocks)} of them with an end",
            expected=f"a line {begin!r} and, below it, a line {END!r}",
        )
    return block.sub(lambda _: f"{begin}\n{content.strip()}\n{END}", page)


def block_of(content: Path) -> str:
    """Return the block that results/<study>/<folder>/<name>.md belongs into."""
    return f"{content.stem}: {content.resolve().parents[1].name}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Bring the page into step, or check that it is; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m freelunch.reporting.readme",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("page", type=Path, help="the Markdown file")
    parser.add_argument("content", type=Path, help="such as results/<study>/tables/summary.md")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if not in step")
    options = parser.parse_args(arguments)
    try:
        page, content = _read(options.page), _read(options.content)
        wanted = with_block(page, content, block_of(options.content), options.page)
        if options.check and page != wanted:
            raise UserError(
                "the page is not in step with the study's results",
                where=options.page,
                expected=f"what is in {options.content}",
                todo=f"PYTHONPATH=workflow/scripts {parser.prog} {options.page} {options.content}",
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
