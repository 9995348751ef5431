"""Tools out of an OpenAPI document: each operation is one.

The document may be anybody's: nothing in it can name a secret, or have headers sent to a server
that the user did not choose.

Choice: of an object in the body each property is a parameter, any other body is the parameter
`body`. Lists go into the query item by item. Operations that take no JSON are left out, and so are
cookies, properties that are read only, and headers that the settings give.
"""

import logging
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

from toolformer_core.config.tools import OpenApiTool
from toolformer_core.errors import ConfigError, ToolError, TransientToolError
from toolformer_core.tools.base import Tool
from toolformer_core.tools.http_guard import GuardedClient, check_url, has_same_origin
from toolformer_core.tools.http_tool import Endpoint, EndpointTool, Place, Slot, json_pointer
from toolformer_core.tools.openapi_document import (
    Body,
    Document,
    Node,
    Operation,
    Parameter,
    Schemas,
)
from toolformer_core.tools.secret_values import Lookup

_LOGGER = logging.getLogger(__name__)

MAX_DOCUMENT_BYTES = 20_000_000
MAX_NAME_CHARS = 64
MAX_DESCRIPTION_CHARS = 300

_OFFERED = ("get", "post")
_PLACES: Mapping[str, Place] = {"query": "query", "header": "header"}
# The first four are no parameters by the specification; the others would change the request.
_RESERVED_HEADERS = (
    *("accept", "content-type", "authorization", "cookie", "host", "connection", "content-length"),
    *("transfer-encoding", "accept-encoding", "upgrade", "te", "trailer"),
)


def openapi_tools(config: OpenApiTool, lookup: Lookup, timeout_seconds: float) -> list[Tool]:
    """The tools of a document, in its order or that of the settings.

    Raises: ConfigError for a document that cannot be read or an operation that it lacks;
    TransientToolError if its server is unreachable.
    """
    try:
        document = Document(_document_text(config, timeout_seconds), config.document)
        server = _server(document, config)
        endpoints = [_endpoint(o, document, server, config) for o in _chosen(document, config)]
    except RecursionError as error:
        raise ConfigError(f"{config.document}: nested too deeply") from error
    repeated = [name for name, n in Counter(e.name for e in endpoints).items() if n > 1]
    if repeated:
        raise ConfigError(f"{config.document}: several operations are named {repeated[0]}")
    if len(endpoints) > 1:  # an argument of one is none of another
        config = config.model_copy(update={"example": None})
    client = GuardedClient(
        allow_private=config.allow_private,
        timeout_seconds=timeout_seconds,
        max_bytes=config.max_response_bytes,
    )
    return [EndpointTool(endpoint, config, client, lookup) for endpoint in endpoints]


