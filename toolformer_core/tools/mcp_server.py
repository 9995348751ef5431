"""Tools of MCP servers (Model Context Protocol, modelcontextprotocol.io): each tool is one of ours.

A server is a command on stdio or an address of streamable HTTP. It is started when it is first
needed, shared by its tools, and started anew after it has died or has not answered in time.

Source: the client is that of the package mcp (2.x).
Choice: what does not come as text, and cannot be shown as JSON, is a failure.
"""

import asyncio
import json
import os
import re
import signal
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from functools import cache
from typing import TYPE_CHECKING

from toolformer_core.config.tools import McpTool
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected, TransientToolError
from toolformer_core.fingerprint import fingerprint
from toolformer_core.tools.arguments import Arguments
from toolformer_core.tools.base import CallContext, Tool
from toolformer_core.tools.described import DescribedTool
from toolformer_core.tools.http_guard import check_url, public_addresses
from toolformer_core.tools.mcp_transport import Connection, on_http, on_stdio
from toolformer_core.tools.secret_values import Lookup, Secrets, fill

if TYPE_CHECKING:  # half a second to import, and most runs have no server
    from mcp import Client, types
    from mcp.client import Transport

START_SECONDS = 60.0
"""A server must have listed its tools by then. Choice: npx and uvx may first download it."""

_GRACE_SECONDS = 2.0
_MAX_PAGES = 100
_MAX_SHOWN_CHARS = 300
_INHERITED = ("PATH", "HOME", "LANG")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
_INVALID = re.compile(
    r"-32602|\binvalid (?:arguments|params)|\bvalidation errors? for|\binput validation error",
    re.IGNORECASE,
)
"""How a result says that arguments are invalid: by the SDKs of Python (pydantic) and TypeScript."""


def mcp_tools(config: McpTool, lookup: Lookup, timeout_seconds: float) -> list[Tool]:
    """The tools of a server, which is started for it.

    Raises: ConfigError if it cannot be started, is no MCP server, or lacks a tool that is named.
    """
    server = _Server(config, lookup, timeout_seconds)
    try:
        session = server.session()
    except TransientToolError as error:
        raise ConfigError(
            f"{error}; expected an MCP server, on stdio (command) or streamable HTTP (url)"
        ) from error
    listed = _chosen(session.tools, config.tools, server.shown)
    if config.example is not None and len(listed) > 1:
        raise ConfigError(
            f"{server.shown}: example {config.example!r} is of which of {len(listed)} tools? name "
            "one in tools, or give none"
        )
    tools = [_McpTool(server, tool, session.identity, config) for tool in listed]
    _check_names(tools, config, server.shown)
    return list(tools)


class _McpTool(DescribedTool):
    """Calls one tool of a server."""

    def __init__(
        self, server: "_Server", tool: "types.Tool", identity: str, config: McpTool
    ) -> None:
        name = valid_name(config.prefix + tool.name)
        described = tool.description or tool.title or ""
        # Which server it is, and what it may know: with the names of secrets, not their values.
        asked = config.model_dump(include={"command", "env", "url", "max_response_bytes"})
        super().__init__(
            name=name,
            description=described,
            version=f"1-{fingerprint(identity, tool.name, described, tool.input_schema, asked)}",
            parameters=tool.input_schema,
            demonstrations=[text for text in config.demonstrations if f"[{name}(" in text],
            example=config.example,
        )
        self._server = server
        self._tool = tool.name

    def call(self, argument: str, context: CallContext) -> str:
        """What the server answers, as text.

        Raises: TimeoutError (the builtin one) if it does not in time; TransientToolError if it has
        ended; ToolInputRejected for invalid arguments; ToolError for any other failure.
        """
        arguments = self.arguments.parse(argument)
        try:
            json.dumps(arguments, ensure_ascii=False, allow_nan=False).encode()
        except ValueError as error:  # half of a surrogate pair, or infinity: would end the session
            raise ToolInputRejected("holds what JSON in UTF-8 cannot") from error
        return self._server.call(self._tool, arguments)


