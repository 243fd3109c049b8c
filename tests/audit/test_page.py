"""The audit's pages as text: escaping, links, what is left out. `tests/browser` opens them."""

import math
import re
import shutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from audits_for_tests import make_kept
from freelunch.audit.claim_verdicts import Finding
from freelunch.audit.claims import ThresholdHistory
from freelunch.audit.effects import figures
from freelunch.audit.output_files import EVIDENCE, PAGE
from freelunch.audit.page import MARKS, claim_reason, key_numbers, page_texts
from freelunch.audit.published import DIFFERS
from freelunch.audit.verdicts import (
    FAILS,
    HOLDS,
    IN_PART,
    OTHERS,
    UNDECIDED,
    UNTESTED,
    VERDICTS,
    of_few_seeds,
)
from freelunch.study.cell import NONE, Cell

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)> & `code`'
# What is a sentence or a name for people.
SHOWN = ("title", "statement", "source", "says", "reason", "why", "subject", "licence", "paper")
SHOWN += ("answer", "worth", "text")


@pytest.fixture
def audited(made, tmp_path):
    """One's own copy of the files, to change."""
    shutil.copytree(made.root, tmp_path / "laptop")
    return replace(made, root=tmp_path / "laptop")


class Elements(HTMLParser):
    """Every start tag of a page with its attributes, and all of its text."""

    def __init__(self, page):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for found, attributes in self.found if found == tag]


def pages_of(audited, later=(), **changes):
    """Return both pages of an audit, some attributes of which are changed."""
    pages = page_texts(audited.results, replace(audited.audit, **changes), audited.root, later)
    return pages[PAGE], pages[EVIDENCE]


def evidence_of(audited, later=(), **changes):
    return pages_of(audited, later, **changes)[1]


def part_of(page, start, end):
    """Return the source of a page from one section to another, and its text."""
    source = page[page.index(f'id="{start}"') : page.index(f'id="{end}"')]
    return source, Elements(f"<p {source}").text


def everywhere(value, text):
    """Return a value with a text in the place of each sentence and each name for people."""
    if isinstance(value, list):
        return [everywhere(each, text) for each in value]
    if is_dataclass(value) and not isinstance(value, type):
        own = {each.name: getattr(value, each.name) for each in fields(value)}
        return replace(value, **everywhere(own, text))
    if isinstance(value, Mapping):
        return {
            key: text if key in SHOWN and isinstance(it, str) else everywhere(it, text)
            for key, it in value.items()
        }
    return value


@pytest.mark.parametrize(("page_number", "shown"), [(0, 20), (1, 50)])
def test_hostile_text_is_shown_and_not_run_and_nothing_is_fetched(audited, page_number, shown):
    hostile = replace(audited, audit=everywhere(audited.audit, HOSTILE))
    text = pages_of(hostile)[page_number]
    page = Elements(text)
    assert len(page.all("script")) == 1
    assert page.text.count("<img src=x onerror=alert(2)> & code") > shown
    for tag, attributes in page.found:
        assert "onerror" not in attributes
        for key in ("src", "srcset", "data", "action", "poster"):
            assert (attributes.get(key) or "data:").startswith("data:"), (tag, attributes)
        href = attributes.get("href") or "#"
        assert href == "data:," or href.startswith("#") or not re.match(r"\w+:|//", href), href
    own = re.sub('src="data:[^"]*"', "", text)
    assert "@import" not in own and "url(" not in own
    (policy,) = (it for it in page.all("meta") if it.get("http-equiv") == "Content-Security-Policy")
    assert policy["content"].startswith("default-src 'none'; img-src data:;")
    assert pages_of(audited) == pages_of(audited), "the same study gives the same bytes"


def test_the_first_page_is_short_and_each_link_of_both_leads_somewhere(tmp_path):
    """On the study with the most cells and figures."""
    made = make_kept("budgets", tmp_path, [".svg"])
    pages = dict(zip(("index.html", "evidence.html"), pages_of(made), strict=True))
    assert len(pages["index.html"].encode()) <= 600_000
    read = {name: Elements(page) for name, page in pages.items()}
    ids = {
        name: [each["id"] for _, each in page.found if "id" in each] for name, page in read.items()
    }
    for name, page in read.items():
        assert len(ids[name]) == len({*ids[name]})
        for link in page.all("a"):
            target, _, fragment = link["href"].partition("#")
            if target in ("", *ids) and (fragment or target not in ids):
                assert fragment in ids[target or name], link
    links = {link["href"] for link in read["index.html"].all("a")}
    assert {f"evidence.html#{claim.id}" for claim in made.audit.claims} <= links
    glance = part_of(pages["index.html"], "glance", "C1-title")[0].partition("</table>")[0]
    lines = [Elements(row).text for row in glance.split("<tr>")[2:]]
    assert len(lines) == 10 and max(len(line.split()) for line in lines) <= 25


