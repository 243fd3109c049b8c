"""The audit's page in a real browser, headless Chromium, as an auditor would use it."""

import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
from playwright.sync_api import Browser, Locator, Page, Route, sync_playwright

from audits_for_tests import Audited, make_audited, make_kept, write_page
from freelunch.audit.verdicts import FAILS, HOLDS, IN_PART, UNDECIDED, UNTESTED, kind

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no browser: apt-get install --no-install-recommends chromium"
)
# None of these may reach for the network, so that a request is the page's own.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]


@pytest.fixture(scope="module")
def audited(tmp_path_factory: pytest.TempPathFactory) -> Audited:
    made = make_audited(tmp_path_factory.mktemp("results") / "made-up")
    # More numbers than one sees at a glance have a filter.
    findings = made.audit.claims[0].parts[0].findings
    findings += 4 * findings
    write_page(made)
    return made


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@dataclass
class Opened:
    """Opens the page, and keeps what it asked for and complained of."""

    browser: Browser
    url: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def __call__(self, **settings: Any) -> Page:
        context = self.browser.new_context(
            **{"viewport": {"width": 1280, "height": 900}} | settings
        )
        context.route("**/*", self._note)
        context.set_default_timeout(15_000)
        page = context.new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.url)
        return page

    def _note(self, route: Route) -> None:
        self.requests.append(route.request.url)
        if route.request.url == self.url:
            route.continue_()
        else:
            route.abort()


@pytest.fixture
def opened(browser: Browser, audited: Audited) -> Iterator[Opened]:
    """Every test ends with: no complaint, and no request but for the page itself."""
    opened = Opened(browser, (audited.root / "audit" / "index.html").as_uri())
    yield opened
    for context in browser.contexts:
        context.close()
    assert opened.complaints == []
    assert set(opened.requests) == {opened.url}


