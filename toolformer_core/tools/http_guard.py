"""HTTP for tools: nothing but the server that was meant, bounded in time and size.

A model writes arguments, and a server may be anybody's. So addresses that are not public are
refused at the point of connection, whatever name or spelling led to them; redirects stay on the
server; neither proxies, cookies nor credentials come from the environment; and one deadline holds
for all of an exchange, so that a server that drips cannot renew it.

Choice: httpcore, the layer below httpx, because only there an address can be seen before it is
connected to and each read can be timed.
"""

import functools
import ipaddress
import re
import socket
import ssl
import time
import weakref
import zlib
from collections.abc import Callable, Iterable
from email.message import Message
from typing import Any, NamedTuple

import httpcore
import httpx

from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected, TransientToolError

MAX_REDIRECTS = 3
MAX_SHOWN_CHARS = 200

_REDIRECTS = (301, 302, 307, 308)  # Choice: the method is kept; 303, which changes it, is an error
_BAD_INPUT = (400, 404, 422)
# Choice: 500 is none. Many services answer so to an argument that they cannot cope with.
_OUTAGES = (408, 425, 429, 502, 503, 504)
_TEXT_TYPE = re.compile(r"text/.+|.+[/+-](json|jsonl|ndjson|xml|yaml|javascript|csv)")
_HOST = re.compile(r"[\w.:-]+")
_CHARSETS = ("utf-8", "us-ascii", "iso-8859-1", "windows-1252", "utf-16", "shift_jis", "gb18030")

_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")


class Answer(NamedTuple):
    """What a server sent with a status of success."""

    content_type: str
    content: bytes

    @property
    def is_json(self) -> bool:
        """Whether the server calls it JSON."""
        return self._header().get_content_subtype().rpartition("+")[2] == "json"

    def text(self) -> str:
        """The content as text.

        Raises: ToolError if it is binary, by its type or its bytes.
        """
        header = self._header()
        charset = header.get_content_charset("utf-8")
        if self.content_type and not _TEXT_TYPE.fullmatch(header.get_content_type()):
            raise ToolError(f"the response is binary ({header.get_content_type()})")
        if charset not in _CHARSETS:
            raise ToolError(f"charset {charset}; expected one of {', '.join(_CHARSETS)}")
        try:
            return self.content.decode(charset).removeprefix("\ufeff")
        except UnicodeDecodeError as error:
            raise ToolError(f"the response is binary (no {charset})") from error

    def _header(self) -> Message:
        header = Message()
        header["content-type"] = self.content_type
        return header


class _Exchange(NamedTuple):
    """One request answered; `raw` is the content as it came, up to one byte more than allowed."""

    status: int
    headers: httpx.Headers
    raw: bytes


class GuardedClient:
    """Sends requests; may be shared by threads."""

    def __init__(self, *, allow_private: bool, timeout_seconds: float, max_bytes: int) -> None:
        self._timeout_seconds = timeout_seconds
        self._max_bytes = max_bytes
        self._pool = httpcore.ConnectionPool(
            ssl_context=_trusted(),
            max_connections=None,
            network_backend=_GuardedNetwork(allow_private),
        )
        weakref.finalize(self, self._pool.close)

    def fetch(self, request: httpx.Request, hide: Callable[[str], str] = str) -> Answer:
        """The answer, after at most three redirects within the same server.

        `hide` takes secrets out of what a message quotes.

        Raises: TimeoutError (the builtin one) past the deadline, which looking up the name alone
        may outlast; TransientToolError for an outage, such as no connection within half of the
        time; ToolInputRejected or ToolError for what the server refuses, ToolError for more bytes
        than allowed; ConfigError for an address that is not public.
        """
        deadline = time.monotonic() + self._timeout_seconds
        for _ in range(MAX_REDIRECTS + 1):
            exchange = self._exchange(request, deadline, hide)
            if exchange.status not in _REDIRECTS:
                _check_status(exchange, hide)
                content = _decoded(exchange, self._max_bytes)
                return Answer(exchange.headers.get("content-type", ""), content)
            request = _redirected(request, exchange.headers.get("location", ""), hide)
        raise ToolError(f"more than {MAX_REDIRECTS} redirects")

    def _exchange(
        self, request: httpx.Request, deadline: float, hide: Callable[[str], str]
    ) -> _Exchange:
        host = request.url.host
        try:
            with self._pool.stream(
                request.method,
                httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=httpx.Headers({**request.headers, "accept-encoding": "identity"}).raw,
                content=request.content,
                extensions={"timeout": self._deadlines(deadline)},
            ) as response:
                raw = _read(response.iter_stream(), self._max_bytes + 1)
                return _Exchange(response.status, httpx.Headers(response.headers), raw)
        except (httpcore.ConnectTimeout, httpcore.NetworkError) as error:
            raise TransientToolError(f"{host}: {type(error).__name__}: {error}") from error
        except httpcore.TimeoutException as error:
            message = f"{host}: no answer within {self._timeout_seconds:g} s"
            raise TimeoutError(message) from error
        except httpcore.RemoteProtocolError as error:
            raise TransientToolError(f"{host}: {hide(str(error))}") from None
        except httpcore.LocalProtocolError:  # its message may quote a secret
            raise ToolError(f"{host}: the request holds a character that none may") from None

    def _deadlines(self, deadline: float) -> dict[str, float]:
        """By phase, as `_TimedStream` wants them."""
        connected = deadline - self._timeout_seconds / 2
        return {"connect": connected, "read": deadline, "write": deadline}


