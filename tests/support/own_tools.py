"""Functions that a user could bring as tools."""

from typing import Literal

from toolformer_core.errors import ToolInputRejected
from toolformer_core.tools.base import CallContext

_KM_PER_MILE = 1.609344


def convert(amount: float, source: Literal["km", "mi"], to: Literal["km", "mi"] = "mi") -> str:
    """Converts a length between kilometres and miles.

    What stands below the first paragraph is not for the model.
    """
    if amount < 0:
        raise ToolInputRejected(f"a length of {amount:g}")
    kilometres = amount if source == "km" else amount * _KM_PER_MILE
    return f"{kilometres if to == 'km' else kilometres / _KM_PER_MILE:.1f}"


def days_old(day: int, context: CallContext) -> int | None:
    """Tells how many days before the document's own day of the month a day is."""
    return int(context.date[-2:]) - day if context.date else None


def untyped(a):
    """Has no types."""


def undescribed(a: int) -> int:
    return a


def starred(*a: int) -> int:
    """Takes any number of arguments."""
    return sum(a)


def anything(kind: str) -> object:
    """Returns what it is asked for."""
    return {"list": [1, "a"], "none": None, "float": 0.5, "bytes": b"\x00", "nan": [float("nan")]}[
        kind
    ]


async def later(a: int) -> int:
    """Answers later."""
    return a


class Opaque:
    """What no argument can be read as."""


def opaque(a: Opaque) -> str:
    """Takes what cannot be written."""
    return str(a)
