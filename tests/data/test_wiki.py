"""Articles of a wiki's XML export, as plain text."""

import bz2
import tracemalloc
from itertools import chain
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from freelunch.core.artifact import Artifact
from freelunch.core.digest import file_digest
from freelunch.data import wiki
from freelunch.data.documents import read_documents
from freelunch.data.inspect_text import inspect_text
from freelunch.data.texts import fetch_text
from freelunch.data.wiki import UNSEEN, articles, plain_text
from freelunch.study.sources import read_text
from refusals import refused

NAMESPACES = """<siteinfo><sitename>Wikipedia</sitename><namespaces>
<namespace key="-2" case="first-letter">Medium</namespace>
<namespace key="0" case="first-letter" />
<namespace key="6" case="first-letter">Datei</namespace>
<namespace key="14" case="first-letter">Kategorie</namespace>
</namespaces></siteinfo>"""


def page(
    *revisions: str, space: int = 0, more: str = "", model: str = "wikitext", first: int = 2015
) -> str:
    """Return the XML of a page, whose second revision is of 2016."""
    texts = "".join(
        f"<revision><timestamp>{year}-01-01T00:00:00Z</timestamp><model>{model}</model>"
        f"<text>{escape(text)}</text></revision>"
        for text, year in zip(revisions, (first, 2016), strict=False)
    )
    return f"<page><title>A</title><ns>{space}</ns><id>1</id>{more}{texts}</page>"


def export(*pages: str) -> str:
    """Return an export with these pages."""
    version = 'xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="de"'
    return "\n".join([f"<mediawiki {version}>", NAMESPACES, *pages, "</mediawiki>"])


def fetch(folder: Path, content: bytes, name: str = "wiki.xml") -> Artifact:
    """Write an export to a file and fetch it as a text."""
    path = folder / name
    path.write_bytes(content)
    entry = {"source": "path", "path": str(path), "format": "mediawiki"}
    return fetch_text("tiny", read_text(entry), folder / "resources" / "tiny", file_digest(path))


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("'''Bold''' and ''italic'' &amp; caf&eacute;.", "Bold and italic & café."),
        ("A [[link]], a [[link|name]] and [http://a.org a site].", "A link, a name and a site."),
        ("One.<ref>{{cite|a=b}} See [[c]].</ref> Two.<ref name=d />", "One. Two."),
        ("One.{{infobox|a=\n{{b}}}} Two.<!-- Three. -->", "One. Two."),
        ("== Title ==\nOne.\n\n\n\nTwo.\n=== Part ===\n", "Title\nOne.\n\nTwo.\nPart"),
        ("[[File:a.png|thumb|A [[caption]].]]One.[[Image:b.png]]", "One."),
        ("[[Datei:a.png|mini|A [[caption]].]]One.[[kategorie: b|c]]", "One."),
        ("One. [[Category:b]]\n[[de:Ruhrpott]]\n[[zh-min-nan:b]]", "One."),
        ("[[:Category:b|B]], [[wikt:c|word]], [[Alien: Covenant]].", "B, word, Alien: Covenant."),
        (
            "[[:Category:b]], [[:de:Ruhrpott]], [[File talk]].",
            "Category:b, de:Ruhrpott, File talk.",
        ),
        (
            "One<br />Two<p>Three.</p><p>Four.</p>Five<small>teen</small>.",
            "One\nTwoThree.\nFour.\nFiveteen.",
        ),
        ("One.\n{| class=a\n|-\n! b\n| c [[d]]\n|}\nTwo.", "One.\n\nTwo."),
        # The parser gives up on a table that never ends, but not all such lines are of a table.
        ("One.\n{| class=a\n|-\n! b\n| c\nTwo.", "One.\nTwo."),
        (
            "|x| is a norm.\n* ! Kung people\n<pre>a\n|b</pre>",
            "|x| is a norm.\n! Kung people\na\n|b",
        ),
        (
            "__NOTOC__One ({{a}}; {{b}}) is ( {{c}} ) f() of <style>.a {}</style>two.",
            "One is f() of two.",
        ),
        ("Half a character&#xD800; &#x1D11E;", "Half a character? 𝄞"),
        ("{{{name|default}}}One{{{name}}}.", "One."),
        ("* one\n* two\n# three\n: four", "one\ntwo\nthree\nfour"),
        ("<math>a^2</math>One<gallery>\na.png|b\n</gallery>.", "One."),
        ("<nowiki>[[one]]</nowiki>", "[[one]]"),
        ("", ""),
    ],
)
def test_what_a_reader_sees_of_a_page(markup: str, text: str) -> None:
    assert plain_text(markup, UNSEEN | {"datei", "kategorie"}) == text


