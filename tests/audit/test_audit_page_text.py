"""The audit's page as text: escaping, links, what is left out. `tests/browser` opens it."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from audits_for_tests import Audited, make_audited
from freelunch.audit.claim_verdicts import Finding
from freelunch.audit.claims import ThresholdHistory
from freelunch.audit.figures import figures
from freelunch.audit.page import MARKS, ROLES, page_text
from freelunch.audit.page_cells import Field, cells_table, sorting, tasks_table
from freelunch.audit.page_claims import KeyNumber, claim_reason, key_numbers, needs_text
from freelunch.audit.protocol import load_protocol
from freelunch.audit.published import DIFFERS
from freelunch.audit.verdicts import (
    FAILS,
    HOLDS,
    IN_PART,
    UNDECIDED,
    UNTESTED,
    VERDICTS,
    of_few_seeds,
    tally,
)
from freelunch.reporting.formatting import duration, three_digits
from records_for_tests import make_study

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)> & `code`'
# What is a sentence or a name for people.
SHOWN = ("title", "statement", "source", "says", "reason", "why", "subject", "licence", "paper")
SHOWN += ("answer", "worth", "text")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    return make_audited(tmp_path_factory.mktemp("results") / "made-up")


@pytest.fixture
def audited(made: Audited, tmp_path: Path) -> Audited:
    """One's own copy of the files, to change."""
    shutil.copytree(made.root, tmp_path / "made-up")
    return replace(made, root=tmp_path / "made-up")