def test_figures_stand_once_and_only_if_they_are_there_and_draw_something(audited):
    """Perplexity by tokens at the head, others at claims, and the forest plot behind the link."""
    page, evidence = pages_of(audited)
    assert page.count("<figure ") == len(Elements(page).all("img")) == 3
    assert evidence.count("<figure ") == len(Elements(evidence).all("img")) == 1
    head, _ = part_of(page, "findings", "claims")
    assert "Two charts of perplexity" in head and head.count("<figure") == 1
    assert "A forest plot" in part_of(evidence, "figure-4", "published-claims")[0]
    assert 'See <a href="#figure-2">figure 2</a> above.' in page
    assert 'See <a href="index.html#figure-2">figure 2</a>.' in evidence
    assert "Measured on 48 windows of 256 tokens of wikipedia, without" in Elements(page).text
    known = {claim.id for claim in audited.audit.claims}
    assert {claim for figure in figures().values() for claim in figure.claims} <= known
    (audited.root / "figures" / "windows.csv").write_text("model,perplexity\n")
    assert pages_of(audited)[0].count("<figure ") == 2
    for path in (audited.root / "figures").glob("windows.*"):
        path.unlink()
    page, evidence = pages_of(audited)
    assert page.count("<figure ") == 2
    assert "windows.csv" not in page and "figure 4" not in (page + evidence).lower()


def test_a_study_with_little_has_no_empty_sections(audited):
    nothing = {key: [] for key in ("commits", "packages", "machines", "threads")}
    nothing |= {key: {} for key in ("models", "texts", "tasks", "token_ids")}
    provenance = replace(audited.audit.provenance, **nothing)
    empty = {key: [] for key in ("found", "costs", "published", "published_claims")}
    first, text = pages_of(audited, **empty, provenance=provenance, results=[], table=[])
    assert Elements(first).text.count("lowers the perplexity of smollm2-135m") == 1
    page = Elements(text)
    folded = [it["id"] for it in page.all("details") if "section" in (it.get("class") or "")]
    assert folded == ["cells", "method", "provenance", "repeat", "files"]
    assert [it["id"] for it in page.all("section") if "id" in it] == ["claims", "figures"]
    assert "Records name neither commits nor machines." in page.text
    assert "by commit unknown" in page.text
    for table in re.findall(r"<tbody>(.*?)</tbody>", text, re.S):
        assert "<td" in table
    nowhere = replace(provenance, commits=[{"commit": None, "uncommitted_changes": None}])
    found = [replace(model, adaptations=[]) for model in audited.audit.found]
    shown = Elements(evidence_of(audited, found=found, provenance=nowhere)).text
    assert "the code was in no repository" in shown
    assert "No adaptation was run." in shown and "Wanda, 50 % unstructured pruned 55.6" in shown


def test_published_numbers_that_were_compared_come_first(audited):
    one, *others = audited.audit.published
    compared = {"ours": 5.4, "ours_standard_error": 0.1, "difference": 0.3, "verdict": DIFFERS}
    compared |= {"reason": "+5.5%", "cells": [], "command": "snakemake"}
    page = evidence_of(audited, published=[*others, replace(one, **compared)])
    _, text = part_of(page, "published", "provenance")
    assert f"This applies to 1 of {len(others) + 1}." in text
    assert text.index("5.40 ± 0.10 +0.300 differs +5.5%") < text.index("Why not")


def test_links_lead_to_records_and_to_files_that_are_or_will_be_there(audited):
    (audited.root / "tables" / ".summary.csv.part").touch()
    page, config = evidence_of(audited), "audit/run/config.yaml"
    links = {attributes["href"] for attributes in Elements(page).all("a")}
    assert {f"../records/{cell.record_name}" for cell in audited.study.cells} <= links
    assert {"../audit/audit.json", "../tables/summary.md"} <= links
    assert config not in page and ".part" not in page
    assert f'href="../{config}"' in evidence_of(audited, later=(config,))


def test_seeds_that_differ_have_a_column(audited):
    found = audited.audit.found
    adaptations = [replace(found[0].adaptations[0], seeds=3), *found[0].adaptations[1:]]
    changed = [replace(found[0], adaptations=adaptations), *found[1:]]
    seeds, _ = part_of(evidence_of(audited, found=changed), "found", "claims")
    assert ">Seeds</th>" in seeds and '<td class="number" data-value="3.0">3</td>' in seeds
    assert ">Seeds</th>" not in part_of(evidence_of(audited), "found", "claims")[0]


