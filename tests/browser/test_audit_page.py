"""The audit's pages in a real browser, headless Chromium, as an auditor would use them."""

import re
import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
from playwright.sync_api import Browser, sync_playwright

from audits_for_tests import make_audited, write_pages
from freelunch.audit.verdicts import FAILS, HOLDS, IN_PART, UNDECIDED, UNTESTED, kind
from repository import ROOT

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="there is no browser: apt-get install --no-install-recommends chromium"
)
# None of these may reach for the network, so that a request is the page's own.
ARGUMENTS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
]
CELLS = "[aria-labelledby=cells-table]"
PHONE = {"width": 390, "height": 844}
FIRST, SECOND = "index.html", "evidence.html"
on_the_first = pytest.mark.parametrize("opened", [FIRST], indirect=True)
on_the_second = pytest.mark.parametrize("opened", [SECOND], indirect=True)
on_both = pytest.mark.parametrize("opened", [FIRST, SECOND], indirect=True)


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
    made = make_audited(tmp_path_factory.mktemp("results") / "laptop")
    write_pages(made)
    return made


@pytest.fixture(scope="module")
def browser():
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

    def __call__(self, **settings):
        settings = {"viewport": {"width": 1280, "height": 900}} | settings
        context = self.browser.new_context(**settings)
        context.set_default_timeout(15_000)
        context.on("request", lambda request: self.requests.append(request.url))
        page = context.new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.url)
        return page

    def close(self):
        """End with no complaint, and no request but for the page itself."""
        for context in self.browser.contexts:
            context.close()
        assert self.complaints == []
        # The figures are in the page.
        assert {url for url in self.requests if not url.startswith("data:")} == {self.url}


@pytest.fixture
def opened(browser, audited, request):
    opened = Opened(browser, (audited.root / "audit" / request.param).as_uri())
    yield opened
    opened.close()


def unfolded(page):
    """Open all that is folded."""
    page.evaluate("document.querySelectorAll('details').forEach((it) => { it.open = true; })")
    return page


def seen(locator):
    return locator.filter(visible=True).count()


def column(table, title):
    """Return what the rows of a table are sorted by in a column, from top to bottom."""
    at = table.locator("thead th").all_text_contents().index(title)
    fields = table.locator("tbody").first.locator(f"tr > :nth-child({at + 1})")
    values = fields.evaluate_all("all => all.map((it) => it.dataset.value)")
    return [float(value) if value else None for value in values]


def button(table, title):
    return table.locator("thead button").filter(has_text=re.compile(f"^{re.escape(title)}$"))


# --- Sorting and filtering


@on_the_second
def test_numbers_are_sorted_with_empty_ones_last(opened):
    """By mouse and by keyboard."""
    page = unfolded(opened())
    cells, title = page.locator(f"{CELLS} table"), "Loss \N{MINUS SIGN} dense"
    before = column(cells, title)
    known = sorted(value for value in before if value is not None)
    empty = [None] * (len(before) - len(known))
    assert empty and before != known + empty
    button(cells, title).click()
    assert column(cells, title) == known + empty
    assert cells.locator("[aria-sort=ascending]").text_content() == title
    button(cells, title).click()
    assert column(cells, title) == known[::-1] + empty
    assert cells.locator("[aria-sort=descending]").text_content() == title
    # By another column, and this one is no longer said to be sorted by.
    button(cells, "Perplexity").click()
    assert cells.locator("[aria-sort]").all_text_contents() == ["Perplexity"]
    perplexities = column(cells, "Perplexity")
    assert perplexities == sorted(perplexities)
    costs = page.locator("#costs table")
    button(costs, "Wall time").focus()
    for key, reverse in (("Enter", False), ("Space", True)):
        page.keyboard.press(key)
        times = column(costs, "Wall time")
        assert times == sorted(times, reverse=reverse)
    assert costs.locator("tfoot th").inner_text() == "all steps"