class Elements(HTMLParser):
    """Every start tag of a page with its attributes, and all of its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for found, attributes in self.found if found == tag]


def page_of(audited: Audited, later: tuple[str, ...] = (), **changes: Any) -> str:
    """Return the page of an audit, some attributes of which are changed."""
    audit = replace(audited.audit, **changes)
    return page_text(audited.results, audit, audited.root, later)


def everywhere(value: Any, text: str) -> Any:
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


def test_hostile_text_is_shown_and_not_run(audited: Audited) -> None:
    page = Elements(page_of(replace(audited, audit=everywhere(audited.audit, HOSTILE))))
    assert len(page.all("script")) == 1
    assert all("onerror" not in attributes for _, attributes in page.found)
    assert page.text.count("<img src=x onerror=alert(2)> & code") > 50


def test_nothing_is_fetched(audited: Audited) -> None:
    text = page_of(audited)
    page = Elements(text)
    for tag, attributes in page.found:
        for key in ("src", "srcset", "data", "action", "poster"):
            assert (attributes.get(key) or "data:").startswith("data:"), (tag, attributes)
        href = attributes.get("href") or "#"
        assert href == "data:," or href.startswith("#") or not re.match(r"\w+:|//", href), href
    assert "@import" not in text and "url(" not in text
    (policy,) = (it for it in page.all("meta") if it.get("http-equiv") == "Content-Security-Policy")
    assert (policy["content"] or "").startswith("default-src 'none'; img-src data:;")
    assert page_of(audited) == text, "the same study gives the same bytes"


def test_a_figure_that_is_not_there_or_draws_nothing_is_left_out(audited: Audited) -> None:
    assert len(Elements(page_of(audited)).all("img")) == 3
    (audited.root / "figures" / "windows.csv").write_text("model,perplexity\n")
    assert len(Elements(page_of(audited)).all("img")) == 2
    for path in (audited.root / "figures").glob("windows.*"):
        path.unlink()
    page = page_of(audited)
    assert len(Elements(page).all("img")) == 2
    assert "windows.csv" not in page and "figure 3" not in page.lower()
    shutil.rmtree(audited.root / "figures")
    page = page_of(audited)
    assert not Elements(page).all("img") and "Figures, and" not in page


def test_the_page_begins_with_the_forest_plot_and_then_what_costs_reach(audited: Audited) -> None:
    kept = Path(__file__).resolve().parents[2] / "docs" / "laptop" / "figures" / "effects.png"
    shutil.copy(kept, audited.root / "figures")
    page = page_of(audited)
    assert len(Elements(page).all("img")) == 4
    first = page[page.index('<figure id="figure-1">') : page.index("</header>")]
    assert first.count("<figure") == 1 and "A forest plot" in first
    found = page[page.index('<section id="found"') : page.index('<section id="claims"')]
    assert found.count("<figure") == 1 and "Quality by tokens, operations and memory" in found


def test_a_figure_of_several_claims_is_shown_once(audited: Audited) -> None:
    page = page_of(audited)
    assert page.count('<figure id="figure-2">') == 1
    assert page.count('See <a href="#figure-2">figure 2</a> above.') == 2
    text = " ".join(Elements(page).text.split())
    assert "Measured on 32 windows of 512 tokens of evaluation-text, without" in text
    known = {claim.id for claim in audited.audit.claims}
    assert {claim for figure in figures().values() for claim in figure.claims} <= known


def test_a_study_with_little_has_no_empty_sections(audited: Audited) -> None:
    nothing: dict[str, Any] = {key: [] for key in ("commits", "packages", "machines", "threads")}
    nothing |= {key: {} for key in ("models", "texts", "tasks", "token_ids")}
    provenance = replace(audited.audit.provenance, **nothing)
    text = page_of(audited, costs=[], published=[], published_claims=[], provenance=provenance)
    page = Elements(text)
    folded = [it["id"] for it in page.all("details") if "section" in (it.get("class") or "")]
    assert folded == ["cells", "method", "protocol", "provenance", "repeat", "reforms", "files"]
    ids = [attributes["id"] for attributes in page.all("section") if "id" in attributes]
    assert ids == ["found", "claims"]
    assert "Records name neither commits nor machines." in page.text
    assert "by commit unknown" in page.text
    for table in re.findall(r"<tbody>(.*?)</tbody>", text, re.S):
        assert "<td" in table


def test_a_study_without_adaptations_shows_its_pruned_models(audited: Audited) -> None:
    found = [replace(model, adaptations=[]) for model in audited.audit.found]
    text = " ".join(Elements(page_of(audited, found=found)).text.split())
    assert "No adaptation was run." in text and "Wanda, 50 % unstructured pruned 90" in text
    assert 'id="found"' not in page_of(audited, found=[])


def test_code_that_was_in_no_repository(audited: Audited) -> None:
    commits = [{"commit": None, "uncommitted_changes": None}]
    provenance = replace(audited.audit.provenance, commits=commits)
    text = Elements(page_of(audited, provenance=provenance)).text
    assert "by commit unknown" in text and "the code was in no repository" in text


def test_published_numbers_that_were_compared_come_first(audited: Audited) -> None:
    one, *others = audited.audit.published
    compared = replace(
        one,
        ours=5.4,
        ours_standard_error=0.1,
        difference=5.4 - one.value,
        verdict=DIFFERS,
        reason="+5.5% of the published number",
        cells=["tiny/wanda-u50/none/seed0"],
        command="snakemake",
    )
    page = page_of(audited, published=[*others, compared])
    assert f"This applies to 1 of {len(others) + 1}." in page
    assert f"1 of {len(others) + 1} compared" in page
    assert page.index("+5.5% of the published number") < page.index("Why not")
    assert "5.40 ± 0.10" in page
    assert f"none of the {len(others)} that are known" in page_of(audited, published=others)


def test_what_published_tables_say_stands_apart(audited: Audited) -> None:
    text = page_of(audited)
    apart = text[text.index('<section id="published-claims"') : text.index('<details id="cells"')]
    page = Elements(apart)
    ids = [it["id"] for it in page.all("details") if (it["id"] or "").startswith("published-")]
    assert ids == ["published-C1", "published-C2", "published-C3", "published-C3b"]
    words = " ".join(page.text.split())
    assert "not of this study, and carry no intervals" in words
    assert "llama-1-7b sparsegpt: none 7.24, recon_block_sparse 6.72" in words
    assert words.count("No published table that we know of bears on C2b, C2v1, C4.") == 1
    assert "tiny" not in apart, "nothing of ours is there"
    own = text[text.index('<section id="claims"') : text.index('<section id="published-claims"')]
    assert "llama-1-7b" not in own
    assert "2499.39 (RIA README, primary); 30.39 (DenoiseRotator table 1, third-party)" in text


def test_links_lead_to_records_and_to_files_that_are_or_will_be_there(audited: Audited) -> None:
    (audited.root / "tables" / ".summary.csv.part").touch()
    page = page_of(audited)
    links = {attributes["href"] for attributes in Elements(page).all("a")}
    assert {f"../records/{cell.record_name}" for cell in audited.study.cells} <= links
    assert {"../audit/audit.json", "../tables/summary.tex"} <= links
    assert "ro-crate" not in page and ".part" not in page
    crate = "ro-crate-metadata.json"
    assert f'href="../{crate}"' in page_of(audited, later=(crate,))
    (audited.root / crate).touch()
    assert f'href="../{crate}"' in page_of(audited)


def test_every_word_of_a_verdict_has_a_shape(audited: Audited) -> None:
    """The four verdicts have four; a setting whose comparison has no shape would be an error."""
    assert len({MARKS[verdict] for verdict in VERDICTS}) == 4
    assert {row.status for row in audited.audit.protocol} <= set(MARKS)
    page = page_of(audited)
    assert {setting.group for setting in load_protocol()} == set(
        re.findall(r'<th scope="rowgroup" colspan="6">(.*?)</th>', page)
    )
    for role in ("decides", "adds"):
        assert f">{ROLES[role]}</span>" in page


def test_the_page_says_in_order_what_was_found_the_verdicts_what_was_run_and_its_worth(
    audited: Audited,
) -> None:
    text = " ".join(Elements(page_of(audited)).text.split())
    of_card = [
        audited.audit.answer,
        "Of the paper's 7 claims:",
        "made-up (made-up.yaml), 33 cells",
        "), pruned by Magnitude, Wanda; 50 % unstructured",
        audited.audit.worth,
        "What this study found",
        "Wanda, 50 % unstructured pruned 90",
        "a model of at least 70,000,000,000 parameters",
        "Method and definitions",
    ]
    places = [text.index(words) for words in of_card]
    assert places == sorted(places)


# --- Claims in sentences


def part(verdict: str, role: str = "counts", **more: Any) -> Any:
    base = {"says": "So", "reason": "Of 2, 1.", "measure": "recovery", "findings": []}
    base |= {"quantity": "share", "settings": {}, "threshold": "above 0 %"}
    base["set"] = ThresholdHistory("us", "2026-11-26", True)
    return SimpleNamespace(**(base | {"verdict": verdict, "role": role} | more))


def claim_of(name: str, verdict: str, parts: list[Any]) -> Any:
    return SimpleNamespace(id=name, verdict=verdict, parts=parts)


def found(text: str | None = "1 %", value: Any = 0.01, **more: Any) -> Finding:
    base = {"subject": "it", "text": text, "value": value, "low": 0.0, "reason": "it is above"}
    return Finding(**(base | {"verdict": HOLDS} | more))


@pytest.mark.parametrize(
    ("verdict", "parts", "expected"),
    [
        # An additional part can only weaken a claim, which its reason then says.
        (HOLDS, [part(HOLDS), part(HOLDS, "adds"), part(UNDECIDED, "adds")], "Of 2, 1."),
        (
            IN_PART,
            [
                part(HOLDS),
                part(IN_PART, "adds"),
                part(HOLDS, "adds", says="Also"),
                part(of_few_seeds(HOLDS), "adds", says="Too"),
            ],
            "Of 2, 1. But “So” is found in part.",
        ),
        (HOLDS, [part(HOLDS)], "Of 2, 1."),
        (HOLDS, [part(HOLDS, findings=[found()])], "It is above."),
        (
            FAILS,
            [part(HOLDS), part(FAILS, "decides")],
            "“So” decides: of 2, 1.",
        ),
        (
            UNTESTED,
            [part(UNTESTED, "decides"), part(HOLDS)],
            "“So” decides: of 2, 1.",
        ),
        (
            UNDECIDED,
            [part(UNDECIDED, "decides"), part(HOLDS), part(FAILS, "decides")],
            "Of 2 deciding parts, 1 is not found, 1 is undecided; not found would need all of them "
            "to agree.",
        ),
        (
            IN_PART,
            [part(HOLDS), part(HOLDS), part(FAILS)],
            "Of 3 parts, 2 are found, 1 is not found.",
        ),
    ],
)
def test_a_claim_says_why(verdict: str, parts: list[Any], expected: str) -> None:
    assert claim_reason(claim_of("C1", verdict, parts)) == expected


@pytest.mark.parametrize(
    ("findings", "expected"),
    [
        ([], "Of 2, 1"),
        ([found("3 % (95 %: 1 to 5 %)", 0.03)], "share: 3 % (95 %: 1 to 5 %)"),
        ([found("2 %"), found("3 %")], "share: 2 %; 3 %"),
        (
            [
                found("12 times (no interval)", 12.0, low=None),
                found("5 times", 5.0),
                found("more than 9 times", "infinity"),
                found("not reached", None, low=None),
                found("at most 2 times (95 %: 1 to 3 times)", 2.0),
            ],
            "share: 3 numbers from at most 2 to more than 9 times (5 found)",
        ),
        (
            [found("4 %", 0.04), found(None, None), found("2 %", 0.02), found("3 %", 0.03)],
            "share: 3 numbers from 2 to 4 % (4 found)",
        ),
        # Perplexities have no unit.
        (
            [found("1.3 (95 %: 1.1 to 1.5)", 1.3), found("0.53", 0.53), found("0.8", 0.8)],
            "share: 3 numbers from 0.53 to 1.3 (3 found)",
        ),
        (
            [found("not reached", None, low=None, verdict=UNDECIDED)] * 3,
            "share: not reached (3 undecided)",
        ),
    ],
)
def test_the_numbers_of_a_part_in_short(findings: list[Any], expected: str) -> None:
    parts = [part(HOLDS, findings=findings), part(HOLDS, "adds")]
    assert key_numbers(parts) == [KeyNumber("So", HOLDS, expected, "above 0 %, set by us")]


def test_what_the_numbers_are_is_said_once() -> None:
    """Also after a part that has none."""
    number = [found("3 %")]
    parts = [part(HOLDS, findings=of) for of in (number, [], number)]
    parts += [part(HOLDS, findings=number, quantity="times")]
    texts = [key.text for key in key_numbers(parts)]
    assert texts == ["share: 3 %", "Of 2, 1", "3 %", "times: 3 %"]


def test_what_untested_claims_need_beside_what_the_study_has() -> None:
    """Windows that a measure implies are needed, too, and those that were run are not."""
    study = make_study(criteria=["wanda"], adaptations=["none", "recon_block"])
    settings = {"groups": [["magnitude"], ["wanda"]], "windows": ["all", 1], "unit": "tokens"}
    untested = [
        part(UNTESTED, settings=settings, measure="matrix_penalty"),
        part(UNTESTED, settings={"criteria": ["wanda"], "parameters": 7_000}),
        part(UNTESTED, settings={"beside": 5, "windows": [1]}, measure="window_difference"),
        part(UNTESTED, "adds", settings={"methods": ["masklora"]}),
    ]
    tested = [part(HOLDS, settings={"methods": ["full"]})]
    claims = [claim_of("C1", UNTESTED, untested), claim_of("C2", HOLDS, tested)]
    assert needs_text(claims, study) == (
        "reconstruction in windows of single matrices, whole model, 5 blocks; "
        "pruning by Magnitude; a model of at least 7,000 parameters"
    )


def test_thresholds_that_were_set_late_say_so(audited: Audited) -> None:
    page = page_of(audited)
    assert "set by us, written down on 2026-11-26, after results were seen" in page
    assert "set by the paper, written down on 2026-11-26" in page


def test_a_page_gives_both_answers_and_the_scope_of_each_verdict(audited: Audited) -> None:
    """In the line of the verdict."""
    articles = re.findall(r"<article.*?<details>", page_of(audited), re.S)
    asked = [claim for claim in audited.audit.claims if claim.verdict != UNTESTED]
    assert len(articles) == len(asked) > 0
    for article, claim in zip(articles, asked, strict=True):
        assert f"{claim.verdict}</span>" in article
        assert "claim: <strong>not tested at this scale</strong>" in article
        assert str(claim.scope).split("paper")[0] in article


def test_claims_that_the_study_does_not_ask_are_one_line_with_what_they_need(
    audited: Audited,
) -> None:
    page = page_of(audited)
    untested = [claim.id for claim in audited.audit.claims if claim.verdict == UNTESTED]
    (line,) = re.findall(r'<details class="untested">\s*<summary>(.*?)</summary>', page, re.S)
    assert f"<h3>{', '.join(untested)}</h3>" in line
    assert "a model of at least 70,000,000,000 parameters" in line and "Wanda" not in line
    folded = re.findall(r'<details id="(C\w+)" class="untested">', page)
    assert folded == untested
    assert not re.search(r'<li><a href="#C4">', page), "the card lists those that are asked"


def test_a_tally_counts_in_the_order_of_verdicts() -> None:
    assert tally([UNTESTED, HOLDS, FAILS, HOLDS], "claims") == (
        "Of 4 claims, 2 are found, 1 is not found, 1 is not testable here"
    )


# --- Cells


def test_columns_that_no_cell_fills_are_left_out(made: Audited) -> None:
    shown = cells_table(made.results.cells)
    assert "Perplexity" in shown.columns
    assert "Held out" not in shown.columns and "Accuracy" not in shown.columns
    assert len(shown.rows) == len(made.study.cells)


def test_a_cell_shows_what_was_measured_on_it(made: Audited) -> None:
    row = {**made.results.cells[0], "adaptation_window": "matrix", "perplexity": float("nan")}
    row |= {"held_out_perplexity": 17.25, "held_out_perplexity_standard_error": 0.5}
    row |= {"drift_mean": 0.12345, "accuracy": 0.5123, "accuracy_standard_error": 0.02}
    (shown,) = cells_table([row]).rows
    assert shown.name == "dense"
    assert shown.fields["Held out"] == Field("17.25 ± 0.50", "17.25")
    assert shown.fields["Drift"] == Field("0.1235", "0.12345")
    assert shown.fields["Accuracy"] == Field("51.2 ± 2.0 %", "0.5123")
    assert shown.fields["Perplexity"] == Field("not finite", "Infinity")


def test_the_name_of_a_cell_has_the_model_where_there_are_several(made: Audited) -> None:
    dense = made.results.cells[0]
    for models, there in ((("tiny", "tiny"), False), (("tiny", "other"), True)):
        rows = cells_table([{**dense, "model": model} for model in models]).rows
        names = ["tiny/dense", "other/dense"] if there else ["dense", "dense"]
        assert [row.name for row in rows] == names


def test_accuracies_of_each_task() -> None:
    def row(criterion: str, task: str, accuracy: float, records: str, **more: Any) -> Any:
        keys = ("accuracy_minus_dense", "accuracy_minus_unadapted")
        ends = ("", "_standard_error")
        base: dict[str, Any] = dict.fromkeys(f"{key}{end}" for key in keys for end in ends)
        base |= {"model": "tiny", "pattern": "u50", "adaptation": "none", "criterion": criterion}
        base |= {"documents": 50, "documents_in_all": 277, "task": task, "records": records}
        return base | {"accuracy": accuracy, "accuracy_standard_error": 0.07} | more

    beside = {"accuracy_minus_dense": -0.1, "accuracy_minus_dense_standard_error": 0.02}
    rows = [row("dense", task, 0.5, "d.json") for task in ("rte", "mean")]
    rows += [row("wanda", task, 0.4, "w0.json w1.json", **beside) for task in ("rte", "mean")]
    shown = tasks_table(rows)
    assert shown is not None and tasks_table([]) is None
    assert shown.documents == {"rte": (50, 277)}
    assert (shown.columns[0], shown.columns[-1]) == ("mean", "rte")
    dense, pruned = shown.rows
    assert (dense.name, pruned.name) == ("dense", "wanda-u50/none")
    assert (dense.records, pruned.records) == (["d.json"], ["w0.json", "w1.json"])
    to_dense = shown.columns[1]
    assert dense.fields[to_dense] == Field("-", "")
    assert pruned.fields[to_dense] == Field("-10.0 ± 2.0 %", "-0.1")
    assert pruned.fields["rte"] == Field("40.0 ± 7.0 %", "0.4")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (0, "-"), (0.5204, "0.520"), (6.07, "6.07"), (52.51, "52.5"), (1234, "1,234")],
)
def test_three_digits_are_significant(value: float | None, expected: str) -> None:
    assert three_digits(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "-"), (0.825, "0.825 s"), (90, "90.0 s"), (150, "2.50 min"), (14000, "3.89 h")],
)
def test_durations(seconds: float | None, expected: str) -> None:
    assert duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, ""), (0.5, "0.5"), (3, "3.0"), ("infinity", "Infinity"), (float("nan"), "Infinity")],
)
def test_what_a_number_is_sorted_by(value: Any, expected: str) -> None:
    assert sorting(value) == expected
