"""An HTTP server on loopback that answers as a test says."""

import http.server
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

JSON = "application/json"


class Received(NamedTuple):
    """A request as the server saw it; header names in lower case."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Reply:
    """What the server sends; `drip` is the pause before each byte of the body."""

    content: bytes = b""
    content_type: str = "text/plain"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    drip: float = 0.0


Answer = Callable[[Received], Reply]


@dataclass
class Server:
    """Where it is, and what it received."""

    port: int
    received: list[Received]

    @property
    def url(self) -> str:
        """Without a path."""
        return f"http://127.0.0.1:{self.port}"


def as_json(value, status=200) -> Reply:
    """A reply of JSON."""
    return Reply(json.dumps(value).encode(), JSON, status)


def redirect(target: str, status=302) -> Reply:
    """A reply that points elsewhere."""
    return Reply(b"moved", status=status, headers={"location": target})


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers as its server's `answer` says."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def answer(self):
        """Any request."""
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Received(self.command, self.path, headers, body)
        self.server.received.append(request)
        answer = self.server.answer
        try:
            self.send(answer if isinstance(answer, Reply) else answer(request))
        except OSError:  # the client has had enough
            self.close_connection = True

    do_GET = do_POST = do_PUT = do_DELETE = answer

    def send(self, reply):
        """Send it."""
        self.send_response(reply.status)
        self.send_header("content-type", reply.content_type)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(reply.content)))
        self.end_headers()
        size = 1 if reply.drip else max(1, len(reply.content))
        for start in range(0, len(reply.content), size):
            time.sleep(reply.drip)
            self.wfile.write(reply.content[start : start + size])

    def log_message(self, *args):
        """Silence."""


@contextmanager
def answering(answer: Answer | Reply, ssl_context=None, port=0) -> Iterator[Server]:
    """A running server."""
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler)
    if ssl_context is not None:
        httpd.socket = ssl_context.wrap_socket(httpd.socket, server_side=True)
    httpd.answer, httpd.received = answer, []
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Server(httpd.server_port, httpd.received)
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
