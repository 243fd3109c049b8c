"""The tables of a study, each declared once, and the files that contain them.

Every number that a figure or a page shows is written into a table first. So drawing and showing
compute nothing.
"""

from collections.abc import Callable, Sequence

from freelunch.analysis.accuracy import TASK_COLUMNS
from freelunch.core.files import write_atomically
from freelunch.records.read import load_records
from freelunch.reporting.cells import SUMMARY_COLUMNS
from freelunch.reporting.figures import figures
from freelunch.reporting.formatting import summary_text
from freelunch.reporting.results import Results, Table
from freelunch.reporting.sections import summary_sections
from freelunch.study.study import Study

TABLES = (
    Table(
        "summary",
        "one row per cell",
        lambda study: (
            f"""\
One row per cell of the study ``{study.name}``, one column per fact, with units in the names;
``record`` is the file in ``results/{study.name}/records/`` that a row comes from.

``perplexity`` is measured on ``{study.perplexity.text}`` in windows of
{study.window_text} tokens; standard errors are over windows. ``loss_minus_dense`` is in
nats per token, and its standard error comes from the differences window by window. Columns that
compare with the dense model are empty for the dense model, and ``adaptation_*`` for cells that
were not adapted. ``loss_minus_control`` is the same beside the dense model with the same adaptation
and seed, if the study has that; what learns from the dense model alone would leave it as it is.
``marks`` names what makes numbers of a cell no finding; the
summary says why. ``nan`` is a number that is not finite.
"""
        ),
        SUMMARY_COLUMNS,
        lambda results: results.cells,
    ),
    Table(
        "tasks",
        "zero-shot accuracy",
        lambda _: (
            """\
Zero-shot accuracy of each cell that was evaluated on tasks, by task; seeds are averaged, document
by document. ``accuracy`` is lm-eval's ``acc`` without examples: the share of documents whose
correct choice has the highest log-likelihood; ``chance`` is that of guessing. ``mean`` is the plain
mean over tasks. Differences are between the same documents, and their standard errors are those of
the paired differences. ``documents`` of ``documents_in_all`` were asked.
"""
        ),
        TASK_COLUMNS,
        lambda results: results.tasks,
    ),
)
# The other files: tables for people and for papers.
DOCUMENTS: dict[str, Callable[[Results], str]] = {
    "tables/summary.md": lambda results: summary_text(summary_sections(results)),
}


def all_tables(more: Sequence[Table] = ()) -> list[Table]:
    """Return the tables of a study: its own, those that its figures draw, and `more`."""
    return [*TABLES, *(figure.table for figure in figures().values()), *more]


def build_tables(study: Study, more: Sequence[Table] = ()) -> None:
    """Write the tables of a study, and `more`, into the folder of its results. UserError: a record
    is missing, was made with other settings than today's, or was measured on other tokens than its
    dense model.
    """
    results = Results(study, load_records(study), study.paths.records)
    for file, text in table_texts(results, more).items():
        write_atomically(study.paths.root / file, text)


def table_texts(results: Results, more: Sequence[Table] = ()) -> dict[str, str]:
    """Return the content of each file of tables, by its path below the folder of the results."""
    texts = {table.file: table.text(results) for table in all_tables(more)}
    return texts | {file: text(results) for file, text in DOCUMENTS.items()}