def test_a_study_that_no_claim_asks_about(audited):
    claims = [replace(claim, verdict=UNTESTED) for claim in audited.audit.claims]
    page, evidence = pages_of(audited, claims=claims)
    assert "13 claims: 13 not testable here." in page
    assert page.count("<figure ") == 1 and evidence.count("<figure ") == 3
    assert "<article" not in page


def test_steps_that_cells_share_cost_once(audited):
    """Two jobs draw a sample and held-out text, and two capture activations on them."""
    cells = audited.study.cells
    pruned = [cell for cell in cells if not cell.is_dense]
    adapted = [cell for cell in pruned if cell.adaptation != NONE]
    prunings = {(cell.pruning, cell.seed) for cell in pruned}
    samples = {cell.seed for cell in pruned}
    jobs = sum(step.jobs for step in audited.audit.costs)
    assert jobs == len(cells) + len(adapted) + len(prunings) + 4 * len(samples)


# --- Claims in sentences


def part(verdict, role="counts", **more):
    base = {"says": "So", "reason": "Of 2, 1.", "measure": "recovery", "findings": []}
    base |= {"quantity": "share", "settings": {}, "threshold": "above 0 %"}
    base["set"] = ThresholdHistory("us", "2026-11-26", True)
    return SimpleNamespace(**(base | {"verdict": verdict, "role": role} | more))


def found(text="1 %", value=0.01, **more):
    base = {"subject": "it", "text": text, "value": value, "low": 0.0, "reason": "it is above"}
    return Finding(**(base | {"verdict": HOLDS} | more))


ADDED = (part(IN_PART, "adds"), part(HOLDS, "adds"), part(of_few_seeds(HOLDS), "adds", says="Too"))


@pytest.mark.parametrize(
    ("verdict", "parts", "expected"),
    [
        # An additional part can only weaken a claim, which its reason then says.
        (HOLDS, [part(HOLDS), part(HOLDS, "adds"), part(UNDECIDED, "adds")], "Of 2, 1."),
        (IN_PART, [part(HOLDS), *ADDED], "Of 2, 1. But “So” is reproduced in part."),
        (HOLDS, [part(HOLDS, findings=[found()])], "It is above."),
        (FAILS, [part(HOLDS), part(FAILS, "decides")], "“So” decides: of 2, 1."),
        (
            UNDECIDED,
            [part(UNDECIDED, "decides"), part(HOLDS), part(FAILS, "decides")],
            "Of 2 deciding parts, 1 is not reproduced, 1 is undecided; not reproduced would need "
            "all of them to agree.",
        ),
        (IN_PART, [part(HOLDS), part(FAILS)], "Of 2 parts, 1 is reproduced, 1 is not reproduced."),
    ],
)
def test_a_claim_says_why(verdict, parts, expected):
    claim = SimpleNamespace(id="C1", verdict=verdict, parts=parts)
    assert claim_reason(claim) == expected


TIMES = [
    found("12 times (no interval)", 12.0, low=None),
    found("5 times", 5.0),
    found("more than 9 times", "infinity"),
    found("not reached", None, low=None),
    found("at most 2 times (95 %: 1 to 3 times)", 2.0),
]


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([], "Of 2, 1"),
        ([found("3 % (95 %: 1 to 5 %)", 0.03)], "share: 3 % (95 %: 1 to 5 %)"),
        ([found("2 %"), found("3 %")], "share: 2 %; 3 %"),
        (TIMES, "share: 3 numbers from at most 2 to more than 9 times (5 reproduced)"),
        # Perplexities have no unit.
        (
            [found("1.3 (95 %: 1.1 to 1.5)", 1.3), found("0.53", 0.53), found(None), found("0.8")],
            "share: 3 numbers from 0.8 to 1.3 (4 reproduced)",
        ),
        ([found("no", None, low=None, verdict=UNDECIDED)] * 3, "share: no (3 undecided)"),
    ],
)
def test_the_numbers_of_a_part_in_short(findings, expected):
    asked = part(HOLDS, findings=findings)
    assert list(key_numbers([asked, part(HOLDS, "adds")])) == [(asked, expected)]


def test_what_the_numbers_are_is_said_once():
    """Also after a part that has none."""
    number = [found("3 %")]
    parts = [part(HOLDS, findings=of) for of in (number, [], number)]
    parts += [part(HOLDS, findings=number, quantity="times")]
    texts = [text for _, text in key_numbers(parts)]
    assert texts == ["share: 3 %", "Of 2, 1", "3 %", "times: 3 %"]