def unfolded(page: Page) -> Page:
    """Open all that is folded."""
    page.evaluate("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
    return page


def words(page: Page) -> int:
    return len(page.locator("body").inner_text().split())


def pages(page: Page) -> int:
    """Return the number of pages of paper that a page takes."""
    return len(re.findall(rb"/Type\s*/Page\b", page.pdf(prefer_css_page_size=True)))


def column(table: Locator, title: str) -> list[float | None]:
    """Return what the rows of a table are sorted by in a column, from top to bottom."""
    return table.evaluate(
        """(table, title) => {
            const heads = [...table.tHead.rows[0].cells];
            const at = heads.findIndex((head) => head.textContent === title);
            return [...table.tBodies[0].rows].map((row) => {
                const value = row.cells[at].dataset.value;
                return value === "" ? null : value === "Infinity" ? 1e300 : Number(value);
            });
        }""",
        title,
    )


def head(table: Locator, title: str) -> Locator:
    return table.locator("thead th").filter(has=table.page.get_by_role("button", name=title))


# --- Sorting


def test_a_column_of_numbers_is_sorted_with_empty_ones_last(opened: Opened) -> None:
    cells = unfolded(opened()).locator("#cells table")
    title = "Loss \N{MINUS SIGN} dense"
    before = column(cells, title)
    known = sorted(value for value in before if value is not None)
    empty = [None] * (len(before) - len(known))
    assert empty and before != known + empty
    head(cells, title).get_by_role("button").click()
    assert column(cells, title) == known + empty
    assert head(cells, title).get_attribute("aria-sort") == "ascending"
    head(cells, title).get_by_role("button").click()
    assert column(cells, title) == known[::-1] + empty
    assert head(cells, title).get_attribute("aria-sort") == "descending"
    # By another column, and this one is no longer said to be sorted by.
    head(cells, "Perplexity").get_by_role("button").click()
    assert head(cells, title).get_attribute("aria-sort") is None
    perplexities = column(cells, "Perplexity")
    assert perplexities == sorted(perplexities)
    assert perplexities[-1] == 1e300, "one is not finite"


@pytest.mark.parametrize("key", ["Enter", "Space"])
def test_sorting_by_keyboard(opened: Opened, key: str) -> None:
    page = unfolded(opened())
    costs = page.locator("#costs table")
    head(costs, "Wall time").get_by_role("button").focus()
    page.keyboard.press(key)
    assert column(costs, "Wall time") == sorted(column(costs, "Wall time"))
    page.keyboard.press(key)
    assert column(costs, "Wall time") == sorted(column(costs, "Wall time"), reverse=True)
    assert costs.locator("tfoot th").inner_text() == "all steps"


def test_words_are_sorted_within_their_group(opened: Opened) -> None:
    protocol = unfolded(opened()).locator("#protocol table").first
    head(protocol, "Compared").get_by_role("button").click()
    for body in protocol.locator("tbody").all():
        assert body.locator("tr").first.get_attribute("class") == "group"
        words = body.locator("td.quiet").all_inner_texts()
        assert words == sorted(words)


# --- Filtering


def test_a_filter_hides_cells_in_all_tables_alike(opened: Opened, audited: Audited) -> None:
    page = opened()
    rows = page.locator("#cells tbody tr")
    total = len(audited.study.cells)
    # One field is above the ranking, and one above the table of cells, which is folded.
    field, other = (page.locator(f"{place} input[type=search]") for place in ("#found", "#cells"))
    assert not other.is_visible()
    unfolded(page)
    assert page.locator("#found output").inner_text() == f"{total} of {total} rows"
    found = page.locator("#found tr[data-records]")
    all_found = found.filter(visible=True).count()
    assert all_found > 4
    field.fill("WANDA  full_20")
    expected = [
        cell for cell in audited.study.cells if "wanda" in str(cell) and "full_20" in str(cell)
    ]
    assert rows.filter(visible=True).count() == len(expected) > 0
    assert other.input_value() == "WANDA  full_20"
    for count in page.locator("#found output, #cells output").all():
        assert count.inner_text() == f"{len(expected)} of {total} rows"
    assert found.filter(visible=True).count() == 1
    assert page.locator("#found tr.group").filter(visible=True).count() == 1
    other.fill("nothing of the kind")
    assert page.locator("#found output").inner_text() == f"0 of {total} rows"
    assert found.filter(visible=True).count() == 0
    page.emulate_media(media="print")
    assert found.filter(visible=True).count() == all_found, "paper has all"
    page.emulate_media(media="screen")
    field.fill("")
    assert rows.filter(visible=True).count() == total
    assert found.filter(visible=True).count() == all_found


def test_the_evidence_of_a_number_is_filtered_with_it(opened: Opened) -> None:
    page = unfolded(opened())
    table = page.locator("#C1 table").first
    page.locator("#C1").get_by_label("Filter these numbers").fill("magnitude")
    for rows in ("tbody tr:has(th)", "tbody tr.more"):
        shown = table.locator(rows).filter(visible=True)
        assert shown.count() == table.locator(rows).count() / 2 == 5


def test_a_group_without_rows_is_not_shown(opened: Opened) -> None:
    page = unfolded(opened())
    page.get_by_label("Filter settings").fill("batch")
    differing = page.locator("#protocol table").first
    groups = differing.locator("tr.group").filter(visible=True).all_inner_texts()
    assert groups and "Models and patterns" not in groups
    page.emulate_media(media="print")
    assert page.locator("#protocol tbody tr").filter(visible=True).count() > 40, "paper has all"


def test_settings_that_are_the_same_are_folded_apart(opened: Opened) -> None:
    page = opened()
    page.locator("#protocol > summary").click()
    assert page.locator("#protocol .verdict", has_text="different").first.is_visible()
    same = page.locator("#protocol td .verdict").filter(has_text=re.compile("^same$"))
    assert same.count() > 5 and same.filter(visible=True).count() == 0
    page.locator("#protocol details > summary").click()
    assert same.filter(visible=True).count() == same.count()


# --- Figures, links, commands


def test_every_image_has_loaded_and_says_what_is_seen(opened: Opened) -> None:
    images = opened().locator("img").all()
    assert len(images) == 3
    for image in images:
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
        assert len(image.get_attribute("alt") or "") > 40


def test_a_figure_enlarges_and_focus_returns(opened: Opened) -> None:
    page = unfolded(opened())
    button = page.get_by_role("button", name="Enlarge figure 2")
    dialog = page.get_by_role("dialog", name="Figure 2")
    button.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    assert dialog.locator("img").bounding_box()["width"] > 800  # type: ignore[index]
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert button.evaluate("button => button === document.activeElement")
    page.locator("#figure-2 img").click()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()
    assert button.evaluate("button => button === document.activeElement")


def test_every_link_leads_somewhere(opened: Opened) -> None:
    page = opened()
    links = page.locator("[href]").evaluate_all("all => all.map((it) => it.getAttribute('href'))")
    assert len(links) > 50
    for link in links:
        url, fragment = urldefrag(urljoin(opened.url, link))
        if link == "data:,":
            continue
        assert Path(unquote(urlparse(url).path)).is_file(), link
        if fragment:
            assert url == opened.url and page.locator(f'[id="{fragment}"]').count() == 1, link


def test_a_command_can_be_copied(opened: Opened) -> None:
    page = unfolded(opened(permissions=["clipboard-read", "clipboard-write"]))
    page.locator("#repeat").get_by_role("button", name="Copy").first.click()
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "make study STUDY=made-up.yaml"


def test_the_evidence_of_a_number_unfolds_and_stays_with_it(opened: Opened) -> None:
    page = opened()
    page.locator("#claims > details > summary").click()
    page.locator("#C1 > summary").click()
    table = page.locator("#C1 table").first
    evidence = table.locator("details").first
    assert not evidence.locator("pre").is_visible()
    widths = "table => [...table.tHead.rows[0].cells].map((cell) => cell.offsetWidth)"
    folded = table.evaluate(widths)
    evidence.locator("summary").click()
    assert table.evaluate(widths) == folded, "columns stay where they are"
    assert "--forcerun evaluate_cell" in evidence.locator("pre").inner_text()
    orders = set()
    for _ in ("ascending", "descending"):
        head(table, "Number").get_by_role("button").click()
        subjects = table.locator("tbody th").all_inner_texts()
        links = [row.locator("a").first.text_content() for row in table.locator("tr.more").all()]
        assert len(subjects) == len(links) > 1
        for subject, link in zip(subjects, links, strict=True):
            model, criterion, pattern, _ = subject.split(", ")
            assert link and link.startswith(f"{model}/{criterion}-{pattern}/")
        orders.add(tuple(subjects))
    assert len(orders) == 2, "both directions"


# --- For everybody


def test_headings_landmarks_and_tables(opened: Opened) -> None:
    page = unfolded(opened())
    levels = page.locator("h1, h2, h3, h4, h5, h6").evaluate_all(
        "all => all.map((it) => +it.tagName[1])"
    )
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    for role in ("main", "navigation", "banner"):
        assert page.get_by_role(role).count() == 1, role
    ids = page.locator("[id]").evaluate_all("all => all.map((it) => it.id)")
    assert len(ids) == len(set(ids))
    assert page.locator("th:not([scope])").count() == 0
    for table in page.locator("table").all():
        assert table.locator("caption").text_content()
        region = table.locator("..")
        assert region.get_attribute("role") == "region"
        scrolls = region.evaluate(
            "it => it.scrollWidth > it.clientWidth || it.scrollHeight > it.clientHeight"
        )
        # By the keyboard one reaches what scrolls, and stops at nothing else.
        assert (region.get_attribute("tabindex") == "0") is scrolls
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('href')") == "#claims"
    page.keyboard.press("Enter")
    page.wait_for_url("**#claims")


# For each text that is shown: the ratio of its colour to what is behind it, as WCAG 2 counts it.
CONTRASTS = """() => {
    const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const light = (colour) => parts(colour).slice(0, 3).map((value) => value / 255)
        .map((it) => (it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4))
        .reduce((sum, it, at) => sum + it * [0.2126, 0.7152, 0.0722][at], 0);
    const behind = (element) => {
        for (let it = element; it; it = it.parentElement) {
            const colour = getComputedStyle(it).backgroundColor;
            const alpha = parts(colour)[3] ?? 1;
            if (alpha === 1) return colour;
            if (alpha > 0) throw new Error(`half transparent: ${colour}`);
        }
        throw new Error("nothing is behind");
    };
    return [...document.body.querySelectorAll("*")]
        .filter((it) => it.checkVisibility() && it.tagName !== "SCRIPT"
            && [...it.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
        .map((it) => {
            const [one, other] = [getComputedStyle(it).color, behind(it)].map(light);
            const ratio = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
            return [ratio, it.tagName, it.textContent.trim().slice(0, 40)];
        });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(opened: Opened, scheme: Any) -> None:
    page = opened(color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    unfolded(page)
    page.get_by_role("button", name="Enlarge figure 1").click()
    found = page.evaluate(CONTRASTS)
    assert {HOLDS, IN_PART, FAILS, UNTESTED, "Close"} <= {text for *_, text in found}
    assert {"A", "BUTTON", "TD", "TH", "CODE", "OUTPUT", "SUMMARY"} <= {tag for _, tag, _ in found}
    assert min(found)[0] >= 4.5, min(found)


def test_the_page_never_scrolls_sideways(opened: Opened) -> None:
    page = unfolded(opened())
    for width in (320, 390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        for element in ("documentElement", "body"):
            assert page.evaluate(f"document.{element}.scrollWidth") <= width
    # Wide tables scroll in their own place.
    page.set_viewport_size({"width": 390, "height": 844})
    cells = page.locator("#cells .scroll")
    assert cells.evaluate("it => it.scrollWidth > it.clientWidth")
    cells.focus()
    page.keyboard.press("ArrowRight")
    for _ in range(100):
        if cells.evaluate("it => it.scrollLeft"):
            break
        page.wait_for_timeout(20)
    else:
        pytest.fail("the arrow keys do not scroll the table")


def test_the_first_column_stays_while_a_table_scrolls_sideways(opened: Opened) -> None:
    page = unfolded(opened(viewport={"width": 390, "height": 844}))
    for region in page.locator("#found .scroll, #cells .scroll").all():
        first = region.locator("tbody tr:not(.group) th").first
        before = first.evaluate("it => it.getBoundingClientRect().left")
        assert first.evaluate("it => it.getBoundingClientRect().width") < 200
        assert region.evaluate("it => { it.scrollLeft = 150; return it.scrollLeft; }") == 150
        assert first.evaluate("it => it.getBoundingClientRect().left") == before


@pytest.mark.parametrize("target", ["C4", "C1-1", "equal-table", "records-table", "figure-2"])
def test_a_link_to_what_is_folded_opens_it(opened: Opened, target: str) -> None:
    page = opened()
    element = page.locator(f'[id="{target}"]')
    within = "it => !it.closest('details:not([open])')"
    assert not element.evaluate(within)
    page.evaluate("target => { location.hash = target; }", target)
    page.wait_for_function(f"({within})(document.getElementById('{target}'))")
    page.goto("about:blank")
    page.goto(f"{opened.url}#{target}")
    assert element.evaluate(within), "also where the page is opened by the link"


def test_paper_has_what_matters_and_no_controls(opened: Opened) -> None:
    page = opened()
    page.emulate_media(media="print")
    for shown in (".card .lead", "#found-table", "#found img", "#claims .verdict"):
        assert page.locator(shown).first.is_visible(), shown
    for controls in (".enlarge", ".copy", ".filter", ".controls", "nav"):
        assert page.locator(controls).filter(visible=True).count() == 0, controls
    assert page.locator("details pre.command").filter(visible=True).count() == 0
    unfolded(page)
    commands = page.locator("details pre.command")
    assert commands.filter(visible=True).count() == commands.count() > 0, "what one opens is there"
    assert page.locator("#cells .scroll").evaluate("it => it.scrollHeight - it.clientHeight") <= 1


def test_a_phone_shows_what_was_found_and_a_verdict_first(opened: Opened) -> None:
    page = opened(viewport={"width": 390, "height": 700})
    for first in (".card .lead", ".tally .verdict"):
        bottom = page.locator(first).first.evaluate("it => it.getBoundingClientRect().bottom")
        assert bottom < 700, first


def test_without_javascript_all_is_there(opened: Opened, audited: Audited) -> None:
    page = opened(java_script_enabled=False)
    shown = page.locator(".tally .verdict").all_inner_texts()
    claims = audited.audit.claims
    assert shown == [claim.verdict for claim in claims if claim.verdict != UNTESTED]
    verdicts = page.locator("#claims span.verdict").all_text_contents()
    assert {HOLDS, IN_PART, FAILS, UNDECIDED, UNTESTED} == set(map(kind, verdicts))
    assert page.locator("#cells tbody tr").count() == len(audited.study.cells)
    assert page.locator("button, input").count() == 0
    page.locator("#cells > summary").click()
    assert page.locator("#cells tbody tr").filter(visible=True).count() == len(audited.study.cells)


@pytest.mark.parametrize("name", ["full", "laptop"])
def test_the_page_of_an_embedded_study(name: str, browser: Browser, tmp_path: Path) -> None:
    """Real records, all six figures: in both schemes, on a desk, on a phone and on paper."""
    made = make_kept(name, tmp_path / name, [".svg"])
    opened = Opened(browser, write_page(made).as_uri())
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 390), ("dark", 390)):
        page = opened(color_scheme=scheme, viewport={"width": width, "height": 900})
        images = page.locator("img")
        assert images.count() == 6
        assert words(page) <= 2_500
        verdict = page.locator(".verdict").first.bounding_box()
        assert verdict is not None and verdict["y"] < 2 * 844, "on the first screen or two"
        loaded = images.evaluate_all("all => all.every((it) => it.naturalWidth > 0 && it.alt)")
        assert loaded
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width, (scheme, width)
        if width == 1280:
            assert pages(page) <= 15
    unfolded(page)
    assert page.locator('[aria-labelledby="cells-table"] tbody tr').count() == len(made.study.cells)
    tasks = page.locator('[aria-labelledby="tasks-table"] table')
    head(tasks, "hellaswag").get_by_role("button").click()
    shares = column(tasks, "hellaswag")
    assert len(shares) >= 3 and None not in shares and shares == sorted(shares)
    records = page.locator('a[href^="../records/"]').evaluate_all(
        "all => all.map((it) => it.getAttribute('href'))"
    )
    assert records
    assert all((made.root / "audit" / unquote(href)).is_file() for href in set(records))
    assert set(opened.requests) == {opened.url} and not opened.complaints
    for context in browser.contexts:
        context.close()
