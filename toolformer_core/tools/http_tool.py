"""Tools behind HTTP endpoints: arguments to a request, a response to one text.

A model writes the arguments. They are percent-encoded, so that none can change which address is
asked, and nothing but the parameters of the schema is sent.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import httpx
from jsonpointer import EndOfList, JsonPointer, JsonPointerException

from toolformer_core.config.tools import HttpTool, OpenApiTool
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected
from toolformer_core.fingerprint import fingerprint
from toolformer_core.tools.arguments import Arguments, ArgumentSchema
from toolformer_core.tools.base import CallContext
from toolformer_core.tools.described import DescribedTool
from toolformer_core.tools.http_guard import Answer, GuardedClient, check_url
from toolformer_core.tools.secret_values import Lookup, Secrets, fill

USER_AGENT = "toolformer-prefect"
ACCEPTED = "application/json, */*;q=0.5"

_PARAMETER = re.compile(r"(?<!\$)\{([^{}]+)\}")

Place = Literal["path", "query", "header", "member", "body"]
"""Where a value goes; a member is one of the JSON object that is the body."""


class Slot(NamedTuple):
    """Where a parameter goes, and its name there."""

    place: Place
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What is asked, and how; a secret of `url` or `headers` is still ${env:NAME} here."""

    name: str
    description: str
    method: str
    url: str
    headers: Mapping[str, str]
    parameters: Mapping[str, Any]  # Any: a JSON schema
    slots: Mapping[str, Slot]
    result: JsonPointer | None


def http_tool(config: HttpTool, lookup: Lookup, timeout_seconds: float) -> "EndpointTool":
    """The tool that a setting describes.

    Raises: ConfigError for an address, a schema or a JSON pointer that is none.
    """
    in_url = tuple(dict.fromkeys(_PARAMETER.findall(config.url)))
    elsewhere: Place = "query" if config.method == "GET" else "member"
    names = ArgumentSchema(config.parameters, config.name).names
    if unknown := [name for name in in_url if name not in names]:
        raise ConfigError(
            f"tool {config.name}: {{{unknown[0]}}} of the url is no parameter; parameters: "
            f"{', '.join(names)}"
        )
    endpoint = Endpoint(
        name=config.name,
        description=config.description,
        method=config.method,
        url=config.url,
        headers=config.headers,
        parameters=config.parameters
        | {"required": sorted({*config.parameters.get("required", ()), *in_url})},
        slots={name: Slot("path" if name in in_url else elsewhere, name) for name in names},
        result=json_pointer(config.result, config.name),
    )
    client = GuardedClient(
        allow_private=config.allow_private,
        timeout_seconds=timeout_seconds,
        max_bytes=config.max_response_bytes,
    )
    return EndpointTool(endpoint, config, client, lookup)


class EndpointTool(DescribedTool):
    """Asks an endpoint."""

    def __init__(
        self,
        endpoint: Endpoint,
        config: HttpTool | OpenApiTool,
        client: GuardedClient,
        lookup: Lookup,
    ) -> None:
        """Raises: ConfigError for an address, a schema or a demonstration that is none."""
        check_url(endpoint.url, f"tool {endpoint.name}")
        asked = (endpoint.method, endpoint.url, endpoint.headers, endpoint.parameters)
        taken = (endpoint.result and endpoint.result.path, config.max_response_bytes)
        super().__init__(
            name=endpoint.name,
            description=endpoint.description,
            version=f"1-{fingerprint(asked, taken)}",
            parameters={**endpoint.parameters, "additionalProperties": False},
            demonstrations=[t for t in config.demonstrations if f"[{endpoint.name}(" in t],
            example=config.example,
        )
        self._endpoint = endpoint
        self._client = client
        self._lookup = lookup

    def call(self, argument: str, context: CallContext) -> str:
        """What the endpoint answers; see GuardedClient.fetch for what is raised."""
        secrets = Secrets(self._lookup)
        request = build_request(self._endpoint, self.arguments.parse(argument), secrets)
        answer = self._client.fetch(request, secrets.hide)
        return secrets.hide(result_text(answer, self._endpoint.result))


