"""`freelunch interim`: what the finished cells of an unfinished study say."""

import shutil

from freelunch.cli.summary import verdicts_text
from freelunch.core.artifact import write_atomically
from freelunch.records.read import load_finished
from freelunch.reporting.audit.page import page_text
from freelunch.reporting.derived import PAGE
from freelunch.reporting.kept import SUMMARY, write_results
from freelunch.study.study import Study

# How many of the missing cells are named.
NAMED = 5


def interim_text(study: Study) -> str:
    """Write tables, figures, verdicts and a page of the cells that have finished, and return what
    was found, what is missing, and where all is.

    Raises:
        UserError: A record is damaged, or no pruned cell has finished.
    """
    finished, records = load_finished(study)
    folder = study.paths.interim
    # What an earlier look wrote may be of other cells.
    shutil.rmtree(folder, ignore_errors=True)
    audit = write_results(finished, records, study.paths.records, folder, [".png", ".svg"])
    page = page_text(finished, audit, folder, records="../../records")
    write_atomically(folder / PAGE, page)
    missing = [str(cell) for cell in study.cells if cell not in records]
    lines = [
        f"{len(records)} of the {len(study.cells)} cells of the study `{study.name}` "
        f"({study.source}) have finished.",
        *([f"Not yet: {_listed(missing)}"] if missing else []),
        audit["answer"],
        f"Scope: {audit['scope']}",
        f"The paper's claims here: {verdicts_text(audit['claims'])}",
        *(["Verdicts may change with each cell that finishes."] if missing else []),
        f"page    {folder / PAGE}",
        f"tables  {folder / SUMMARY}, and more beside it",
    ]
    return "\n".join(lines)


def _listed(names: list[str]) -> str:
    """Return names, of which a long list shows only the first."""
    more = len(names) - NAMED
    shown = names[:NAMED]
    return ", ".join(shown) + (f", and {more} more" if more > 0 else "")