def check_url(url: str, what: str, base: httpx.URL | None = None) -> httpx.URL:
    """The address, relative to the base, if it is one of HTTP with a host and without a password.

    Raises: ConfigError naming `what` it is the address of.
    """
    try:
        found = base.join(url) if base else httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{what}: {error}; expected http(s)://HOST/PATH") from error
    is_place = _HOST.fullmatch(found.host) and (found.port is None or 0 < found.port < 65536)
    if found.scheme not in ("http", "https") or not is_place or found.userinfo:
        shown = found.copy_with(userinfo=b"", query=None)
        raise ConfigError(f"{what}: {shown} is no address; expected http(s)://HOST/PATH")
    return found


def has_same_origin(one: httpx.URL, other: httpx.URL) -> bool:
    """Whether both lie on one server."""
    return (one.scheme, one.host, one.port) == (other.scheme, other.host, other.port)


def public_addresses(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of a host.

    Raises: ConfigError if one of them is not public, unless private ones are allowed;
    TransientToolError if the name cannot be looked up.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise TransientToolError(f"{host}: cannot look up the name: {error}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not allow_private and not is_public(address):
            raise ConfigError(
                f"{host} has the address {address}, which is not public; set allow_private=true "
                "if that is meant"
            )
    return addresses


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's; what embeds an IPv4 address counts as that."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv4Address):
        return parsed.is_global and not parsed.is_multicast
    embedded = parsed.ipv4_mapped or parsed.sixtofour
    if parsed in _NAT64:
        embedded = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
    if embedded is not None:
        return is_public(str(embedded))
    return parsed.is_global and parsed in _GLOBAL_UNICAST


class _GuardedNetwork(httpcore.SyncBackend):
    """Connects to the addresses that were checked, so that no second look-up can differ."""

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        """A connection to the first address that takes one."""
        refused: httpcore.ConnectError | None = None
        for address in public_addresses(host, port, allow_private=self._allow_private):
            try:
                left = _time_left(timeout, httpcore.ConnectTimeout)
                stream = super().connect_tcp(address, port, left, local_address, socket_options)
            except httpcore.ConnectError as error:
                refused = error
            else:
                return _TimedStream(stream)
        raise refused or httpcore.ConnectError(f"{host} has no address")


class _TimedStream(httpcore.NetworkStream):
    """A connection whose time-outs are points of time.monotonic, not durations."""

    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """See httpcore, as all methods."""
        return self._stream.read(max_bytes, _time_left(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send the bytes."""
        self._stream.write(buffer, _time_left(timeout))

    def close(self) -> None:
        """Close the connection."""
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        """The connection, encrypted."""
        left = _time_left(timeout, httpcore.ConnectTimeout)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:  # Any: httpcore's own
        """What the connection knows of itself."""
        return self._stream.get_extra_info(info)


def _time_left(
    deadline: float | None, late: type[httpcore.TimeoutException] = httpcore.ReadTimeout
) -> float:
    """Raises: httpcore's error past the deadline."""
    assert deadline is not None, "every exchange has a deadline"
    left = deadline - time.monotonic()
    if left <= 0:
        raise late
    return left


@functools.cache
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted: certifi's, or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    return httpx.create_ssl_context()


def _redirected(request: httpx.Request, location: str, hide: Callable[[str], str]) -> httpx.Request:
    """The request to where a redirect points.

    Raises: ToolError unless that is the same server, or the same host with encryption: the
    headers may hold secrets.
    """
    try:
        target = request.url.join(location)
    except httpx.InvalidURL as error:
        raise ToolError(f"redirect to no address: {hide(location)[:MAX_SHOWN_CHARS]}") from error
    is_upgrade = (request.url.scheme, target.scheme) == ("http", "https") and (
        (request.url.host, request.url.port, target.port) == (target.host, None, None)
    )
    if not location or not (has_same_origin(request.url, target) or is_upgrade):
        shown = hide(str(target))[:MAX_SHOWN_CHARS]
        raise ToolError(f"redirect to {shown}, which is another server; not followed")
    return httpx.Request(request.method, target, headers=request.headers, content=request.content)


def _check_status(exchange: _Exchange, hide: Callable[[str], str]) -> None:
    """Raises: what a status that is not success means."""
    if 200 <= exchange.status < 300:
        return
    body = hide(" ".join(exchange.raw.decode("utf-8", "replace").split()))
    message = f"status {exchange.status}: {body[:MAX_SHOWN_CHARS]}"
    if exchange.status in _OUTAGES:
        raise TransientToolError(message)
    if exchange.status == 401:
        raise ConfigError(f"{message}; the credentials in headers are not accepted")
    if exchange.status in _BAD_INPUT:
        raise ToolInputRejected(message)
    raise ToolError(message)


def _read(chunks: Iterable[bytes], num_bytes: int) -> bytes:
    """The first bytes of a stream."""
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) >= num_bytes:
            break
    return bytes(content[:num_bytes])


def _decoded(exchange: _Exchange, max_bytes: int) -> bytes:
    """The content; some servers compress it unasked.

    Raises: ToolError if it is longer than allowed, or compressed in another way than gzip.
    """
    content = exchange.raw
    coding = exchange.headers.get("content-encoding", "identity").strip().lower()
    if coding in ("gzip", "x-gzip"):
        try:
            content = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS).decompress(
                content, max_bytes + 1
            )
        except zlib.error as error:
            raise ToolError(f"the response is not gzip: {error}") from error
    elif coding != "identity":
        raise ToolError(f"content-encoding {coding}; expected none")
    if max(len(content), len(exchange.raw)) > max_bytes:
        raise ToolError(f"more than {max_bytes} bytes")
    return content
