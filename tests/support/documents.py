"""What the documents of this project tell people to type, and the Python that they show."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = ".venv/bin/toolformer"


def documents() -> list[Path]:
    """Every Markdown file of the project but the history of its changes."""
    found = [
        path
        for folder in ("toolformer_core", "tasks", "flows", "deployments")
        for path in (ROOT / folder).rglob("*.md")
    ]
    return sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *found])


def commands(document: Path) -> Iterator[list[str]]:
    """The words behind `toolformer` of every command line in a document.

    A line that ends with a backslash goes on in the next; "..." stands for what is left out.
    """
    text = document.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(rf"^\s*(?:\w+=\S+ )*{re.escape(PROGRAM)} (.*)$", text, re.MULTILINE):
        words = shlex.split(line, comments=True)
        yield [word for word in words if word != "..."]


def links(document: Path) -> list[Path]:
    """The files that a document links to."""
    found = re.findall(r"\]\(([^)#:]+)\)", document.read_text(encoding="utf-8"))
    return [document.parent / target for target in found]


def snippets(document: Path) -> list[str]:
    """Its blocks of Python."""
    return re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.DOTALL)
