"""Wikitext to prose.

Kept: the paragraphs, with the text of links, quotations and a few templates that stand for words
(a measure, a foreign phrase). Left out: references, tables, other templates, pictures and their
captions, categories, headings, list items, and the sections after the article proper. Names of
namespaces and sections are the English ones.
"""

import re
from collections.abc import Iterable, Iterator

import mwparserfromhell
from mwparserfromhell.definitions import is_visible
from mwparserfromhell.nodes import Heading, Node, Tag, Template, Text, Wikilink

_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_REFERENCE = re.compile(r"<ref\b[^>]*?/>|<ref\b[^>]*>.*?</ref\s*>", re.DOTALL | re.IGNORECASE)
_LAST_SECTIONS = frozenset((
    "references", "notes", "footnotes", "notes and references", "citations", "sources",
    "bibliography", "external links", "see also", "further reading",
))  # fmt: skip
_LIST_MARKS = frozenset("*#;:")
_DROPPED_TAGS = frozenset(("center", "div", "gallery", "math", "ref", "references", "table"))
_DROPPED_LINKS = frozenset(("category", "file", "image", "media"))

_UNITS = {
    "mi": "miles", "sqmi": "square miles", "ft": "feet", "in": "inches", "lb": "pounds",
    "km2": "square kilometres", "m2": "square metres", "F": "degrees Fahrenheit",
    "C": "degrees Celsius", "mph": "miles per hour", "km/h": "kilometres per hour",
}  # fmt: skip
_RANGE_WORDS = frozenset(("to", "and", "or", "by"))

# List items, and what is left of tables and pictures that the parser could not make out.
_DROPPED_LINE = re.compile(
    r"^(?:[*#;:|!{}].*|.*\|(?:thumb|left|right|[0-9]+px)\b.*)$", re.MULTILINE
)
_TIDY = (
    (re.compile(r"''+"), ""),
    (re.compile(r"[ \t\u00a0]+"), " "),
    (re.compile(r" ?\((?:[\s;,:]|\bor\b|\band\b)*\)"), ""),
    (re.compile(r"\([\s;,:]+"), "("),
    (re.compile(r"[\s;,:]+\)"), ")"),
    (re.compile(r" +(?=[,.;:)])"), ""),
    (re.compile(r",(?=[,.;])"), ""),
)


def plain_text(wikitext: str) -> str:
    """The prose of an article, its paragraphs separated by blank lines."""
    source = _REFERENCE.sub("", _COMMENT.sub("", wikitext))
    kept = "".join(map(str, _prose_nodes(mwparserfromhell.parse(source).nodes)))
    # Parsed anew: a list item may have swallowed the mark-up of the lines after it.
    prose = mwparserfromhell.parse(_DROPPED_LINE.sub("", kept)).strip_code(collapse=False)
    lines = "\n".join(_tidy(line) for line in prose.split("\n"))
    return re.sub(r"\n{2,}", "\n\n", lines).strip()


def _prose_nodes(nodes: Iterable[Node]) -> Iterator[Node]:
    """The nodes of the article proper, each as it is to be read."""
    for node in _before_last_sections(nodes):
        if isinstance(node, Heading):
            yield Text("\n\n")
        elif isinstance(node, Template):
            yield Text(_template_text(node))
        elif isinstance(node, Tag):
            yield from _prose_of_tag(node)
        elif not (isinstance(node, Wikilink) and _is_dropped_link(node)):
            yield node


def _before_last_sections(nodes: Iterable[Node]) -> Iterator[Node]:
    """The nodes outside the sections of references and the like, subsections included."""
    dropped_level = 0
    for node in nodes:
        if isinstance(node, Heading) and not 0 < dropped_level < node.level:
            is_last = node.title.strip_code().strip().lower() in _LAST_SECTIONS
            dropped_level = node.level if is_last else 0
        if not dropped_level:
            yield node


def _prose_of_tag(tag: Tag) -> Iterator[Node]:
    """What stands within the tag, without the tag; a list mark stays to mark its line."""
    name = str(tag.tag).strip().lower()
    if tag.wiki_markup in _LIST_MARKS:
        yield tag
    elif name == "br":
        yield Text(" ")
    elif tag.contents and name not in _DROPPED_TAGS and is_visible(name):
        yield from _prose_nodes(tag.contents.nodes)


def _is_dropped_link(link: Wikilink) -> bool:
    namespace, colon, _ = str(link.title).strip().partition(":")
    return bool(colon) and namespace.strip().lower() in _DROPPED_LINKS


def _template_text(template: Template) -> str:
    """What a template reads as, for the few that stand for words within a sentence."""
    name = str(template.name).strip().lower()
    values = [p.value.strip_code().strip() for p in template.params if not p.showkey]
    if name in ("convert", "cvt") and len(values) >= 2:
        return _measure(values)
    if name in ("lang", "transl") and len(values) >= 2:
        return values[-1]
    if name in ("nowrap", "nobr", "circa", "c.", "as of") and values:
        opening = {"circa": "c. ", "c.": "c. ", "as of": "As of "}.get(name, "")
        return opening + values[0]
    return ""


def _measure(values: list[str]) -> str:
    """The quantity in the unit the editor wrote: 5 miles, 3 to 5 feet."""
    length = 4 if len(values) >= 4 and values[1] in _RANGE_WORDS else 2
    *quantity, unit = values[:length]
    return " ".join([*quantity, _UNITS.get(unit, unit)])


def _tidy(line: str) -> str:
    """The line without what removed templates and references leave behind."""
    for pattern, replacement in _TIDY:
        line = pattern.sub(replacement, line)
    return line.strip()
