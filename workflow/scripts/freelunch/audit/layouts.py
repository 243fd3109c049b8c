"""The layouts of `workflow/report/audit/`: the page, the cards, the appendix, the checklist."""

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape

from freelunch.audit.claims import REPORT
from freelunch.audit.provenance import Provenance
from freelunch.audit.scope import measured_text
from freelunch.reporting.formatting import NOTHING, duration, three_digits, with_error
from freelunch.reporting.labels import place_text

_MACHINE = ("device_name", "device", "processor", "cores", "platform", "python")


def layout(name: str, names: Mapping[str, Any] | None = None, **filters: Any) -> Template:
    """Return a layout.

    Args:
        name: Its file's name.
        names, filters: What it can name beside what all layouts can.
    """
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
    environment.globals |= {"nothing": NOTHING, **(names or {})}
    environment.filters |= {
        "code": _code,
        "computed": computed_text,
        "duration": duration,
        "machine": _machine_text,
        "measured": measured_text,
        "place": place_text,
        "quoted": shlex.quote,
        "significant": three_digits,
        "with_error": with_error,
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


def _machine_text(machine: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key.replace('_', ' ')} {machine[key]}" for key in _MACHINE if machine.get(key)
    )


def _code(names: Iterable[object]) -> str:
    """Return names as code, with commas between them."""
    return ", ".join(f"`{name}`" for name in names)