@on_the_second
def test_a_filter_hides_cells_in_all_tables_alike(opened, audited):
    page = opened()
    rows = page.locator(f"{CELLS} tbody tr")
    total = len(audited.study.cells)
    # One field is above the ranking, and one above the table of cells.
    field, other = (page.locator(f"{place} input[type=search]") for place in ("#found", "#cells"))
    unfolded(page)
    assert page.locator("#found output").inner_text() == f"{total} of {total} rows"
    found = page.locator("#found tr[data-records]")
    all_found = seen(found)
    assert all_found > 4
    field.fill("WANDA  recon_5")
    names = map(str, audited.study.cells)
    expected = [name for name in names if "wanda" in name and "recon_5" in name]
    assert seen(rows) == len(expected) > 0
    assert other.input_value() == "WANDA  recon_5"
    for count in page.locator("#found output, #cells output").all():
        assert count.inner_text() == f"{len(expected)} of {total} rows"
    assert seen(found) == seen(page.locator("#found tr.group")) == 1
    other.fill("nothing of the kind")
    assert page.locator("#found output").inner_text() == f"0 of {total} rows"
    assert seen(found) == 0
    page.emulate_media(media="print")
    assert seen(found) == all_found, "paper has all"
    page.emulate_media(media="screen")
    field.fill("")
    assert (seen(rows), seen(found)) == (total, all_found)


# --- Figures, links, commands


@on_the_first
def test_figures_have_loaded_say_what_is_seen_and_enlarge(opened):
    """Focus returns to where it was."""
    page = unfolded(opened())
    images = page.locator("img").all()
    assert len(images) == 3
    for image in images:
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") > 100
        assert len(image.get_attribute("alt") or "") > 40
    enlarge = page.get_by_role("button", name="Enlarge figure 2")
    dialog = page.get_by_role("dialog", name="Figure 2")
    enlarge.focus()
    page.keyboard.press("Enter")
    assert dialog.is_visible()
    assert dialog.locator("img").bounding_box()["width"] > 800  # type: ignore[index]
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert enlarge.evaluate("button => button === document.activeElement")
    page.locator("#figure-2 img").click()
    dialog.get_by_role("button", name="Close").click()
    assert not dialog.is_visible()
    assert enlarge.evaluate("button => button === document.activeElement")


@on_both
def test_every_link_leads_somewhere(opened):
    page = opened()
    links = page.locator("[href]").evaluate_all("all => all.map((it) => it.getAttribute('href'))")
    assert len(links) > 20
    for link in links:
        url, fragment = urldefrag(urljoin(opened.url, link))
        if link == "data:,":
            continue
        target = Path(unquote(urlparse(url).path))
        assert target.is_file(), link
        if fragment:
            assert target.read_text().count(f' id="{fragment}"') == 1, link


@on_the_second
def test_the_evidence_of_a_number_unfolds_stays_with_it_and_has_a_command_to_copy(opened):
    page = opened(permissions=["clipboard-read", "clipboard-write"])
    page.locator("#C1 > summary").click()
    table = page.locator("#C1 table").first
    evidence = table.locator("details").first
    assert not evidence.locator("pre").is_visible()
    widths = "table => [...table.tHead.rows[0].cells].map((cell) => cell.offsetWidth)"
    folded = table.evaluate(widths)
    evidence.locator("summary").click()
    assert table.evaluate(widths) == folded, "columns stay where they are"
    command = evidence.locator("pre").inner_text()
    assert "--forcerun evaluate_cell" in command
    evidence.get_by_role("button", name="Copy").click()
    evidence.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == command
    orders = set()
    for _ in ("ascending", "descending"):
        button(table, "Number (95 % interval)").click()
        subjects = table.locator("tbody th").all_inner_texts()
        links = [row.locator("a").first.text_content() for row in table.locator("tr.more").all()]
        assert len(subjects) > 1
        for subject, link in zip(subjects, links, strict=True):
            model, criterion, pattern, _ = subject.split(", ")
            assert link and link.startswith(f"{model}/{criterion}-{pattern}/")
        orders.add(tuple(subjects))
    assert len(orders) == 2, "both directions"


# --- For everybody


@on_both
def test_headings_landmarks_and_tables(opened):
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


@on_both
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_has_contrast(opened, scheme):
    page = opened(color_scheme=scheme)
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(255, 255, 255)") == (scheme == "light")
    unfolded(page)
    page.get_by_role("button", name="Enlarge figure").first.click()
    found = page.evaluate(CONTRASTS)
    assert {HOLDS, IN_PART, FAILS, UNTESTED, "Close"} <= {kind(text) for *_, text in found}
    assert {"A", "BUTTON", "TD", "TH", "CODE", "SUMMARY"} <= {tag for _, tag, _ in found}
    assert min(found)[0] >= 4.5, min(found)


