"""A record of everything that tools answered in a run, and tools that answer from it.

A data set can be rebuilt from it when a tool has changed or died: with the same settings every
stage computes the same bytes, though no tool is there. One Parquet file, one row per distinct call;
the descriptions of the tools lie in its metadata, as JSON.
"""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from toolformer_core.calling.caller import CallAnswer
from toolformer_core.errors import ConfigError
from toolformer_core.records import Outcome
from toolformer_core.shards import arrow_schema
from toolformer_core.storage import temporary_path
from toolformer_core.tools.base import CallContext, Rules, visible_context
from toolformer_core.tools.described import ToolDescription
from toolformer_core.tools.isolation import Calls

_FORMAT = b"toolformer.cassette"


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedCall:
    """One call, the document it stands in, and how it ended."""

    tool: str
    tool_version: str
    argument: str
    document_id: str
    url: str | None
    date: str | None
    outcome: Outcome
    reason: str
    result: str
    latency_seconds: float

    @property
    def context(self) -> CallContext:
        """What the call knew of its document."""
        return CallContext(document_id=self.document_id, url=self.url, date=self.date)

    @property
    def answer(self) -> CallAnswer:
        """How the call ended."""
        return CallAnswer(self.outcome, self.reason, self.result, self.latency_seconds)


def write_cassette(
    calls: Iterable[RecordedCall], tools: Sequence[ToolDescription], path: Path
) -> int:
    """Write the distinct calls in a fixed order; their number."""
    rows = {(call.tool, call.argument, call.document_id): call for call in calls}
    about = json.dumps([dataclasses.asdict(tool) for tool in tools], sort_keys=True)
    schema = arrow_schema(RecordedCall).with_metadata({_FORMAT: about.encode()})
    content = [dataclasses.asdict(rows[key]) for key in sorted(rows)]
    unfinished = temporary_path(path)
    pq.write_table(pa.Table.from_pylist(content, schema=schema), unfinished, compression="zstd")
    unfinished.replace(path)
    return len(content)


def read_descriptions(path: Path) -> dict[str, ToolDescription]:
    """The recorded tools by name.

    Raises: ConfigError if the file is no cassette.
    """
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigError(f"--replay {path}: cannot be read ({error})") from error
    if _FORMAT not in metadata:
        raise ConfigError(f"--replay {path} is no cassette; expected the cassette.parquet of a run")
    found = [
        ToolDescription(**{**about, "context_fields": tuple(about["context_fields"])})
        for about in json.loads(metadata[_FORMAT])
    ]
    return {tool.name: tool for tool in found}


class RecordedTool:
    """A tool as it was described; it cannot be called, only replayed."""

    def __init__(self, about: ToolDescription, rules: Rules) -> None:
        self.name = about.name
        self.description = about.description
        self.version = about.version
        self.takes_argument = about.takes_argument
        self.parameters = json.loads(about.parameters)
        self.context_fields = about.context_fields
        self.example = about.example
        self.prompt = about.prompt
        self.can_help_at = rules.can_help_at
        self.is_right = rules.is_right

    def call(self, argument: str, context: CallContext) -> str:
        """Raises: ConfigError; answers come from the cassette."""
        raise ConfigError(f"{self.name} is replayed from a cassette and cannot be called")


class ReplayCaller:
    """Answers the calls of one tool from a cassette."""

    def __init__(self, tool: RecordedTool, path: Path) -> None:
        self.tool = tool
        self._path = path
        self._answers: dict[tuple[str, CallContext], CallAnswer] = {}
        for row in pq.read_table(path, filters=[("tool", "=", tool.name)]).to_pylist():
            call = RecordedCall(**{**row, "outcome": Outcome(row["outcome"])})
            self._answers[call.argument, call.context] = call.answer
            self._answers.setdefault(
                (call.argument, visible_context(tool, call.context)), call.answer
            )

    def answers(self, calls: Calls) -> list[CallAnswer]:
        """The recorded answers, in order.

        Raises: ConfigError for a call that was not recorded.
        """
        return [self._find(argument, context) for argument, context in calls]

    def _find(self, argument: str, context: CallContext) -> CallAnswer:
        """The answer to this very call, else to one that the tool cannot tell from it."""
        visible = visible_context(self.tool, context)
        answer = self._answers.get((argument, context)) or self._answers.get((argument, visible))
        if answer is None:
            raise ConfigError(
                f"--replay {self._path} has no answer to {self.tool.name}({argument}); it was "
                "recorded with other settings, texts or another model; run without --replay"
            )
        return answer
