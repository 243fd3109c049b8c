"""Read the articles of a wiki from its XML export, as plain text.

The exports and dumps of Wikipedia are in this format:
https://www.mediawiki.org/wiki/Help:Export#Export_format
"""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import cast
from xml.etree.ElementTree import Element, XMLPullParser

from freelunch.data.wiki_markup import UNSEEN, name_of, plain_text

# Keys of the namespaces of media, files and categories. A link to one of their pages is not part of
# the text.
_UNSEEN_KEYS = ("-2", "6", "14")


class NotAnExport(ValueError):
    """The XML is not an export of a wiki, or not one that can be read."""


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Yield the text of each article of an export.

    Redirects, pages outside of the main namespace, and pages that are not in the wiki's markup are
    not articles. If the export holds several revisions of a page, its text is that of the newest.

    Args:
        lines: The export's lines, without their ends.

    Raises:
        ParseError: This is not XML, or it is cut off.
        NotAnExport: It is other XML, or an export that does not say which pages are articles.
    """
    unseen = UNSEEN
    for element in _finished(lines):
        if _name(element) == "namespaces":
            local = [each.text for each in element if each.get("key") in _UNSEEN_KEYS]
            unseen = UNSEEN.union(name_of(name) for name in local if name)
        elif _name(element) == "page" and _is_article(element):
            yield plain_text(_wikitext(element), unseen)


def _finished(lines: Iterable[str]) -> Iterator[Element]:
    """Yield each element of an export once it has been read. A page is forgotten after that."""
    parser: XMLPullParser[Element] = XMLPullParser(("start", "end"))
    export: Element | None = None
    for line in chain(lines, [None]):
        if line is None:
            # Some versions of the parser hold back what they have read until the end.
            parser.close()
        else:
            parser.feed(line + "\n")
        for event, element in cast("Iterator[tuple[str, Element]]", parser.read_events()):
            if export is None:
                export = element
                if _name(export) != "mediawiki":
                    found = f"the outermost element is <{_name(export)}>, not <mediawiki>"
                    raise NotAnExport(found)
            if event == "end":
                yield element
                if _name(element) == "page":
                    # An export may be larger than memory.
                    export.clear()


def _name(element: Element) -> str:
    """Return an element's name without the version of the format, its XML namespace."""
    return element.tag.rpartition("}")[2]


def _is_article(page: Element) -> bool:
    space = page.findtext("{*}ns")
    if space is None:
        raise NotAnExport("a page has no <ns>: the export is older than version 0.6 of the format")
    return space == "0" and page.find("{*}redirect") is None


def _wikitext(page: Element) -> str:
    newest = max(
        # Of equal ones, `max` takes the first.
        reversed(page.findall("{*}revision")),
        key=lambda revision: revision.findtext("{*}timestamp", ""),
        default=page,
    )
    is_wikitext = newest.findtext("{*}model", "wikitext") == "wikitext"
    return (newest.findtext("{*}text") or "") if is_wikitext else ""