@on_both
def test_wide_tables_scroll_in_their_own_place_and_the_page_never_sideways(opened):
    """Their first column stays."""
    page = unfolded(opened(viewport=PHONE))
    for width in (320, 390, 768, 1280):
        page.set_viewport_size({"width": width, "height": 844})
        for element in ("documentElement", "body"):
            assert page.evaluate(f"document.{element}.scrollWidth") <= width
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    for region in page.locator(f"#found .scroll, {CELLS}").all():
        first = region.locator("tbody tr:not(.group) th").first
        before = first.evaluate("it => it.getBoundingClientRect().left")
        assert first.evaluate("it => it.getBoundingClientRect().width") < 200
        assert region.evaluate("it => { it.scrollLeft = 150; return it.scrollLeft; }") == 150
        assert first.evaluate("it => it.getBoundingClientRect().left") == before


@on_the_first
def test_a_phone_shows_the_findings_and_the_headline_figure_on_one_screen(opened):
    """Each finding in a few words, which unfold."""
    page = opened(viewport=PHONE)
    image = page.locator("#figure-1 img")
    image.evaluate("image => image.decode()")
    for last in (page.locator(".finding summary").last, image):
        assert last.evaluate("it => it.getBoundingClientRect().bottom") <= PHONE["height"]
    finding = page.locator(".finding").first
    assert not finding.locator("p").is_visible()
    finding.locator("summary").click()
    assert finding.locator("p").is_visible()


@on_the_second
@pytest.mark.parametrize("target", ["C1-1", "costs-table", "records-table"])
def test_a_link_to_what_is_folded_opens_it(opened, target):
    page = opened()
    element = page.locator(f'[id="{target}"]')
    within = "it => !it.closest('details:not([open])')"
    assert not element.evaluate(within)
    page.evaluate("target => { location.hash = target; }", target)
    page.wait_for_function(f"({within})(document.getElementById('{target}'))")
    page.goto("about:blank")
    page.goto(f"{opened.url}#{target}")
    assert element.evaluate(within), "also where the page is opened by the link"


@on_the_first
def test_paper_has_what_matters_and_no_controls(opened):
    page = opened()
    page.emulate_media(media="print")
    for shown in (".finding p", "#figure-1 img", "#glance", "#claims .verdict"):
        assert page.locator(shown).first.is_visible(), shown
    for controls in (".enlarge", "nav"):
        assert seen(page.locator(controls)) == 0, controls


@on_the_second
def test_paper_has_the_evidence_that_one_opens(opened):
    page = opened()
    page.emulate_media(media="print")
    assert page.locator("#found-table").is_visible()
    for controls in (".enlarge", ".copy", ".filter", ".controls", "nav", "details pre.command"):
        assert seen(page.locator(controls)) == 0, controls
    unfolded(page)
    commands = page.locator("details pre.command")
    assert seen(commands) == commands.count() > 0
    assert page.locator(CELLS).evaluate("it => it.scrollHeight - it.clientHeight") <= 1


@on_the_first
def test_without_javascript_the_findings_and_verdicts_are_there(opened, audited):
    page = opened(java_script_enabled=False, viewport=PHONE)
    assert seen(page.locator(".finding p")) == len([it for it in audited.audit.results if it.text])
    claims = [claim.verdict for claim in audited.audit.claims if claim.verdict != UNTESTED]
    assert page.locator(".glance .verdict").all_inner_texts() == [*claims, UNTESTED]


@on_the_second
def test_without_javascript_the_evidence_is_there(opened, audited):
    page = opened(java_script_enabled=False)
    verdicts = page.locator("#claims span.verdict").all_text_contents()
    assert {HOLDS, IN_PART, FAILS, UNDECIDED, UNTESTED} <= set(map(kind, verdicts))
    assert page.locator("button, input").count() == 0
    assert seen(page.locator(f"{CELLS} tbody tr")) == len(audited.study.cells)


def test_a_click_on_a_column_of_the_documentation_sorts_its_table(browser):
    page = browser.new_page()
    page.set_content(
        """<div class="md-typeset"><table><thead><tr><th>name</th><th>tokens</th></tr></thead>
        <tbody>
        <tr><td>b</td><td>8k</td></tr><tr><td>a</td><td>131k</td></tr><tr><td>c</td><td>-</td></tr>
        <tr><td>d</td><td>1,244.0</td></tr></tbody></table></div>"""
    )
    page.add_script_tag(path=ROOT / "docs" / "assets" / "sort.js")

    def names():
        return "".join(page.locator("td:first-child").all_inner_texts())

    page.get_by_text("tokens").click()
    assert names() == "abdc"
    page.get_by_text("tokens").click()
    assert names() == "dbac"
    page.get_by_text("name").click()
    assert names() == "abcd"
    page.close()
