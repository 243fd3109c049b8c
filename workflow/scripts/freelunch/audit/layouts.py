"""The layouts of `workflow/report/audit/`: the page, the cards, the verdicts."""

import shlex
from functools import cache
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from freelunch.analysis.doubts import told
from freelunch.audit.claims import REPORT
from freelunch.audit.provenance import Provenance
from freelunch.audit.scope import measured_text
from freelunch.core.units import duration
from freelunch.reporting import formatting
from freelunch.study.patterns import Pattern


@cache
def layout(name: str, **filters: Any) -> Template:
    """Return the layout in a file; `filters` are those that it has beside what all layouts have."""
    environment = Environment(
        loader=FileSystemLoader(REPORT / "audit"),
        # The other layouts are Markdown, which shows no HTML of a record.
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        extensions=["jinja2.ext.do"],
        trim_blocks=True,
        lstrip_blocks=name.endswith(".html"),
        keep_trailing_newline=not name.endswith(".html"),
    )
    environment.globals |= {"nothing": formatting.NOTHING}
    # All of that module, by their own names.
    environment.filters |= {
        name: each
        for name, each in vars(formatting).items()
        if getattr(each, "__module__", None) == formatting.__name__
    }
    environment.filters |= {
        "computed": computed_text,
        "duration": duration,
        "ends": lambda numbers: formatting.range_text([*numbers], ","),
        "measured": measured_text,
        "pruning": lambda model: formatting.pruning_label(vars(model)),
        "quoted": shlex.quote,
        "told": lambda doubts: [*told(doubts)],
        "zeros": _zeros_text,
        **filters,
    }
    return environment.get_template(name)


def computed_text(provenance: Provenance) -> str:
    """Return when, and by which commits, the records were computed."""
    commits = ", ".join(
        f"`{each['commit'][:10]}` "
        f"({'with uncommitted changes' if each['uncommitted_changes'] else 'clean'})"
        for each in provenance.commits
        # There is no commit where the code was not in a repository.
        if each["commit"]
    )
    last = provenance.finished["last"]
    return f"until {last or 'an unknown time'}, by commit {commits or 'unknown'}"


def _zeros_text(name: str) -> str:
    """Return which weights become zero by a pattern."""
    pattern = Pattern.parse(name)
    if pattern.group is not None:
        zeros = pattern.zeros_in_group(pattern.group)
        return f"{zeros} of each {pattern.group} consecutive weights of a row become zero"
    share = f"{100 * pattern.sparsity:.0f} %"
    if pattern.structured:
        return f"{share} of the attention heads and MLP channels become zero"
    return f"{share} of the weights become zero, wherever they lie"