def test_articles_are_documents_in_their_order(tmp_path: Path) -> None:
    pages = [
        page("One\n[[Datei:a.png|mini|b]]is '''first'''."),
        page("#REDIRECT [[One]]", more='<redirect title="One" />'),
        page("What do you think of it?", space=1),
        page("An older one.", "Two & <b>three</b>.\r\n\r\nEnd."),
        page(""),
        page('{"a": 1}', model="json"),
        # Some exports begin with the newest revision.
        page("Three.", "An older one.", first=2020),
        "<page><title>Deleted</title><ns>0</ns></page>",
    ]
    expected = ["One\nis first.", "Two & three.\n\nEnd.", "Three."]
    content = export(*pages).encode()
    assert read_documents(fetch(tmp_path, content).folder) == expected
    # Wikipedia's dumps are several bzip2 streams, one after the other.
    packed = bz2.compress(content[:200]) + bz2.compress(content[200:])
    assert read_documents(fetch(tmp_path, packed, "wiki.xml.bz2").folder) == expected


def test_an_export_may_be_larger_than_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wiki, "plain_text", lambda text, unseen: text[:9])
    pages = (page(f"{number:08} " + "One. " * 2000) for number in range(300))
    first, last = export("|").split("|")

    tracemalloc.start()
    try:
        assert sum(1 for _ in articles(chain([first], pages, [last]))) == 300
        assert tracemalloc.get_traced_memory()[1] < 1_000_000, "pages were kept"
    finally:
        tracemalloc.stop()


def test_no_article_is_held_back() -> None:
    """From version 2.6 on, expat reads on only after so many characters if a tag or a comment is
    unfinished at the end of a line. The Python that runs this may have an earlier one.
    """
    comment = "<!-- a comment of\n" + "x " * 500 + " -->"
    lines = export(page("One."), comment, page("Two."), page("Three.")).splitlines()
    assert list(articles(lines)) == ["One.", "Two.", "Three."]


@pytest.mark.parametrize(
    ("content", "where", "found"),
    [
        (export(page("One.")).encode()[:-12], "", "no element found"),
        (export(page("One.").replace("</ns>", "")).encode(), ", line 8", "mismatched tag"),
        (b"One.\n", ", line 1", "syntax error"),
        (b"<html>\n</html>\n", ", line 1", "<html>, not <mediawiki>"),
        (b"", "", "no element found"),
        (export(page("One.").replace("<ns>0</ns>", "")).encode(), ", line 8", "no <ns>"),
        (export(page("A", space=1)).encode(), "", None),
    ],
)
def test_says_what_is_wrong_with_an_export(
    content: bytes, where: str, found: str | None, tmp_path: Path
) -> None:
    with refused(where=f"texts.tiny: wiki.xml{where}", found=found):
        fetch(tmp_path, content)
    assert not list((tmp_path / "resources").rglob("documents*"))


@pytest.mark.parametrize(
    "before", ["", "\n", '<?xml version="1.0" encoding="UTF-8"?>\n', "<!-- a\ndump -->\n"]
)
def test_an_export_is_known_by_its_beginning(before: str, tmp_path: Path) -> None:
    path = tmp_path / "dump.xml.bz2"
    path.write_bytes(bz2.compress((before + export(page("One."), page("Two."))).encode()))
    seen = inspect_text([path], "the text")
    assert (seen.format, seen.documents, seen.complete) == ("mediawiki", ["One.", "Two."], True)
