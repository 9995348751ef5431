"""How figures look, and how they get into a page.

What they show is told apart by line style, marker and hatching, so that they can be printed in
black and white.
"""

import io
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tasks.output.record import PICTURES

_STYLE: dict[str, Any] = {  # Any: matplotlib settings
    "svg.hashsalt": "toolformer",  # the same ids in every process
    "svg.fonttype": "none",  # text stays text: searchable, and small
    "text.parse_math": False,  # a tool's name may hold a dollar sign
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "hatch.linewidth": 0.7,
}
INK, SHADE, PALE = "#1a1a1a", "#a9c4da", "#e4e4e4"
LINES = ("-", "--", ":", "-.")
MARKERS = ("o", "s", "^", "D", "v", "P")


@contextmanager
def style() -> Iterator[None]:
    """Within it, figures are drawn and written in this style."""
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # stubs know the keys one by one
        yield


def new_axes(height: float, title: str) -> tuple[Figure, Axes]:
    """A figure of one chart; its height in inches, the width is that of half a page."""
    figure = Figure(figsize=(4.0, height), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    return figure, axes


def inline_svg(name: str, figure: Figure) -> Markup:
    """The figure as an inline SVG element, its ids made unique within the page."""
    buffer = io.StringIO()
    with style():
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    prefix = re.sub(r"\W", "-", name)
    for reference in (' id="', "url(#", 'href="#'):
        text = text.replace(reference, f"{reference}{prefix}-")
    # Safe: matplotlib wrote it and escapes every text it draws.
    return Markup(text[text.index("<svg") :])


def save_pictures(drawn: Mapping[str, Figure], root: Path) -> None:
    """Write the figures to ROOT/figures/NAME.png, in place of those of an earlier report."""
    shutil.rmtree(root / PICTURES, ignore_errors=True)
    (root / PICTURES).mkdir(parents=True)
    for name, figure in drawn.items():
        figure.savefig(root / PICTURES / f"{name}.png")


def interval_line(
    axes: Axes,
    xs: Sequence[float],
    points: Sequence[tuple[float, float, float]],
    *,
    number: int,
    label: str,
) -> None:
    """Draw a line through points (value, low, high) with their intervals, in one of the styles."""
    values = [value for value, _, _ in points]
    axes.errorbar(
        xs,
        values,
        yerr=whiskers(points),
        linestyle=LINES[number % len(LINES)],
        marker=MARKERS[number % len(MARKERS)],
        color=INK,
        markerfacecolor="white" if number % 2 else INK,
        markersize=5,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=2.5,
        label=label,
    )


def whiskers(points: Sequence[tuple[float, float, float]]) -> list[list[float]]:
    """Lengths of the error bars of (value, low, high): downwards, then upwards."""
    # A value may lie outside its interval, by rounding or where few items were resampled.
    return [
        [max(0.0, value - low) for value, low, _ in points],
        [max(0.0, high - value) for value, _, high in points],
    ]