def _document_text(config: OpenApiTool, timeout_seconds: float) -> str:
    """The text of the document.

    Choice: it is asked for without the headers of the settings, which belong to the API.
    """
    origin = _origin(config)
    try:
        if origin is None:
            return Path(config.document).read_text(encoding="utf-8")
        client = GuardedClient(
            allow_private=config.allow_private,
            timeout_seconds=timeout_seconds,
            max_bytes=MAX_DOCUMENT_BYTES,
        )
        return client.fetch(httpx.Request("GET", origin)).text()
    except (TimeoutError, TransientToolError) as error:
        raise TransientToolError(f"{config.document}: {error}") from error
    except (ToolError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{config.document}: cannot read the document: {error}") from error


def _origin(config: OpenApiTool) -> httpx.URL | None:
    """The address of the document, None if it is a file."""
    is_address = config.document.startswith(("http://", "https://"))
    return check_url(config.document, "document") if is_address else None


def _server(document: Document, config: OpenApiTool) -> str:
    """The base address, with no slash at its end.

    Raises: ConfigError if a document from the net would have headers sent to another server.
    """
    if config.server:
        return config.server.rstrip("/")
    origin = _origin(config)
    found = check_url(document.server(), f"{config.document}: servers (or set server)", origin)
    found = found.copy_with(query=None, fragment=None)
    if config.headers and origin and not has_same_origin(origin, found):
        raise ConfigError(
            f"{config.document}: its server is {found}; the headers are sent there only if you "
            f"set server={found}"
        )
    return _literal(str(found)).rstrip("/")


def _literal(text: str) -> str:
    """A piece of an address out of the document: nothing in it names a secret."""
    return text.replace("$", "%24")


def _chosen(document: Document, config: OpenApiTool) -> list[Operation]:
    """The operations that are named, else those that get or post.

    Raises: ConfigError for an unknown one, or one that takes no JSON.
    """
    operations = list(document.operations())
    if not config.operations:
        offered = [o for o in operations if o.method in _OFFERED]
        if left_out := [o.name for o in offered if not o.takes_json]:
            names = ", ".join(left_out)
            _LOGGER.warning("%s: left out, they take no JSON: %s", config.document, names)
        return [o for o in offered if o.takes_json]
    found = {operation.name: operation for operation in operations}
    for name in config.operations:
        if name not in found:
            known = ", ".join(found)
            raise ConfigError(f"{config.document}: no operation {name!r}; known: {known}")
        if not found[name].takes_json:
            raise ConfigError(f"{config.document}: {name} takes no JSON")
    return [found[name] for name in config.operations]


def _endpoint(
    operation: Operation, document: Document, server: str, config: OpenApiTool
) -> Endpoint:
    """How the operation is called."""
    properties: dict[str, Node] = {}
    slots: dict[str, Slot] = {}
    required = []
    schemas = Schemas(document)
    fixed = {*_RESERVED_HEADERS, *map(str.lower, config.headers)}
    for slot, schema, is_required in _inputs(operation, document):
        if slot.place == "header" and slot.name.lower() in fixed:
            continue
        name = re.sub(r"\W", "_", slot.name)
        while name in slots:
            name = f"{slot.place}_{name}"
        properties[name], slots[name] = schemas.schema(schema), slot
        required += [name] if is_required else []
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", config.prefix + operation.name)
    name = (name if re.match("[A-Za-z_]", name) else f"_{name}")[:MAX_NAME_CHARS]
    return Endpoint(
        name=name,
        description=operation.about.partition("\n")[0][:MAX_DESCRIPTION_CHARS],
        method=operation.method.upper(),
        url=server + _literal(operation.path),
        headers=config.headers,
        parameters={"type": "object", "properties": properties, "required": required},
        slots=slots,
        result=json_pointer(config.result, name),
    )


def _inputs(operation: Operation, document: Document) -> Iterator[tuple[Slot, Node, bool]]:
    """Where each value goes, its schema, and whether it is needed."""
    in_path = {p.name: _schema(p) for p in operation.parameters if p.place == "path"}
    for name in dict.fromkeys(re.findall(r"\{([^{}]+)\}", operation.path)):
        yield Slot("path", name), in_path.get(name) or {"type": "string"}, True
    for parameter in operation.parameters:
        if parameter.place in _PLACES:
            slot = Slot(_PLACES[parameter.place], parameter.name)
            yield slot, _schema(parameter), parameter.required
    if operation.body is not None:
        yield from _body_inputs(operation.body, document)


def _schema(parameter: Parameter) -> dict[str, Node]:
    """The schema of a parameter, with its description."""
    about = {"description": parameter.description} if parameter.description else {}
    given = parameter.content_schema
    return about | given if isinstance(given, dict) else about


def _body_inputs(body: Body, document: Document) -> Iterator[tuple[Slot, Node, bool]]:
    members = document.members(body.json_schema)
    if members is None:
        yield Slot("body", "body"), body.json_schema, body.required
        return
    for name, schema, is_required in members:
        if not (isinstance(schema, dict) and schema.get("readOnly") is True):
            yield Slot("member", name), schema, body.required and is_required