def valid_name(name: str) -> str:
    """The name as the notation of calls takes it."""
    valid = _NOT_IN_NAMES.sub("_", name)
    return valid if valid[:1].isalpha() or valid[:1] == "_" else f"_{valid}"


def _chosen(
    listed: "Sequence[types.Tool]", names: Sequence[str], server: str
) -> "list[types.Tool]":
    """The tools of these names; all if there is none.

    Raises: ConfigError for a name that the server does not know, or a server without tools.
    """
    known = {tool.name: tool for tool in listed}
    missing = [name for name in names if name not in known]
    if missing or not known:
        raise ConfigError(
            f"{server}: no tool {', '.join(missing)}; it has {', '.join(known) or 'none at all'}"
        )
    return [known[name] for name in names or known]


def _check_names(tools: Sequence[Tool], config: McpTool, server: str) -> None:
    """Raises: ConfigError for two tools of one name, or a demonstration of no tool."""
    names = [tool.name for tool in tools]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{server}: two tools would be named {name}; choose one in tools")
    for text in config.demonstrations:
        if not any(f"[{name}(" in text for name in names):
            raise ConfigError(
                f"{server}: demonstration {text!r} calls none of its tools: {', '.join(names)}"
            )


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """The event loop of all sessions, on a thread of its own, started when first asked for."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="mcp", daemon=True).start()
    return loop


class _Session:
    """One life of a server; the client works in the event loop."""

    client: "Client"
    tools: "list[types.Tool]"
    identity: str
    """Name and version of the server, as it says."""
    life: "Future[None]"

    def __init__(self, secrets: Secrets) -> None:
        self.hide = secrets.hide
        self.opened: Future[None] = Future()
        self.connection = Connection(secrets.hide)

    async def live(self, transport: "Transport") -> None:
        """Open the client and keep it open until the session is over."""
        from mcp import Client

        async with Client(transport, cache=None) as client:
            try:
                self.client = client
                self.tools = await _list_tools(client)
                server = client.server_info
                self.identity = f"{server.name} {server.version}" if server else ""
                self.opened.set_result(None)
                await self.connection.over.wait()
            finally:
                self.connection.over.set()  # before the client closes, which takes its time

    @property
    def has_ended(self) -> bool:
        """Whether no call can be made any more."""
        return self.connection.over.is_set() or self.life.done()

    def end(self, signal_number: int) -> None:
        """Signal the command, and leave the rest to the event loop."""
        self.connection.signal(signal_number)
        self.life.cancel()

    def reason(self, error: BaseException | None) -> str:
        """Why the session or a call failed, on one line and without secrets."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        text = self.connection.fault or str(error) or type(error).__name__
        return self.hide(" ".join(text.split()))[:_MAX_SHOWN_CHARS]


