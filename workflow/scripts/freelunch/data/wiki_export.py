"""Read the articles of a wiki from its XML export, as plain text.

The exports and dumps of Wikipedia are in this format:
https://www.mediawiki.org/wiki/Help:Export#Export_format
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, cast
from xml.etree.ElementTree import Element, XMLPullParser

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Wikilink

# Keys of the namespaces of media, files and categories. A link to a page of theirs is no text.
_UNSEEN = ("-2", "6", "14")
# Their English names, which every wiki has besides those of its language.
_ENGLISH = ("Media", "File", "Image", "Category")
# Links of old pages to the same article in another language, such as [[de:Ruhrpott]].
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*")
# What a reader of the text skips.
_LEFT_OUT = ("ref", "references", "table")
# A table that the parser could not read is left over as lines that begin like this.
_ROW = ("|", "! ", "{|")
_BLANK_LINES = re.compile(r"\n{3,}")


class NotAnExport(ValueError):
    """The XML is not an export of a wiki."""


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Yield the text of each article of an export.

    Pages outside of the main namespace and redirects are no articles. If the export holds several
    revisions of a page, its text is that of the last.

    Args:
        lines: The export's lines, without their ends.

    Raises:
        ParseError: This is not XML, or it is cut off.
        NotAnExport: It is other XML.
    """
    parser: XMLPullParser[Element] = XMLPullParser(("start", "end"))
    export: Element | None = None
    unseen = _names(())
    for line in lines:
        parser.feed(line + "\n")
        for event, element in cast("Iterator[tuple[str, Element]]", parser.read_events()):
            tag = _name(element)
            if export is None:
                if tag != "mediawiki":
                    raise NotAnExport(f"the outermost element is <{tag}>, not <mediawiki>")
                export = element
            elif event == "end" and tag == "namespaces":
                unseen = _names(each.text for each in element if each.get("key") in _UNSEEN)
            elif event == "end" and tag == "page":
                if _is_article(element):
                    yield plain_text(_wikitext(element), unseen)
                # An export may be larger than memory.
                export.clear()
    parser.close()


def plain_text(wikitext: str, unseen: frozenset[str]) -> str:
    """Return the text of a page, one paragraph a line.

    Templates, tables, references, formulas and media are left out, so a sentence may have a gap.
    What is left of a link is the text that a reader sees.

    Args:
        wikitext: The page in the wiki's markup.
        unseen: Names of the namespaces to which no link is part of the text, in lower case.
    """
    import mwparserfromhell

    code = mwparserfromhell.parse(wikitext)
    for tag in code.filter_tags(matches=lambda tag: _word(tag.tag) in _LEFT_OUT):
        # A node inside another one goes with it.
        with suppress(ValueError):
            code.remove(tag)
    for link in code.filter_wikilinks(matches=lambda link: _is_unseen(link, unseen)):
        with suppress(ValueError):
            code.remove(link)
    kept = [line.strip() for line in code.strip_code().splitlines()]
    text = "\n".join(line for line in kept if not line.startswith(_ROW))
    return _BLANK_LINES.sub("\n\n", text).strip()


def _is_unseen(link: "Wikilink", unseen: frozenset[str]) -> bool:
    prefix, colon, _ = str(link.title).partition(":")
    is_language = link.text is None and _LANGUAGE.fullmatch(prefix)
    return bool(colon and (_word(prefix) in unseen or is_language))


def _name(element: Element) -> str:
    """Return an element's name without the version of the format, its XML namespace."""
    return element.tag.rpartition("}")[2]


def _names(local: Iterable[str | None]) -> frozenset[str]:
    return frozenset(_word(name) for name in (*_ENGLISH, *local) if name)


def _word(name: object) -> str:
    """Return a name as the wiki compares it."""
    return str(name).replace("_", " ").strip().lower()


def _is_article(page: Element) -> bool:
    return page.findtext("{*}ns", "0") == "0" and page.find("{*}redirect") is None


def _wikitext(page: Element) -> str:
    texts = page.findall("{*}revision/{*}text")
    return (texts[-1].text if texts else None) or ""
