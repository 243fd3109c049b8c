"""Read the articles of a wiki from its XML export, as plain text: what a reader of a page sees.

The exports and dumps of Wikipedia are in this format:
https://www.mediawiki.org/wiki/Help:Export#Export_format
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, cast
from xml.etree.ElementTree import Element, XMLPullParser

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Node
    from mwparserfromhell.wikicode import Wikicode

# Keys of the namespaces of media, files and categories. A link to one of their pages is not part of
# the text.
_UNSEEN_KEYS = ("-2", "6", "14")
# Namespaces of media, files and categories in English, which every wiki has besides its own.
UNSEEN = frozenset(("media", "file", "image", "category"))
# Links of old pages to the same article in another language, such as [[de:Ruhrpott]].
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z]+)*|simple")
# Elements that are left out, besides those that the parser knows to be invisible.
_LEFT_OUT = ("ref", "references", "script", "style", "table")
# Elements that end a line.
_ENDING = ("blockquote", "br", "center", "div", "li", "p")
# Switches of the page, such as __NOTOC__, and brackets that held nothing but templates.
_EMPTY = re.compile(r"__[A-Z]+__| ?(?<=\s)\([\s,;]*\)")
_BLANK_LINES = re.compile(r"\n{3,}")


class NotAnExport(ValueError):
    """The XML is not an export of a wiki, or not one that can be read."""


def articles(lines: Iterable[str]) -> Iterator[str]:
    """Yield the text of each article of an export, given as lines without their ends.

    Redirects, pages outside of the main namespace, and pages that are not in the wiki's markup are
    not articles. Of several revisions of a page, the newest counts. ParseError if this is not XML,
    or it is cut off; NotAnExport if it does not say which pages are articles.
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
                if (name := _name(export)) != "mediawiki":
                    raise NotAnExport(f"the outermost element is <{name}>, not <mediawiki>")
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
    # Of equal revisions, `max` takes the first.
    revisions = reversed(page.findall("{*}revision"))
    newest = max(revisions, key=lambda each: each.findtext("{*}timestamp", ""), default=page)
    is_wikitext = newest.findtext("{*}model", "wikitext") == "wikitext"
    return (newest.findtext("{*}text") or "") if is_wikitext else ""


def plain_text(wikitext: str, unseen: frozenset[str]) -> str:
    """Return the text of a page in the wiki's markup, one paragraph a line.

    Templates, tables, references, formulas and media are left out, so a sentence may have a gap.
    What is left of a link is the text that a reader sees; none is left of links to the namespaces
    in `unseen`, written as by `name_of`.
    """
    import mwparserfromhell

    shown = _EMPTY.sub("", _shown(mwparserfromhell.parse(wikitext), unseen))
    text = "\n".join(_without_tables(line.strip() for line in shown.splitlines()))
    # A reference to half a character, such as &#xD800;, is none.
    text = text.encode("utf-8", "replace").decode("utf-8")
    return _BLANK_LINES.sub("\n\n", text).strip()


def name_of(written: object) -> str:
    """Return a name as the wiki compares it."""
    return str(written).replace("_", " ").strip().lower()


def _shown(code: "Wikicode | None", unseen: frozenset[str]) -> str:
    return "" if code is None else "".join(_seen_of(node, unseen) for node in code.nodes)


def _seen_of(node: "Node", unseen: frozenset[str]) -> str:
    """Return what a reader sees of a node. Of templates and comments, that is nothing."""
    from mwparserfromhell import nodes
    from mwparserfromhell.definitions import is_visible

    match node:
        case nodes.Text():
            return node.value
        case nodes.HTMLEntity():
            return node.normalize()
        case nodes.Heading():
            return _shown(node.title, unseen)
        case nodes.ExternalLink():
            return _shown(node.title if node.brackets else node.url, unseen)
        case nodes.Wikilink():
            title = str(node.title).strip()
            prefix, colon, _ = title.partition(":")
            if colon and name_of(prefix) in unseen:
                return ""
            if node.text is not None:
                return _shown(node.text, unseen)
            is_language = colon and _LANGUAGE.fullmatch(prefix)
            # A colon in front makes any link a part of the text.
            return "" if is_language else title.removeprefix(":")
        case nodes.Tag():
            name = name_of(node.tag)
            if name in _LEFT_OUT or not is_visible(name):
                return ""
            ends_line = name in _ENDING and not node.wiki_markup
            return _shown(node.contents, unseen) + ("\n" if ends_line else "")
        case _:
            return ""


def _without_tables(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines that belong to no table. The parser leaves a table that it cannot read."""
    is_inside = False
    for line in lines:
        if line.startswith(("{|", "|-", "|+", "|}")):
            is_inside = True
        elif line and not line.startswith(("|", "!")):
            is_inside = False
        if not is_inside:
            yield line
