"""Texts that are made: by the package reasoning-gym, or of our own templates (one_step.py).

Each is a question and its worked answer.
"""

import dataclasses
import importlib.metadata
import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

from toolformer_core.errors import ConfigError
from toolformer_core.fingerprint import fingerprint
from toolformer_core.readers import one_step
from toolformer_core.readers.rows import Row, row_from_fields

REASONING_GYM_SCHEME = "reasoning-gym:"
ONE_STEP_SCHEME = "one-step:"

_SEQUENCE_TYPE = re.compile(r"\b(?:list|tuple|Sequence)\b")
_FINAL_ANSWER_LINE = re.compile(r"\n*####[^\n]*\s*\Z")


@dataclass(frozen=True, slots=True)
class GeneratedSource:
    """A reasoning-gym task with its parameters."""

    task: str
    parameters: Mapping[str, Any]  # Any: number, text or list of these, as the task declares
    items: Any  # Any: reasoning_gym has no types

    def rows(self, max_row_bytes: int) -> Iterator[Row]:
        """One row per generated item."""
        for item_index in range(len(self.items)):
            yield row_from_fields(
                _fields(self.items[item_index]),
                source=f"{REASONING_GYM_SCHEME}{self.task}",
                row_number=item_index + 1,
                max_row_bytes=max_row_bytes,
            )

    def identity(self) -> str:
        """Digest of the task, its parameters and the version of the package."""
        version = importlib.metadata.version("reasoning-gym")
        return fingerprint(self.task, self.parameters, version)


@dataclass(frozen=True, slots=True)
class OneStepSource:
    """Word problems of one step, with their answers."""

    size: int
    seed: int

    def rows(self, max_row_bytes: int) -> Iterator[Row]:
        """One row per problem."""
        problems = itertools.islice(one_step.word_problems("read", self.seed), self.size)
        for row_number, problem in enumerate(problems, start=1):
            yield row_from_fields(
                {"text": f"{problem.question}\n{problem.worked}"},
                source=ONE_STEP_SCHEME,
                row_number=row_number,
                max_row_bytes=max_row_bytes,
            )

    def identity(self) -> str:
        """Digest of what the texts are made from."""
        return fingerprint(ONE_STEP_SCHEME, self.size, self.seed, one_step.VERSION)


def open_one_step(source: str, setting: str = "corpus.sources") -> OneStepSource:
    """The source `one-step:?size=N&seed=S`, which stands in a setting.

    Raises: ConfigError if it is spelled otherwise.
    """
    try:
        values = dict(parse_qsl(source.partition("?")[2], strict_parsing=True))
        size, seed = int(values.pop("size")), int(values.pop("seed", "0"))
        if values or size < 1:
            raise ValueError
    except (KeyError, ValueError) as error:
        raise ConfigError(
            f"{setting}: {source!r}; expected {ONE_STEP_SCHEME}?size=N&seed=S, N at least 1"
        ) from error
    return OneStepSource(size, seed)


def open_generated(source: str, setting: str = "corpus.sources") -> GeneratedSource:
    """The source `reasoning-gym:TASK?size=N&seed=S&other=value`, which stands in a setting.

    Raises: ConfigError if the package is missing, or the task or a parameter is unknown.
    """
    try:
        import reasoning_gym
        from reasoning_gym.factory import DATASETS
    except ImportError as error:
        raise ConfigError(
            f"{setting}: {source!r} needs reasoning-gym; run pip install reasoning-gym"
        ) from error
    task, _, query = source.removeprefix(REASONING_GYM_SCHEME).partition("?")
    if task not in DATASETS:
        raise ConfigError(
            f"{setting}: {source!r}: unknown task {task!r}; known: {', '.join(DATASETS)}"
        )
    try:
        parameters = _parameters(query, DATASETS[task][1])
        items = reasoning_gym.create_dataset(task, **parameters)
    except (TypeError, ValueError, AssertionError) as error:  # what the tasks refuse with
        raise ConfigError(
            f"{setting}: {source!r}: {error}; expected "
            f"{REASONING_GYM_SCHEME}TASK?size=N&seed=S with parameters of that task"
        ) from error
    return GeneratedSource(task, parameters, items)


def _parameters(query: str, config_type: type) -> dict[str, Any]:  # Any: see GeneratedSource
    """Parameters of a task; a sequence is written with commas.

    Raises: ValueError if the query is not name=value pairs.
    """
    # Choice: seed 0 if none is given, because some tasks draw a random one otherwise.
    values: dict[str, Any] = {"seed": 0}
    types = {f.name: str(f.type) for f in dataclasses.fields(config_type)}
    for name, value in parse_qsl(query, strict_parsing=bool(query)):
        is_sequence = _SEQUENCE_TYPE.search(types.get(name, ""))
        values[name] = [_scalar(v) for v in value.split(",")] if is_sequence else _scalar(value)
    return values


def _scalar(text: str) -> bool | int | float | str:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for number_type in (int, float):
        try:
            return number_type(text)
        except ValueError:
            continue
    return text


def _fields(item: Mapping[str, Any]) -> dict[str, object]:  # Any: reasoning_gym has no types
    metadata = item["metadata"]
    # Choice: the worked answer where there is one, without its closing "#### 560": the line only
    # marks the number for graders, and no prose has it.
    answer = _FINAL_ANSWER_LINE.sub("", metadata.get("answer_cot") or item["answer"])
    # Only a question that says so ("If today is ...") has a current day.
    has_today = "today is" in item["question"].lower()
    return {
        "text": f"{item['question']}\n{answer}",
        "date": metadata.get("start_date") if has_today else None,
    }
