"""Loaded tools, once per process; tasks receive references only."""

import datetime
import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from prefect.blocks.system import Secret

from tasks.loaded_models import LOADING, get_model
from toolformer_core.calling.caller import Caller, ToolCaller
from toolformer_core.calling.cassette import RecordedTool, ReplayCaller, read_descriptions
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.pipeline import ExecuteConfig, ToolExecuteConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.config.tools import ToolsConfig
from toolformer_core.errors import ConfigError
from toolformer_core.fingerprint import Reference, fingerprint
from toolformer_core.lm import LanguageModel
from toolformer_core.tools.base import Tool
from toolformer_core.tools.registry import Services, build_tool, isolated_build, rules_of
from toolformer_core.tools.secret_values import environment_lookup


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolRef(Reference):
    """A tool by name; `digest` covers its version, its prompt and its data.

    The rest says how it is built: the settings, where its search index lies, and what it runs on.
    """

    name: str
    digest: str
    config: ToolsConfig = field(repr=False, compare=False)
    index_folder: Path | None = field(compare=False)
    runtime: Runtime

    @property
    def identity(self) -> str:
        """Not how it is built."""
        return self.digest


def get_tool(ref: ToolRef, *, at_inference: bool = False, timeout_seconds: float = 10.0) -> Tool:
    """The tool for annotation, or with today's date at inference."""
    with LOADING:
        return _tool(ref, at_inference, timeout_seconds)


@functools.lru_cache(maxsize=64)
def _tool(ref: ToolRef, at_inference: bool, timeout_seconds: float) -> Tool:
    if ref.runtime.replay is not None:
        return recorded_tool(ref.name, ref.runtime.replay)
    tool = open_tool(
        ref.name,
        ref.config,
        ref.index_folder,
        ref.runtime,
        today=datetime.date.today if at_inference else None,
        timeout_seconds=timeout_seconds,
    )
    if tool_digest(tool) != ref.digest:
        raise ConfigError(f"tool {ref.name} changed while the run went on; start the run again")
    return tool


def tool_digest(tool: Tool) -> str:
    """What identifies a tool in cache keys."""
    return fingerprint(tool.version, tool.prompt)


def open_tool(
    name: str,
    config: ToolsConfig,
    index_folder: Path | None,
    runtime: Runtime,
    *,
    today: Callable[[], datetime.date] | None = None,
    timeout_seconds: float = 10.0,
) -> Tool:
    """The tool built anew.

    Raises: ConfigError for an unknown name, or a tool that lacks something.
    """

    def load_reader(reader: ModelConfig) -> tuple[LanguageModel, str]:
        from toolformer_core.transformers_lm.loading import resolve_model

        reference = resolve_model(reader, runtime.home, runtime.device)
        return get_model(reference, runtime), reference.digest

    services = Services(
        index_folder=index_folder,
        load_reader=load_reader,
        lookup=look_up_secret,
        timeout_seconds=timeout_seconds,
        today=today,
    )
    return build_tool(name, config, services)


def recorded_tool(name: str, cassette: Path) -> RecordedTool:
    """The tool as a cassette describes it.

    Raises: ConfigError if it is not on the cassette.
    """
    recorded = read_descriptions(cassette)
    if name not in recorded:
        raise ConfigError(
            f"tool {name!r} is not on the cassette {cassette}; recorded: {', '.join(recorded)}"
        )
    return RecordedTool(recorded[name], rules_of(name))


def get_caller(
    ref: ToolRef,
    config: ExecuteConfig,
    max_calls: int,
    *,
    at_inference: bool = False,
) -> Caller:
    """What answers the calls of a tool, once per run and process: all shards share its limits."""
    key = (ref, config.of_tool(ref.name), max_calls, at_inference)
    with LOADING:
        if key not in _CALLERS:
            _CALLERS[key] = _new_caller(*key)
        return _CALLERS[key]


_CALLERS: dict[tuple[ToolRef, ToolExecuteConfig, int, bool], Caller] = {}


def close_callers(root: Path) -> None:
    """End what runs beside this process for the run in a folder."""
    with LOADING:
        for key in list(_CALLERS):
            if key[0].runtime.root == root:
                caller = _CALLERS.pop(key)
                if isinstance(caller, ToolCaller):
                    caller.close()


def _new_caller(
    ref: ToolRef, config: ToolExecuteConfig, max_calls: int, at_inference: bool
) -> Caller:
    tool = get_tool(ref, at_inference=at_inference, timeout_seconds=config.timeout_seconds)
    if isinstance(tool, RecordedTool) and ref.runtime.replay is not None:
        return ReplayCaller(tool, ref.runtime.replay)
    # One model reads one batch at a time; more would only wait, and time out.
    reads_here = ref.name == "QA" and ref.config.qa.url is None
    return ToolCaller(
        tool,
        config,
        build=isolated_build(ref.name, ref.config),
        max_calls=1 if reads_here else max_calls,
        remembers=not at_inference,  # tomorrow is another day
    )


def look_up_secret(source: str, name: str) -> str:
    """The value of a secret: of the environment, or of a Prefect Secret block.

    Raises: ConfigError if it is not there.
    """
    if source != "prefect":
        return environment_lookup(source, name)
    try:
        block = cast("Secret[str]", Secret.load(name))  # a coroutine only inside another
        return block.get()
    except ValueError as error:
        raise ConfigError(
            f"Prefect has no Secret block {name!r}; make one in the UI under Blocks"
        ) from error
