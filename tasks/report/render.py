"""The HTML templates of the reports, and how they write numbers.

A page loads nothing (its own security policy forbids it), holds no clock, and escapes every text.
"""

from pathlib import Path
from typing import Any

import jinja2


def render(name: str, context: dict[str, Any]) -> str:  # Any: what the template asks for
    """The text of a template of the folder templates."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": _number,
        "signed": _signed,
        "share": _share,
        "percent": _percent,
        "p_value": _p_value,
        "grouped": _grouped,
    }
    return environment.get_template(name).render(context)


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.0f}%"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"


def _p_value(value: float | None) -> str:
    return "-" if value is None else f"{value:.2g}"


def _grouped(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
