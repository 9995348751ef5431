"""Problems of one step: word problems made from templates, and bare sums.

Word problems are texts for a corpus and items for a benchmark; the two have no template in common,
so that what is measured is not what was read. `read` is said of templates for texts, `asked` of
those for items. Names, things and numbers are drawn by (seed, number) alone.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

VERSION = 1
"""Changes with what a seed gives."""

Side = Literal["read", "asked"]

_NAMES = (
    *("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gita", "Hugo", "Ida", "Jon", "Kim", "Leo"),
    *("Mia", "Noor", "Omar", "Pia", "Quin", "Rosa", "Sam", "Tess", "Uma", "Vera", "Will", "Zoe"),
)
_THINGS = (
    *("apples", "books", "cards", "coins", "cookies", "eggs", "flowers", "marbles", "pencils"),
    *("plums", "shells", "stamps", "stickers", "tickets", "toys", "tomatoes"),
)
_GROUPS = ("bags", "baskets", "boxes", "crates", "jars", "trays")

_TEMPLATES: Mapping[str, Mapping[Side, Sequence[str]]] = {
    "+": {
        "read": (
            "{name} has {a} {things} and {other} has {b} {things}. How many {things} do they have "
            "together?",
            "{name} picked {a} {things} on Monday and {b} {things} on Tuesday. How many {things} "
            "were picked in all?",
            "There were {a} {things} on the table. {name} put {b} more there. How many {things} "
            "are on the table now?",
            "A shop sold {a} {things} in the morning and {b} in the afternoon. How many {things} "
            "did it sell that day?",
        ),
        "asked": (
            "{name} found {a} {things} and then {b} {things} more. How many {things} did {name} "
            "find?",
            "{other} gave {b} {things} to {name}, who had {a} {things} before. How many {things} "
            "does {name} have now?",
            "One shelf holds {a} {things}, the other holds {b}. How many {things} are there "
            "altogether?",
        ),
    },
    "-": {
        "read": (
            "{name} had {a} {things} and gave {b} of them to {other}. How many {things} does "
            "{name} have left?",
            "There were {a} {things} in the box. {name} took out {b}. How many {things} are still "
            "in the box?",
            "{name} has {a} {things} and {other} has {b}. How many more {things} does {name} have "
            "than {other}?",
            "A shop had {a} {things} and sold {b} of them. How many {things} remain?",
        ),
        "asked": (
            "{name} bought {a} {things} and lost {b} of them on the way. How many {things} came "
            "home?",
            "{name} needs {a} {things} and has {b} so far. How many {things} are missing?",
            "Of the {a} {things} that {name} owned, {b} were sold. How many {things} did {name} "
            "keep?",
        ),
    },
    "*": {
        "read": (
            "{name} has {a} {groups} of {b} {things} each. How many {things} does {name} have?",
            "Each of {a} children brings {b} {things}. How many {things} do they bring together?",
            "{name} reads {b} pages a day for {a} days. How many pages does {name} read?",
            "A pencil costs {b} cents. How many cents do {a} pencils cost?",
        ),
        "asked": (
            "There are {a} rows of {b} chairs in the hall. How many chairs are in the hall?",
            "{name} fills {a} {groups} and puts {b} {things} into every one. How many {things} are "
            "needed?",
            "{name} earns {b} dollars an hour and works {a} hours. How many dollars does {name} "
            "earn?",
        ),
    },
    "/": {
        "read": (
            "{name} shares {a} {things} equally among {b} friends. How many {things} does each "
            "friend get?",
            "{name} puts {a} {things} into {groups} of {b} each. How many {groups} are needed?",
            "{b} tickets cost {a} dollars. How many dollars does one ticket cost?",
            "{name} walked {a} miles in {b} days, the same way every day. How many miles did "
            "{name} walk a day?",
        ),
        "asked": (
            "{a} {things} are packed into {b} {groups}, the same number in each. How many {things} "
            "are in each of the {groups}?",
            "{name} has {a} {things} and uses {b} of them every day. For how many days do they "
            "last?",
            "A rope of {a} feet is cut into pieces of {b} feet. How many pieces are there?",
        ),
    },
}
_WORKED: Sequence[str] = (
    "{result}",
    "The answer is {result}.",
    "{a} {operator} {b} = {result}",
    "That makes {result}.",
)
_SUMS: Sequence[str] = ("What is {a} {operator} {b}?", "Work out {a} {operator} {b}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WordProblem:
    """A question, its answer, and a sentence or number that a text would go on with."""

    question: str
    answer: int
    worked: str


def word_problems(side: Side, seed: int) -> Iterator[WordProblem]:
    """Problems without end; the same side and seed give the same ones."""
    operators = list(_TEMPLATES)
    for number in itertools.count():
        rng = random.Random(f"one-step-{side}-{seed}-{number}")
        yield _problem(operators[number % len(operators)], side, rng)


def sums(seed: int) -> Iterator[WordProblem]:
    """Sums, differences and products of numbers of two or three digits, without end."""
    for number in itertools.count():
        rng = random.Random(f"sum-{seed}-{number}")
        operator = "+-*"[number % 3]
        high = 99 if operator == "*" else 999
        b, a = sorted((rng.randint(11, high), rng.randint(11, high)))
        answer = {"+": a + b, "-": a - b, "*": a * b}[operator]
        question = rng.choice(_SUMS).format(a=a, operator=operator, b=b)
        yield WordProblem(question=question, answer=answer, worked=str(answer))


def _problem(operator: str, side: Side, rng: random.Random) -> WordProblem:
    a, b, answer = _NUMBERS[operator](rng)
    name, other = rng.sample(_NAMES, 2)
    words = {
        "name": name,
        "other": other,
        "things": rng.choice(_THINGS),
        "groups": rng.choice(_GROUPS),
    }
    numbers = {"a": a, "b": b, "operator": operator, "result": answer}
    return WordProblem(
        question=rng.choice(_TEMPLATES[operator][side]).format(**words, **numbers),
        answer=answer,
        worked=rng.choice(_WORKED).format(**numbers),
    )


def _sum(rng: random.Random) -> tuple[int, int, int]:
    a, b = rng.randint(3, 99), rng.randint(3, 99)
    return a, b, a + b


def _difference(rng: random.Random) -> tuple[int, int, int]:
    b, answer = rng.randint(2, 60), rng.randint(2, 60)
    return b + answer, b, answer


def _product(rng: random.Random) -> tuple[int, int, int]:
    a, b = rng.randint(3, 19), rng.randint(3, 29)
    return a, b, a * b


def _quotient(rng: random.Random) -> tuple[int, int, int]:
    b, answer = rng.randint(2, 12), rng.randint(2, 25)
    return b * answer, b, answer


_NUMBERS: Mapping[str, Callable[[random.Random], tuple[int, int, int]]] = {
    "+": _sum,
    "-": _difference,
    "*": _product,
    "/": _quotient,
}
