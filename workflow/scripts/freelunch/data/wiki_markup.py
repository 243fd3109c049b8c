"""The text that a reader of a wiki's page sees, without MediaWiki's markup."""

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mwparserfromhell.nodes import Node, Tag, Wikilink
    from mwparserfromhell.wikicode import Wikicode

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


def plain_text(wikitext: str, unseen: frozenset[str]) -> str:
    """Return the text of a page, one paragraph a line.

    Templates, tables, references, formulas and media are left out, so a sentence may have a gap.
    What is left of a link is the text that a reader sees.

    Args:
        wikitext: The page in the wiki's markup.
        unseen: Names of the namespaces to which no link is part of the text, as `name_of` writes
            them.
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

    match node:
        case nodes.Text():
            return node.value
        case nodes.HTMLEntity():
            return node.normalize()
        case nodes.Heading():
            return _shown(node.title, unseen)
        case nodes.Wikilink():
            return _seen_of_link(node, unseen)
        case nodes.ExternalLink():
            return _shown(node.title if node.brackets else node.url, unseen)
        case nodes.Tag():
            return _seen_of_tag(node, unseen)
        case _:
            return ""


def _seen_of_link(link: "Wikilink", unseen: frozenset[str]) -> str:
    title = str(link.title).strip()
    prefix, colon, _ = title.partition(":")
    if colon and name_of(prefix) in unseen:
        return ""
    if link.text is not None:
        return _shown(link.text, unseen)
    is_language = colon and _LANGUAGE.fullmatch(prefix)
    # A colon in front makes any link a part of the text.
    return "" if is_language else title.removeprefix(":")


def _seen_of_tag(tag: "Tag", unseen: frozenset[str]) -> str:
    from mwparserfromhell.definitions import is_visible

    name = name_of(tag.tag)
    if name in _LEFT_OUT or not is_visible(name):
        return ""
    return _shown(tag.contents, unseen) + ("\n" if name in _ENDING and not tag.wiki_markup else "")


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
