"""How an MCP server is reached: a command on stdio, or an address of streamable HTTP.

Choice: we start commands ourselves. The transport of the package mcp passes on more of the
environment, reads lines of any length, logs what is no message as an error, and does not tell
which process a time-out has to end. For HTTP we use its own, with bounds.
"""

import asyncio
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

import httpx2

if TYPE_CHECKING:  # half a second to import, and most runs have no server
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
    from mcp.client._transport import TransportStreams
    from mcp.shared.message import SessionMessage

_LOGGER = logging.getLogger(__name__)

_CONNECT_SECONDS = 30.0
_GRACE_SECONDS = 2.0
_READ_BYTES = 65_536
_MAX_SAID_CHARS = 2000


class Connection:
    """What is known of the way to a server while it lasts."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        """`hide` takes secrets out of what the server says."""
        self._hide = hide
        self.over = asyncio.Event()
        self.fault = ""
        """Why we ended it, if we did."""
        self.said = ""
        """The last that a command wrote which is no message."""
        self.group: int | None = None
        """The process group of a command, until it is gone."""

    def note(self, said: bytes) -> None:
        """Keep what a command wrote out of our output."""
        text = self._hide(said.decode("utf-8", "replace"))
        _LOGGER.debug("%s", text)
        self.said = (self.said + text)[-_MAX_SAID_CHARS:]

    def signal(self, signal_number: int) -> None:
        """Signal a command and all that it has started."""
        if self.group is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.group, signal_number)


@asynccontextmanager
async def on_stdio(
    connection: Connection, command: Sequence[str], env: Mapping[str, str], max_bytes: int
) -> "AsyncIterator[TransportStreams]":
    """A server as a child with a process group of its own; a line is a message."""
    import anyio
    from mcp.shared.message import SessionMessage

    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env=env,
        start_new_session=True,
        limit=max_bytes,
    )
    connection.group = process.pid
    received, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outgoing, sent = anyio.create_memory_object_stream[SessionMessage](0)
    try:
        async with received, incoming, outgoing, sent, anyio.create_task_group() as tasks:
            tasks.start_soon(_receive, process, received, connection, max_bytes)
            tasks.start_soon(_send, process, sent, connection)
            tasks.start_soon(_listen, process, connection)
            yield incoming, outgoing
            tasks.cancel_scope.cancel()
    finally:
        await _stop(process, connection)


async def _receive(
    process: Process,
    received: "MemoryObjectSendStream[SessionMessage | Exception]",
    connection: Connection,
    max_bytes: int,
) -> None:
    """Hand on the server's messages until it ends; a banner and the like is skipped."""
    from anyio import BrokenResourceError
    from mcp.shared.message import SessionMessage
    from mcp.types import jsonrpc_message_adapter

    assert process.stdout is not None
    num_noise = 0
    try:
        while line := await process.stdout.readline():
            try:
                message = jsonrpc_message_adapter.validate_json(line, by_name=False)
            except ValueError:
                connection.note(line)
                num_noise += len(line)
                if num_noise > max_bytes:
                    raise
            else:
                num_noise = 0
                await received.send(SessionMessage(message))
    except BrokenResourceError:
        pass  # the client has closed
    except ValueError:  # a line too long, or nothing but noise
        connection.fault = f"answered with more than {max_bytes} bytes"
    connection.over.set()
    received.close()


async def _send(
    process: Process, sent: "MemoryObjectReceiveStream[SessionMessage]", connection: Connection
) -> None:
    """Write the client's messages to the server."""
    assert process.stdin is not None
    with suppress(OSError):  # it has ended
        async for message in sent:
            text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
            process.stdin.write(f"{text}\n".encode())
            await process.stdin.drain()
    connection.over.set()


async def _listen(process: Process, connection: Connection) -> None:
    """Note what the server writes to stderr."""
    assert process.stderr is not None
    while chunk := await process.stderr.read(_READ_BYTES):
        connection.note(chunk)


async def _stop(process: Process, connection: Connection) -> None:
    """End the server, which sees the end of its input first, and all that it has started."""
    import anyio

    assert process.stdin is not None
    process.stdin.close()
    if not connection.fault:
        with anyio.move_on_after(_GRACE_SECONDS, shield=True):
            await process.wait()
    connection.signal(signal.SIGKILL)
    with anyio.move_on_after(_GRACE_SECONDS, shield=True):
        _, rest = await process.communicate()
        connection.note(rest)
    connection.group = None
    process._transport.close()  # type: ignore[attr-defined]  # nothing public closes its pipes


@asynccontextmanager
async def on_http(
    url: str,
    addresses: Sequence[str],
    headers: dict[str, str],
    max_bytes: int,
    read_seconds: float,
) -> "AsyncIterator[TransportStreams]":
    """A server on streamable HTTP, at one of the addresses that http_guard has let pass.

    mcp's client follows no redirect to another server. As in http_guard, neither proxies nor
    credentials come from the environment.
    """
    from mcp.client.streamable_http import streamable_http_client

    async with (
        httpx2.AsyncClient(
            headers=headers | {"accept-encoding": "identity"},
            timeout=httpx2.Timeout(_CONNECT_SECONDS, read=read_seconds),
            transport=Pinned(
                httpx2.AsyncHTTPTransport(verify=httpx2.create_ssl_context(), trust_env=False),
                addresses,
            ),
            trust_env=False,
            event_hooks={"response": [partial(_vet, max_bytes)]},
        ) as client,
        streamable_http_client(url, http_client=client, max_sse_event_size=max_bytes) as streams,
    ):
        yield streams


class Pinned(httpx2.AsyncBaseTransport):
    """Sends to given addresses, whatever the name in a request leads to by now.

    The name is still what the server is asked for (Host), and what its certificate must bear.
    """

    def __init__(self, transport: httpx2.AsyncBaseTransport, addresses: Sequence[str]) -> None:
        self._transport = transport
        self._addresses = addresses

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """The response of the first address that takes a connection.

        Raises: ConnectError if none does.
        """
        refused: httpx2.ConnectError | None = None
        for address in self._addresses:
            pinned = httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": request.url.host},
            )
            try:
                return await self._transport.handle_async_request(pinned)
            except httpx2.ConnectError as error:
                refused = error
        raise refused or httpx2.ConnectError(f"{request.url.host} has no address")

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


async def _vet(max_bytes: int, response: httpx2.Response) -> None:
    """Bound what will be read of a response.

    Raises: HTTPStatusError, which ends the session, where asking again may help: mcp's client
    would not tell these from the errors of a tool.
    """
    status = response.status_code
    is_expired = status == 404 and "mcp-session-id" in response.request.headers
    if status in (401, 403, 429) or status >= 500 or is_expired:
        raise httpx2.HTTPStatusError(
            f"status {status}", request=response.request, response=response
        )
    response.headers.pop("content-encoding", None)  # we asked for none: nothing is unpacked
    if "text/event-stream" not in response.headers.get("content-type", ""):
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _Capped(response.stream, max_bytes)


class _Capped(httpx2.AsyncByteStream):
    """The first bytes of a response."""

    def __init__(self, stream: httpx2.AsyncByteStream, max_bytes: int) -> None:
        self._stream = stream
        self._max_bytes = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        num_bytes = 0
        async for chunk in self._stream:
            num_bytes += len(chunk)
            if num_bytes > self._max_bytes:
                raise httpx2.StreamError(f"answered with more than {self._max_bytes} bytes")
            yield chunk

    async def aclose(self) -> None:
        """Close the response."""
        await self._stream.aclose()
