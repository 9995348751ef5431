"""What a test asks of an HTML page."""

import re
from html.parser import HTMLParser


class Elements(HTMLParser):
    """Names of all elements, the values of all attributes, and whether tags are balanced."""

    VOID = ("meta", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Open an element."""
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element that is closed at once."""
        self.names.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        """Close the element that was opened last."""
        assert self.open.pop() == tag


def check_safe(text: str) -> None:
    """The page is well formed, loads nothing, runs nothing, and no id occurs twice."""
    elements = Elements(text)
    assert elements.open == []
    assert not {"script", "link", "img", "iframe", "object"} & set(elements.names)
    loading = {"src", "href", "xlink:href", "srcset", "data", "action"}
    assert all(value.startswith("#") for name, value in elements.attributes if name in loading)
    assert not any(name.startswith("on") for name, _ in elements.attributes)
    ids = [value for name, value in elements.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def table_rows(text: str) -> list[str]:
    """Text of every table row, cells parted by one space."""
    rows = re.findall(r"<tr.*?</tr>", text, flags=re.DOTALL)
    return [" ".join(re.sub(r"<[^>]+>", " ", row).split()) for row in rows]
