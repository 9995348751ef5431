"""The tools at hand: what they are, whether they are well, and single calls."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.loaded_tools import get_caller, get_tool, look_up_secret
from tasks.prepare import index_folder, read_passages, tool_ref
from toolformer_core.calling.caller import CallAnswer
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.config.tools import WikiSearchConfig
from toolformer_core.errors import ConfigError, TransientToolError
from toolformer_core.records import Outcome
from toolformer_core.tools.arguments import ArgumentSchema
from toolformer_core.tools.base import CallContext, Tool
from toolformer_core.tools.registry import (
    BUILT_IN,
    SEARCHING_TOOLS,
    Services,
    own_entries,
    own_tools,
)
from toolformer_core.tools.search_index import build_index

_SOME_DAY = CallContext(document_id="", url=None, date="2023-01-30")


def call_one_tool(
    name: str, argument: str, date: str | None, config: PipelineConfig, runtime: Runtime
) -> dict[str, Any]:  # Any: figures
    """Outcome, reason, result and latency of one call, made as at inference."""
    context = CallContext(document_id="", url=None, date=date)
    answer = _call(name, argument, context, config, runtime)
    return {"tool": name, "argument": argument, **answer._asdict()}


def list_tools(config: PipelineConfig, runtime: Runtime) -> list[dict[str, Any]]:  # Any: figures
    """Every tool with its parameters, version, health and cost; each one's example is tried."""
    rows = [_listed(name, config, runtime) for name in BUILT_IN]
    services = Services(lookup=look_up_secret)
    for entry in own_entries(config.tools):
        try:
            names = [tool.name for tool in own_tools(entry, services)]
        except (ConfigError, TransientToolError) as error:
            rows.append({"name": entry.label, "health": str(error)})
        else:
            rows += [_listed(name, config, runtime) for name in names]
    return rows


def _listed(name: str, config: PipelineConfig, runtime: Runtime) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "is_enabled": name in config.tools.enabled}
    wiki_search = config.tools.wiki_search
    if name in SEARCHING_TOOLS and not index_folder(wiki_search, runtime.home).exists():
        return row | {"health": "no search index; build it with toolformer index"}
    try:
        tool = get_tool(tool_ref(name, config.tools, runtime), at_inference=True)
        row |= _described(tool)
        if tool.example is None:
            return row | {"health": "unknown: no example to try"}
        _call(name, tool.example, _SOME_DAY, config, runtime)  # starts what the tool needs
        answer = _call(name, tool.example, _SOME_DAY, config, runtime)
    except (ConfigError, TransientToolError) as error:
        return row | {"health": str(error)}
    is_well = answer.outcome in (Outcome.OK, Outcome.EMPTY)
    health = "ok" if is_well else f"{answer.outcome.value}: {answer.reason}"
    return row | {"health": health, "seconds_per_call": answer.latency_seconds}


def _described(tool: Tool) -> dict[str, Any]:
    return {
        "description": tool.description,
        "signature": f"({ArgumentSchema(tool.parameters, tool.name).signature()})",
        "parameters": tool.parameters,
        "version": tool.version,
        "example": tool.example,
    }


def _call(
    name: str, argument: str, context: CallContext, config: PipelineConfig, runtime: Runtime
) -> CallAnswer:
    ref = tool_ref(name, config.tools, runtime)
    caller = get_caller(ref, config.execute, runtime.tool_calls, at_inference=True)
    return caller.answers([(argument, context)])[0]


def build_search_index(
    config: WikiSearchConfig, folder: Path | None, runtime: Runtime
) -> dict[str, Any]:  # Any: figures
    """Build the index of the passages where runs look for it, or add them to one in a folder."""
    place = folder or index_folder(config, runtime.home)
    summary = build_index(read_passages(config), place)
    return {"folder": str(place), **asdict(summary)}