def json_pointer(pointer: str | None, tool: str) -> JsonPointer | None:
    """The pointer, if one is given.

    Raises: ConfigError if it is none.
    """
    try:
        return None if pointer is None else JsonPointer(pointer)
    except JsonPointerException as error:
        raise ConfigError(
            f"tool {tool}: result {pointer!r} is no JSON pointer: {error}; as in /items/0/name"
        ) from error


def build_request(endpoint: Endpoint, values: Arguments, secrets: Secrets) -> httpx.Request:
    """The request that sends the values.

    Raises: ToolInputRejected for a value that cannot be sent; ConfigError for a missing secret.
    """
    placed: dict[Place, Arguments] = defaultdict(dict)
    for parameter, value in values.items():
        place, name = endpoint.slots[parameter]
        placed[place][name] = value
    body: dict[str, Any] = {}  # Any: what httpx takes
    if placed["body"] or any(slot.place == "member" for slot in endpoint.slots.values()):
        body["json"] = next(iter(placed["body"].values()), placed["member"])
    try:
        return httpx.Request(
            endpoint.method,
            _address(endpoint.url, placed["path"], placed["query"], secrets),
            headers=_headers(endpoint.headers, placed["header"], secrets),
            **body,
        )
    except (ValueError, httpx.InvalidURL) as error:
        raise ToolInputRejected(f"cannot be sent: {type(error).__name__}") from error


def _address(template: str, in_path: Arguments, in_query: Arguments, secrets: Secrets) -> httpx.URL:
    """The address asked; secrets first, so that no value can name one.

    Raises: ToolInputRejected for a value that would change the path: an empty one, . or ..
    """

    def encoded(parameter: re.Match[str]) -> str:
        text = _as_text(in_path.get(parameter[1]))
        if not text:
            raise ToolInputRejected(f"{parameter[1]} is empty")
        return quote(text, safe="")

    filled = fill(template, secrets, lambda secret: quote(secret, safe=""))
    filled = _PARAMETER.sub(encoded, filled)
    # Some servers decode a path before they split it.
    if {".", ".."}.intersection(re.split(r"[/\\]", unquote(urlsplit(filled).path))):
        raise ToolInputRejected("a part of the path is . or ..")
    url = httpx.URL(filled)
    sent = {name: _query_values(value) for name, value in in_query.items() if value is not None}
    return url.copy_merge_params(sent) if sent else url


def _query_values(value: Any) -> list[str]:  # Any: what JSON can hold
    """A list is sent as one pair per item."""
    return [_as_text(item) for item in (value if isinstance(value, list) else [value])]


def _headers(fixed: Mapping[str, str], given: Arguments, secrets: Secrets) -> httpx.Headers:
    headers = httpx.Headers({"user-agent": USER_AGENT, "accept": ACCEPTED})
    for name, text in fixed.items():
        headers[name] = _header_text(fill(text, secrets), name, ConfigError)
    for name, value in given.items():
        headers[name] = _header_text(_as_text(value), name, ToolInputRejected)
    return headers


def _header_text(text: str, name: str, error: type[ConfigError] | type[ToolInputRejected]) -> str:
    """The text, if it is printable ASCII: a line end would start another header."""
    if not (text.isascii() and text.isprintable()):
        raise error(f"header {name} holds a character that is not printable ASCII")
    return text


def _as_text(value: Any) -> str:  # Any: what JSON can hold
    """A text bare, nothing as no text, anything else as compact JSON."""
    if value in (None, [], {}):
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def result_text(answer: Answer, pointer: JsonPointer | None) -> str:
    """What the answer says, at the pointer if there is one.

    Raises: ToolError if it is binary, or has nothing at the pointer.
    """
    text = answer.text()
    if pointer is None and not answer.is_json:
        return text
    try:
        content = json.loads(text)
        found = pointer.resolve(content) if pointer else content
    except (ValueError, RecursionError) as error:
        raise ToolError("the response is not JSON") from error
    except JsonPointerException:  # its message quotes the response
        raise ToolError(f"the response has no {pointer and pointer.path}") from None
    if isinstance(found, EndOfList):
        raise ToolError("the result points behind a list; expected a number in the place of -")
    # JSON can hold halves of characters, which no file can.
    return _as_text(found).encode("utf-8", "replace").decode()
