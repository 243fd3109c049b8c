"""The audit as two pages: what was found, and the evidence for it.

`index.html` and `evidence.html` of `workflow/report/audit/` lay out the audit; this module adds the
figures and what takes more than a look at one object. Style, script and figures are inside the
files, and links lead to files beside them, so they need no network.
"""

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml
from markupsafe import Markup, escape

from freelunch.analysis.pairing import seed_groups
from freelunch.audit import verdicts
from freelunch.audit.audit import Audit
from freelunch.audit.claim_verdicts import ClaimVerdict, Finding, PartVerdict
from freelunch.audit.claims import REPORT
from freelunch.audit.effects import figures
from freelunch.audit.layouts import layout
from freelunch.audit.output_files import AUDIT, CONFIG, EVIDENCE, PAGE, VERDICTS, own_files
from freelunch.audit.published import AGREES, DIFFERS, NOT_RUN
from freelunch.audit.published_claims import TableClaimVerdict
from freelunch.audit.scope import cells_text
from freelunch.reporting.figures import Figure
from freelunch.reporting.formatting import range_text
from freelunch.reporting.metrics import METRICS
from freelunch.reporting.results import Results
from freelunch.study.beginnings import decided_text
from freelunch.study.cell import NONE
from freelunch.study.study import Study

# The shape beside each word, so that verdicts differ in more than colour.
MARKS = {
    **dict.fromkeys((verdicts.HOLDS, verdicts.of_few_seeds(verdicts.HOLDS), AGREES), "full"),
    **dict.fromkeys((verdicts.IN_PART, verdicts.of_few_seeds(verdicts.IN_PART)), "half"),
    **dict.fromkeys((verdicts.FAILS, verdicts.of_few_seeds(verdicts.FAILS), DIFFERS), "cross"),
    **dict.fromkeys((*verdicts.OPEN, NOT_RUN), "open"),
}
_AS_YAML = partial(yaml.safe_dump, sort_keys=False, allow_unicode=True, width=100)
# More numbers of a part than these are shown as a range.
_FEW = 2


def sorting(value: object) -> str:
    """Return the key that a number is sorted by.

    It is empty where there is no number, and infinity where the number is not finite.
    """
    if value is None:
        return ""
    number = float(str(value))
    return repr(number) if math.isfinite(number) else "Infinity"


@dataclass(frozen=True)
class ShownFigure:
    """A figure, drawn inline, with its caption in paragraphs.

    It is shown at a claim; or, without one, at the head of the first page or on the second.
    """

    figure: Figure
    number: int
    image: Markup
    caption: list[str]
    at: str | None
    has_data: bool


def page_texts(
    results: Results,
    audit: Audit,
    root: Path,
    later: Sequence[str] = (),
    records: str = "../records",
) -> dict[str, str]:
    """Return the pages of an audit, by their names below `root`.

    Args:
        results: The numbers of the study.
        audit: Its audit.
        root: Folder of the study's results. The pages show or link the tables, figures and other
            files that exist, and leave out those that do not.
        later: Files that will exist when the pages are read, as paths from `root`.
        records: Folder of the records, as a path from the pages.
    """
    study = results.study
    # The pages' policy lets only this script run, whatever a record may contain.
    script = (REPORT / "audit" / "page.js").read_text(encoding="utf-8")
    pruned = [cell for cell in study.cells if cell.is_pruned]
    adapted = {(cell.model, cell.adaptation) for cell in pruned if cell.adaptation != NONE}
    untested = [claim for claim in audit.claims if claim.verdict == verdicts.UNTESTED]
    tested = [claim for claim in audit.claims if claim not in untested]
    not_run = [row for row in audit.published if row.verdict == NOT_RUN]
    figures = _figures(study, root, [claim.id for claim in tested])
    names = [AUDIT, VERDICTS, CONFIG, *own_files(study)]
    layouts = partial(
        layout,
        key_numbers=key_numbers,
        listed=_in_line,
        prose=_prose,
        reason=claim_reason,
        sorting=sorting,
        yaml=_AS_YAML,
    )
    shown = {
        "study": study,
        "audit": audit,
        "records": records,
        "marks": MARKS,
        "script": Markup(script),
        "script_digest": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "pruned": pruned,
        "size": cells_text(study),
        # Records of earlier versions do not say it.
        "beginnings": {
            cell.model: decided_text(record["provenance"]["bos"])
            for cell, record in results.records.items()
            if cell.is_dense and "bos" in record["provenance"]
        },
        "seeds": range_text([len(cells) for cells in seed_groups(pruned)] or [1], ","),
        "ways": len({name for _, name in adapted}),
        "tokens": [study.tokens_of(*each) for each in adapted],
        "figures": figures,
        "others": [each for each in figures if each.at is None and not each.figure.sums_up],
        "claims": tested,
        "untested": untested,
        "cells": results.cells,
        "tasks": results.tasks,
        "metrics": METRICS,
        "joined": [row for row in audit.published if row.verdict != NOT_RUN],
        "not_run": not_run,
        "why_not_run": Counter((row.source, row.reference, row.reason) for row in not_run),
        "token_ids": Counter(it for of in audit.provenance.token_ids.values() for it in of.items()),
        "files": [name for name in names if name in later or (root / name).is_file()],
    }
    return {name: layouts(Path(name).name).render(shown) for name in (PAGE, EVIDENCE)}


def _in_line(value: Any) -> str:
    """Return a setting of a measure in one line; lists within a list are set apart."""
    if not isinstance(value, list):
        return str(value)
    apart = "; " if any(isinstance(each, list) for each in value) else ", "
    return apart.join(map(_in_line, value))