def test_what_is_no_finding_is_marked_where_it_is_shown(audited):
    page, evidence = pages_of(audited)
    assert "<p>No finding: accuracy at chance. smollm2-135m/sparsegpt-u50/none" in page
    for name in ("cells", "tasks"):
        shown = evidence.partition(f'id="{name}-table"')[2].partition("</table>")[0]
        assert shown.count("no finding: accuracy at chance") == 2


def test_claims_with_both_answers_their_scope_and_thresholds(audited):
    """The claims that the study does not ask are one line."""
    page, evidence = pages_of(audited)
    assert len({MARKS[verdict] for verdict in VERDICTS}) == 4, "the four verdicts have four shapes"
    assert "set by us, written down on 2026-11-26, after results were seen" in evidence
    assert "set by the paper, written down on 2026-11-26" in evidence
    assert ">deciding</span>" in evidence and ">additional</span>" in evidence
    articles = re.findall(r"<article.*?</article>", page, re.S)
    asked = [claim for claim in audited.audit.claims if claim.verdict != UNTESTED]
    for article, claim in zip(articles, asked, strict=True):
        assert f"{claim.text}</span>" in article
        assert f"claim: <strong>{OTHERS}</strong>" in article
        assert claim.scope.split(" (the paper")[0] in article
    claims = [claim.id for claim in audited.audit.claims]
    assert re.findall(r'<details id="(C\w+)" class="untested">', evidence) == claims
    untested = [claim.id for claim in audited.audit.claims if claim.verdict == UNTESTED]
    assert re.findall(r'<a href="evidence.html#(C\w+)">C\w+</a>', page) == untested


# --- Cells


def test_cells_and_tasks_are_named_and_sorted_by_what_was_measured(audited):
    """A column that no cell fills is left out, and so are a model and a seed that all have."""
    dense = {**audited.results.cells[0], "perplexity": math.nan, "activation_error": 0.12345}
    dense |= {"held_out_perplexity": 17.25, "held_out_perplexity_standard_error": 0.5}
    dense |= {"accuracy": 0.5123, "accuracy_standard_error": 0.02}
    other = {**dense, "model": "other", "selected_on": "evaluation", "criterion": "wanda"}
    task = {"documents": 50, "documents_in_all": 277, "selected_on": None, "records": "d.json"}
    task |= {"model": "tiny", "criterion": "wanda", "pattern": "u50", "adaptation": "none"}
    task |= {"accuracy_minus_dense": -0.1, "accuracy_minus_dense_standard_error": 0.02}
    task |= dict.fromkeys(("accuracy_minus_pruned", "accuracy_minus_pruned_standard_error"))
    task |= {"accuracy": 0.4, "accuracy_standard_error": 0.07}
    tasks = [{**task, "task": "rte"}, {**task, "task": "mean", "accuracy": 0.3}]
    bos = {"setting": "auto", "token": "<bos>", "added_by_tokenizer": True, "used": True}
    bos |= {"loss_without": 4.5, "loss_with": 3.0, "difference": -1.5, "standard_error": 0.09}
    records = {Cell.dense("tiny"): {"provenance": {"bos": bos}}}
    rows = {"records": records, "cells": [dense, other], "tasks": tasks}
    results = SimpleNamespace(study=audited.study, **rows)
    page = page_texts(results, audited.audit, audited.root)[EVIDENCE]
    assert "of tiny begin with <bos> (bos: auto; the tokenizer begins a text" in Elements(page).text
    assert "the dense loss changes by -1.500 nats ± 0.090" in Elements(page).text
    cells, text = part_of(page, "cells", "method")
    marked = "other/wanda-none/none (chosen on the evaluation text)"
    assert re.findall(r'<a href="[^"]*">([^<]*)</a></th>', cells) == ["smollm2-135m/dense", marked]
    shown = re.findall(r'data-value="([^"]*)">([^<]*)</td>', cells)
    assert {("Infinity", "not finite"), ("17.25", "17.25 ± 0.50")} < {*shown}
    assert {("0.12345", "0.1235"), ("0.5123", "51.2 ± 2.0 %")} < {*shown}
    means = [("0.3", "30.0 ± 7.0 %"), ("-0.1", "-10.0 ± 2.0 %"), ("", "-")]
    assert shown[-4:] == [*means, ("0.4", "40.0 ± 7.0 %")]
    assert ">GB</th>" not in cells and ">Perplexity</th>" in cells
    assert "rte 50 of 277" in text and "wanda-u50/none record" in text
