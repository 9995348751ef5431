"""An OpenAPI document (3.x) as data: its operations, what a reference stands for, its schemas.

The document may be anybody's: it loads no other address, and its schemas do not grow without bound.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from jsonpointer import JsonPointerException, resolve_pointer
from pydantic import BaseModel, Field, ValidationError

from toolformer_core.errors import ConfigError
from toolformer_core.yaml_text import parse_yaml

MAX_REFERENCE_DEPTH = 6
MAX_SCHEMA_NODES = 200
"""Choice: checking a schema takes time for each, and the server checks again anyway."""

_METHODS = ("get", "post", "put", "patch", "delete")
_JSON_TYPE = re.compile(r"application/(.+\+)?json(;.*)?")

Node = Any  # Any: a part of the document, which may be anything
Model = TypeVar("Model", bound=BaseModel)


class Parameter(BaseModel):
    """A value beside the body."""

    name: str
    place: str = Field(alias="in")
    required: bool = False
    description: str = ""
    content_schema: Node = Field(default={}, alias="schema")


class Body(BaseModel):
    """What a request may hold."""

    content: dict[str, dict[str, Node]] = {}
    required: bool = False

    @property
    def json_schema(self) -> Node:
        """The schema of its JSON, None if it is not JSON."""
        schemas = (
            c.get("schema", {}) for kind, c in self.content.items() if _JSON_TYPE.fullmatch(kind)
        )
        return next(schemas, None)


class _Operation(BaseModel):
    operationId: str | None = None
    summary: str | None = None
    description: str | None = None
    parameters: list[Node] = []
    requestBody: Node = None


class _PathItem(BaseModel):
    parameters: list[Node] = []
    get: _Operation | None = None
    post: _Operation | None = None
    put: _Operation | None = None
    patch: _Operation | None = None
    delete: _Operation | None = None


class _Object(BaseModel):
    properties: dict[str, Node] | None = None
    required: list[str] = []


class _Server(BaseModel):
    url: str
    variables: dict[str, dict[str, Node]] = {}


class Operation(NamedTuple):
    """What the document says of one operation."""

    name: str
    """Its operationId, else method and path."""
    about: str
    method: str
    path: str
    parameters: tuple[Parameter, ...]
    body: Body | None

    @property
    def takes_json(self) -> bool:
        """Whether it can be called with nothing but JSON."""
        return self.body is None or self.body.json_schema is not None


class Document:
    """A document that was read."""

    def __init__(self, text: str, where: str) -> None:
        """Raises: ConfigError if it is not OpenAPI 3; RecursionError if nested too deeply."""
        self.where = where
        try:
            content = json.loads(text)
        except ValueError:
            content = parse_yaml(text, where)
        version = content.get("openapi") if isinstance(content, dict) else None
        if not str(version).startswith("3."):
            raise ConfigError(f"{where}: openapi is {version!r}; expected 3.x")
        self._content = content

    def server(self) -> str:
        """The address of its first server, by default /."""
        servers = self._content.get("servers") or [{"url": "/"}]
        server = self._parsed(_Server, servers[0] if isinstance(servers, list) else None, "servers")
        address = server.url
        for name, variable in server.variables.items():
            address = address.replace(f"{{{name}}}", str(variable.get("default", "")))
        return address

    def operations(self) -> Iterator[Operation]:
        """All operations in order.

        Raises: ConfigError for one that is not as the specification says.
        """
        paths = self._content.get("paths") or {}
        for path, node in paths.items() if isinstance(paths, dict) else ():
            if str(path).startswith("x-"):
                continue
            if not str(path).startswith("/"):
                raise ConfigError(f"{self.where}: {path!r} is no path; expected a / at its start")
            item = self._parsed(_PathItem, self.target(node), path)
            for method in _METHODS:
                if (operation := getattr(item, method)) is not None:
                    yield self._operation(operation, method, path, item.parameters)

    def _operation(
        self, operation: _Operation, method: str, path: str, shared: list[Node]
    ) -> Operation:
        name = operation.operationId or f"{method}{path}"
        parameters = [
            self._parsed(Parameter, self.target(node), f"parameters of {name}")
            for node in [*shared, *operation.parameters]
        ]
        body = self.target(operation.requestBody)
        return Operation(
            name=name,
            about=(operation.summary or operation.description or "").strip(),
            method=method,
            path=path,
            parameters=tuple({(p.place, p.name): p for p in parameters}.values()),
            body=None if body is None else self._parsed(Body, body, f"requestBody of {name}"),
        )

    def members(self, schema: Node) -> list[tuple[str, Node, bool]] | None:
        """Name, schema and need of each property of an object; None if none are declared."""
        target = self.target(schema)
        whole = self._parsed(_Object, target if isinstance(target, dict) else {}, "requestBody")
        if whole.properties is None:
            return None
        return [(name, node, name in whole.required) for name, node in whole.properties.items()]

    def target(self, node: Node) -> Node:
        """What a reference stands for; anything else is itself.

        Raises: ConfigError for one that leaves the document, leads nowhere or in a circle.
        """
        for _ in range(MAX_REFERENCE_DEPTH):
            reference = node.get("$ref") if isinstance(node, dict) else None
            if not isinstance(reference, str):
                return node
            if not reference.startswith("#"):
                raise ConfigError(
                    f"{self.where}: $ref {reference!r} leaves the document; bundle it into one"
                )
            try:
                node = resolve_pointer(self._content, unquote(reference[1:]))
            except JsonPointerException:  # its message quotes all of the document
                raise ConfigError(f"{self.where}: $ref {reference!r} leads nowhere") from None
        raise ConfigError(f"{self.where}: $ref {reference!r} leads in a circle")

    def _parsed(self, model: type[Model], node: Node, what: str) -> Model:
        """Raises: ConfigError saying what is wrong where."""
        try:
            return model.model_validate(node)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"{self.where}: {what}: {place}: {first['msg']}") from error


class Schemas:
    """The schemas of one operation; where they contain themselves or get large, any value does."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._num_nodes = 0

    def schema(self, node: Node, opened: tuple[str, ...] = ()) -> Node:
        """A JSON schema without references, within those that are opened.

        Raises: ConfigError if it is large without any.
        """
        self._num_nodes += 1
        if self._num_nodes > 100 * MAX_SCHEMA_NODES:
            raise ConfigError(f"{self._document.where}: a schema is too large")
        if isinstance(node, list):
            return [self.schema(item, opened) for item in node]
        if not isinstance(node, dict):  # YAML has dates
            return node if node is None or isinstance(node, str | int | float) else str(node)
        reference = node.get("$ref")
        if not isinstance(reference, str):
            return self._object(node, opened)
        is_large = len(opened) >= MAX_REFERENCE_DEPTH or self._num_nodes > MAX_SCHEMA_NODES
        if reference in opened or is_large:
            return {}
        target = self.schema(self._document.target(node), (*opened, reference))
        return target | self._object(node, opened) if isinstance(target, dict) else target

    def _object(self, node: dict[Any, Node], opened: tuple[str, ...]) -> dict[str, Node]:
        """An object, by the rules of JSON schema 2020-12.

        Patterns are dropped, which are not Python's and may take forever; so is what starts with
        $, which could have other addresses loaded. The server checks anyway.
        """
        found = {
            str(key): self.schema(value, opened)
            for key, value in node.items()
            if not (isinstance(value, str) and (key == "pattern" or str(key).startswith("$")))
            and key != "patternProperties"
        }
        if found.get("nullable") is True and isinstance(found.get("type"), str):
            found["type"] = [found["type"], "null"]
        for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if isinstance(found.get(exclusive), bool) and found.pop(exclusive) and bound in found:
                found[exclusive] = found.pop(bound)
        return found