def _prose(text: str) -> Markup:
    """Return text as HTML, with text in backticks as code. No line ends between a number and its
    per cent sign.
    """
    marked = re.sub(r"`+([^`]+)`+", r"<code>\1</code>", str(escape(text)))
    return Markup(marked.replace(" %", "\N{NO-BREAK SPACE}%"))


def _figures(study: Study, root: Path, claims: Sequence[str]) -> list[ShownFigure]:
    """Return the figures that are there, numbered: those that sum up the study, then those of the
    claims in their order, then the others.
    """

    def place(figure: Figure) -> int:
        return next((at for at, claim in enumerate(claims) if claim in figure.claims), len(claims))

    shown: list[ShownFigure] = []
    for figure in sorted(figures().values(), key=lambda each: (not each.sums_up, place(each))):
        data = root / figure.table.file
        has_data = data.is_file()
        drawn = [root / "figures" / f"{figure.name}{suffix}" for suffix in _IMAGES]
        path = next((path for path in drawn if path.is_file()), None)
        # Without a row of data, the figure only says that there is nothing to draw.
        empty = has_data and len(data.read_text(encoding="utf-8").splitlines()) < 2
        if path and not empty:
            caption = re.split(r"\n\s*\n", figure.caption(study).strip())
            at = None if figure.sums_up else [*claims, None][place(figure)]
            image = _IMAGES[path.suffix](path)
            shown.append(ShownFigure(figure, len(shown) + 1, image, caption, at, has_data))
    return shown


def _svg_address(path: Path) -> Markup:
    """Return a drawing as an address.

    It is without what nobody sees: comments, metadata, ends of lines, and digits below a hundredth
    of a point.
    """
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", path.read_text("utf-8"), flags=re.S)
    # Scales of less than 10 keep theirs.
    svg = re.sub(r"(\d\d\.\d\d)\d+", r"\1", re.sub(r"\s+", " ", svg).replace("> <", "><"))
    return Markup(f"data:image/svg+xml,{quote(svg, safe=' /:;=,()')}")


def _png_address(path: Path) -> Markup:
    return Markup("data:image/png;base64,") + base64.b64encode(path.read_bytes()).decode()


_IMAGES = {".svg": _svg_address, ".png": _png_address}


def claim_reason(claim: ClaimVerdict | TableClaimVerdict) -> str:
    """Return the reason for the verdict on a claim: a tally of its deciding parts, or of all; and
    the additional parts that weaken it.
    """
    own = [part for part in claim.parts if part.role not in (verdicts.ADDS, verdicts.BESIDE)]
    reason = _own_reason(own or claim.parts)
    if own and verdicts.of_claim([(part.verdict, part.role) for part in own]) != claim.verdict:
        for part in claim.parts:
            if part.role == verdicts.ADDS and verdicts.kind(part.verdict) not in (
                verdicts.HOLDS,
                *verdicts.OPEN,
            ):
                reason += f" But “{part.says}” is {part.verdict}."
    return reason


def _own_reason(parts: Sequence[Any]) -> str:
    if len(parts) == 1:
        return _why(parts[0])
    deciding = [part for part in parts if part.role == verdicts.DECIDES]
    if len(deciding) == 1:
        why = _why(deciding[0])
        return f"“{deciding[0].says}” decides: {why[0].lower()}{why[1:]}"
    found = [part.verdict for part in deciding or parts]
    is_open = deciding and any(verdict in verdicts.OPEN for verdict in found)
    rule = "; not reproduced would need all of them to agree" if is_open else ""
    return f"{verdicts.tally(found, 'deciding parts' if deciding else 'parts')}{rule}."


def _why(part: Any) -> str:
    """Return the reason for the verdict on a part; its number, if there is one, stands below."""
    if len(part.findings) == 1:
        reason = str(part.findings[0].reason)
        return f"{reason[0].upper()}{reason[1:]}."
    return str(part.reason)


def key_numbers(parts: Iterable[PartVerdict]) -> Iterator[tuple[PartVerdict, str]]:
    """Yield the parts that may decide, each with its numbers in short.

    What the numbers are is said once for several parts that follow each other.
    """
    said = None
    for part in (each for each in parts if each.role not in (verdicts.ADDS, verdicts.BESIDE)):
        measured = [finding for finding in part.findings if finding.text]
        text = _in_short(part, measured) if measured else part.reason.rstrip(".")
        if measured and said != part.quantity:
            said = part.quantity
            text = f"{said}: {text}"
        yield part, text


def _in_short(part: PartVerdict, measured: Sequence[Finding]) -> str:
    """Return the numbers of a part: one or two with intervals, or a range of more.

    Numbers without an interval are in no range: data that say so little may give any number.
    """
    texts = [str(finding.text) for finding in measured]
    if len(texts) <= _FEW:
        return "; ".join(texts)
    counts = Counter(finding.verdict for finding in part.findings)
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items())
    known = [finding for finding in measured if finding.value is not None]
    known = [finding for finding in known if finding.low is not None] or known
    numbers = _range(known) if known else "; ".join(dict.fromkeys(texts))
    undecided = [finding.text for finding in known if finding.verdict == verdicts.UNDECIDED]
    one = f"; the undecided one is {undecided[0]}" if len(undecided) == 1 < len(counts) else ""
    return f"{numbers} ({told}){one}"


def _range(known: Sequence[Finding]) -> str:
    in_order = sorted(known, key=lambda finding: float(str(finding.value)))
    least, most = (str(each.text).partition(" (")[0] for each in (in_order[0], in_order[-1]))
    # A perplexity has no unit.
    _, space, unit = most.rpartition(" ")
    least = least.removesuffix(f" {unit}") if space else least
    return f"{len(known)} numbers from {least} to {most}"