class _Server:
    """A server that is started when needed; its calls may come from many threads."""

    def __init__(self, config: McpTool, lookup: Lookup, timeout_seconds: float) -> None:
        self.shown = f"MCP server {config.url or ' '.join(config.command)}"
        self._config = config
        self._lookup = lookup
        self._timeout_seconds = timeout_seconds
        self._lock = threading.Lock()
        self._sessions: list[_Session] = []  # the last one
        weakref.finalize(self, _end_all, self._sessions)  # with its tools, or at exit

    def session(self) -> _Session:
        """The session; a new one if there is none, or it has ended.

        Raises: TransientToolError if the server cannot be started; ConfigError for a secret that
        is missing or an address that is not public.
        """
        with self._lock:
            if not self._sessions or self._sessions[0].has_ended:
                self._sessions[:] = [self._start()]
            return self._sessions[0]

    def _start(self) -> _Session:
        secrets = Secrets(self._lookup)
        session = _Session(secrets)
        transport = self._transport(session, secrets)
        session.life = asyncio.run_coroutine_threadsafe(session.live(transport), _loop())
        wait([session.opened, session.life], START_SECONDS, FIRST_COMPLETED)
        if session.opened.done():
            return session
        if not session.life.done():
            session.end(signal.SIGKILL)
            raise TransientToolError(f"{self.shown}: not ready within {START_SECONDS:g} s")
        error = session.life.exception()
        said = session.connection.said.strip().rpartition("\n")[2][:_MAX_SHOWN_CHARS]
        reason = f"{session.reason(error)}; {said}" if said else session.reason(error)
        raise TransientToolError(f"{self.shown}: {reason}") from error

    def _transport(self, session: _Session, secrets: Secrets) -> "Transport":
        config = self._config
        if config.url is None:
            inherited = {name: os.environ[name] for name in _INHERITED if name in os.environ}
            env = inherited | {name: fill(text, secrets) for name, text in config.env.items()}
            command = [fill(word, secrets) for word in config.command]
            return on_stdio(session.connection, command, env, config.max_response_bytes)
        url = check_url(config.url, "tools.own url")
        port = url.port or {"http": 80, "https": 443}[url.scheme]
        addresses = public_addresses(url.host, port, allow_private=config.allow_private)
        headers = {name: fill(text, secrets) for name, text in config.headers.items()}
        # Calls have a time-out of their own; this one frees the connection of one that has ended.
        read_seconds = self._timeout_seconds + START_SECONDS
        return on_http(config.url, addresses, headers, config.max_response_bytes, read_seconds)

    def call(self, tool: str, arguments: Arguments) -> str:
        """The answer of a tool; raises as `_McpTool.call`.

        A command that does not answer in time is killed with all that it started. Calls that it
        had not yet answered then raise TransientToolError.
        """
        from mcp import MCPError

        session = self.session()
        answer = asyncio.run_coroutine_threadsafe(
            session.client.call_tool(tool, arguments), _loop()
        )
        try:
            result = answer.result(self._timeout_seconds)
        except TimeoutError as error:
            answer.cancel()
            if self._config.command:
                session.end(signal.SIGKILL)
            message = f"{self.shown}: no answer within {self._timeout_seconds:g} s"
            raise TimeoutError(message) from error
        except (MCPError, RuntimeError, ValueError, CancelledError) as error:
            raise self._failure(session, error) from error
        return _text_of(result, session.hide)

    def _failure(self, session: _Session, error: Exception) -> ToolError:
        """What an error of the client means."""
        from mcp import MCPError, types

        message = f"{self.shown}: {session.reason(error)}"
        code = error.code if isinstance(error, MCPError) else None
        if code == types.INVALID_PARAMS:
            return ToolInputRejected(message)
        is_too_long = session.connection.fault or _STREAM_FAILED in message
        if not is_too_long and (code == types.CONNECTION_CLOSED or session.has_ended):
            return TransientToolError(message)
        return ToolError(message)


_STREAM_FAILED = "SSE stream failed"
"""What mcp's client says of an event that is too long, or none."""


def _end_all(sessions: list[_Session]) -> None:
    for session in sessions:
        session.end(signal.SIGTERM)


async def _list_tools(client: "Client") -> "list[types.Tool]":
    """All tools; the client learns what their answers look like."""
    page = await client.list_tools()
    tools = list(page.tools)
    for _ in range(_MAX_PAGES):
        if page.next_cursor is None:
            break
        page = await client.list_tools(cursor=page.next_cursor)
        tools += page.tools
    return tools


def _text_of(result: "types.CallToolResult", hide: Callable[[str], str]) -> str:
    """The texts of a result without secrets; what it has in structure only if it has no text.

    Raises: ToolInputRejected or ToolError for a result that is an error; ToolError for images and
    the like.
    """
    from mcp import types

    texts = []
    for content in result.content:
        inner = content.resource if isinstance(content, types.EmbeddedResource) else content
        if isinstance(inner, types.TextContent | types.TextResourceContents):
            texts.append(inner.text)
    text = hide("\n".join(texts))
    if result.is_error:
        message = " ".join(text.split())
        raise ToolInputRejected(message) if _INVALID.search(message) else ToolError(message)
    if not texts and result.structured_content is not None:
        return hide(json.dumps(result.structured_content, ensure_ascii=False))
    if not texts and result.content:
        raise ToolError(f"answered with {result.content[0].type}; expected text")
    return text
