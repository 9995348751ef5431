"""A small MCP server: `python -m tests.support.mcp_example` on stdio.

With `http` or `http-old` on loopback; it then prints its address when it listens. Not to be
imported: mcp's server sets up the logging of its process.
"""

import os
import socket
import sys
import threading
import time
from functools import partial

import uvicorn
from mcp import MCPError
from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import INVALID_PARAMS, CallToolResult
from starlette.responses import Response

SERVER = MCPServer("example", version="1.2")
MEETING = threading.Barrier(2)
LAST_HEADERS: dict[bytes, bytes] = {}
NEXT_STATUS: list[int] = []


@SERVER.tool()
def convert(amount: float, source: str, to: str = "EUR") -> str:
    """Convert an amount between two currencies."""
    rates = {"EUR": 1.0, "USD": 2.0}
    return f"{amount * rates[to] / rates[source]:.2f} {to}"


@SERVER.tool()
def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@SERVER.tool()
def sleep(seconds: float) -> str:
    """Sleep, then say so."""
    time.sleep(seconds)
    return "slept"


@SERVER.tool()
def meet() -> str:
    """Answer once there are two calls at a time."""
    MEETING.wait()
    return "met"


@SERVER.tool()
def die() -> str:
    """End the server."""
    os._exit(3)


@SERVER.tool()
def big(n: int) -> str:
    """Answer with n letters."""
    return "x" * n


@SERVER.tool()
def fail(text: str) -> str:
    """Fail with a message."""
    raise ToolError(text)


@SERVER.tool()
def refuse(text: str) -> str:
    """Fail as mcp's lower layers do for arguments that are invalid."""
    raise MCPError(INVALID_PARAMS, text)


@SERVER.tool()
def image() -> Image:
    """Answer with an image."""
    return Image(data=b"\x89PNG", format="png")


@SERVER.tool()
def lines() -> list[str]:
    """Answer with two texts."""
    return ["one", "two"]


@SERVER.tool()
def structured() -> CallToolResult:
    """Answer with structure and no text."""
    return CallToolResult(content=[], structured_content={"rate": 1.5})


@SERVER.tool()
def variable(name: str) -> str:
    """Answer with a variable of the environment."""
    return os.environ.get(name, "unset")


@SERVER.tool()
def variables() -> str:
    """Answer with the names of the environment."""
    return " ".join(sorted(os.environ))


@SERVER.tool()
def process() -> str:
    """Answer with the number of the process and its group."""
    return f"{os.getpid()} {os.getpgid(0)}"


@SERVER.tool()
def shout() -> str:
    """Write to stderr."""
    print("a warning", file=sys.stderr, flush=True)
    return "done"


@SERVER.tool()
def header(name: str) -> str:
    """Answer with a header of the last request."""
    return LAST_HEADERS.get(name.encode(), b"unset").decode()


@SERVER.tool()
def fail_next(status: int) -> str:
    """Answer the next message with a status."""
    NEXT_STATUS.append(status)
    return "will do"


def app(scope, receive, send, *, is_old, inner):
    """The server on HTTP; an old one does not know the request that came with protocol 2026-07-28,
    keeps sessions and answers with events.
    """
    if scope["type"] == "http":
        LAST_HEADERS.clear()
        LAST_HEADERS.update(scope["headers"])
        if is_old and LAST_HEADERS.get(b"mcp-method") == b"server/discover":
            return Response(status_code=404)(scope, receive, send)
        if NEXT_STATUS and scope["method"] == "POST":
            return Response(status_code=NEXT_STATUS.pop())(scope, receive, send)
    return inner(scope, receive, send)


def serve_http(kind: str) -> None:
    """Serve on any port that is free."""
    listening = socket.socket(proto=socket.IPPROTO_TCP)  # named, or asyncio delays what is small
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    print(f"http://127.0.0.1:{listening.getsockname()[1]}/mcp", flush=True)
    wrapped = partial(app, is_old=kind == "http-old", inner=SERVER.streamable_http_app())
    config = uvicorn.Config(wrapped, log_level="error", interface="asgi3")
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    serve_http(sys.argv[1]) if sys.argv[1:] else SERVER.run("stdio")
