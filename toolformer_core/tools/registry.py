"""The built-in tools by name.

Leaves out the paper's QA and MT: no model that we can ship answers or translates well enough.
"""

import datetime
from collections.abc import Callable, Iterable
from pathlib import Path

from toolformer_core.errors import ConfigError
from toolformer_core.tools.base import Tool
from toolformer_core.tools.calculator import Calculator
from toolformer_core.tools.calendar import Calendar
from toolformer_core.tools.wiki_search import WikiSearch

TOOL_CLASSES = (Calculator, Calendar, WikiSearch)
TOOL_NAMES = tuple(tool.name for tool in TOOL_CLASSES)


def check_tool_names(names: Iterable[str]) -> None:
    """Nothing, if all names are known.

    Raises: ConfigError naming the first unknown one and the known ones.
    """
    for name in names:
        if name not in TOOL_NAMES:
            raise ConfigError(f"unknown tool {name!r}; known tools: {', '.join(TOOL_NAMES)}")


def build_tool(
    name: str,
    *,
    index_folder: Path | None,
    max_snippet_chars: int = 200,
    today: Callable[[], datetime.date] | None = None,
) -> Tool:
    """The tool of that name; `today` is None for annotation, a clock for inference.

    Raises: ConfigError for an unknown name, or WikiSearch without an index.
    """
    check_tool_names([name])
    if name == "Calculator":
        return Calculator()
    if name == "Calendar":
        return Calendar(clock=today)
    if index_folder is None:
        raise ConfigError("WikiSearch needs the folder of a search index; build it first")
    return WikiSearch(index_folder, max_snippet_chars)
