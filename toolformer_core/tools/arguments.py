"""The text between the brackets of a call, as the named arguments of a tool.

A call is written as in Python: values by position or name, "quoted" or bare; or as one JSON object.
A tool of one parameter takes the whole text. Nothing is evaluated: only constants are read. Values
are brought to the types of the tool's JSON schema and checked against it (jsonschema).
"""

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

import jsonschema
from referencing import Registry
from referencing.exceptions import Unresolvable

from toolformer_core.errors import ConfigError, ToolInputRejected
from toolformer_core.notation import unquote

MAX_ARGUMENT_CHARS = 4000

Arguments = dict[str, Any]
"""Values by parameter; Any: what JSON can hold."""

_READERS: Mapping[str, Any] = {"integer": int, "number": float}  # Any: a constructor
_BOOLEANS = {"true": True, "yes": True, "false": False, "no": False}


class ArgumentSchema:
    """The parameters of a tool, in order."""

    def __init__(self, schema: Mapping[str, Any], tool: str) -> None:
        """Any: a JSON schema.

        Raises: ConfigError if it is none of an object.
        """
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise ConfigError(
                f"tool {tool}: parameters are no JSON schema: {error.message}"
            ) from error
        if schema.get("type", "object") != "object":
            raise ConfigError(f"tool {tool}: parameters have type {schema['type']!r}, not object")
        self._properties: dict[str, Any] = dict(schema.get("properties", {}))  # Any: schemas
        self._required = frozenset(schema.get("required", ()))
        # An empty registry: by default a $ref to an address would be fetched.
        self._validator = jsonschema.Draft202012Validator(schema, registry=Registry())

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters: required ones first, else in the order of the schema."""
        return tuple(sorted(self._properties, key=lambda name: name not in self._required))

    def signature(self) -> str:
        """The parameters as in 'city: string, days: integer = 1'."""
        return ", ".join(self._shown(name) for name in self.names)

    def _shown(self, name: str) -> str:
        schema = self._properties[name]
        kind = " or ".join(map(str, schema["enum"])) if "enum" in schema else _type_of(schema)
        if name in self._required:
            return f"{name}: {kind}"
        return f"{name}: {kind} = {json.dumps(schema.get('default'))}"

    def parse(self, text: str) -> Arguments:
        """The arguments that the text spells.

        Raises: ToolInputRejected with what is wrong.
        """
        if len(text) > MAX_ARGUMENT_CHARS:
            raise ToolInputRejected(f"{len(text)} characters; at most {MAX_ARGUMENT_CHARS}")
        values = {name: self._typed(name, value) for name, value in self._split(text).items()}
        try:
            error = next(iter(self._validator.iter_errors(values)), None)
        except Unresolvable as unknown:
            raise ToolInputRejected(f"the tool's schema refers to {unknown}") from unknown
        if error is not None:
            place = "".join(f"{part}: " for part in error.absolute_path)
            raise ToolInputRejected(f"{place}{error.message}; expected ({self.signature()})")
        return values

    def _split(self, text: str) -> Arguments:
        """The values by parameter, as they are written."""
        bare = text.strip()
        if not bare:
            return {}
        if bare.startswith("{") and isinstance(found := _json(bare), dict):
            return found
        if len(self.names) == 1 and not bare.startswith(f"{self.names[0]}="):
            return {self.names[0]: unquote(bare)}
        positional, named = _constants(bare)
        if len(positional) > len(self.names):
            raise ToolInputRejected(f"{len(positional)} arguments; expected ({self.signature()})")
        given = dict(zip(self.names, positional, strict=False))
        if twice := given.keys() & named.keys():
            raise ToolInputRejected(f"{min(twice)} is given twice")
        return given | named

    def _typed(self, name: str, value: Any) -> Any:  # Any: as written, as wanted
        """The value as its parameter's type, where the text of it can be read so."""
        kind = _type_of(self._properties.get(name, {}))
        if kind == "string" and isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if not isinstance(value, str):
            return value
        if kind == "boolean":
            return _BOOLEANS.get(value.strip().lower(), value)
        if kind in ("array", "object"):
            found = _json(value)
            return value if found is None else found
        try:
            number = _READERS[kind](value.replace(",", "")) if kind in _READERS else value
        except ValueError:
            return value
        return value if number in (math.inf, -math.inf) or number != number else number


def _type_of(schema: Any) -> str:  # Any: a JSON schema, which may be just true
    """The type that a schema names first, null aside; "any" if it names none."""
    if not isinstance(schema, Mapping):
        return "any"
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    kinds += [_type_of(option) for option in schema.get("anyOf", ())]
    return next((str(kind) for kind in kinds if kind != "null"), "any")


def _json(text: str) -> Any:  # Any: what JSON can hold
    """The JSON value of the text, None if it is none."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return None


def _refuse(constant: str) -> None:
    """Raises: ValueError; NaN and Infinity are not JSON."""
    raise ValueError(constant)


def _constants(text: str) -> tuple[list[Any], Arguments]:  # Any: constants
    """Values by position and by name; bare words are texts.

    Raises: ToolInputRejected if the text is not a list of constants.
    """
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if isinstance(call, ast.Call) and all(keyword.arg for keyword in call.keywords):
            values = [_constant(node, f"f({text})") for node in call.args]
            named = {str(k.arg): _constant(k.value, f"f({text})") for k in call.keywords}
            if len(named) == len(call.keywords):
                return values, named
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    return _by_commas(text)


def _constant(node: ast.expr, source: str) -> Any:  # Any: a constant
    """The value of a literal; a bare word stands for itself.

    Raises: ValueError for anything else.
    """
    if isinstance(node, ast.Name):
        return node.id
    value = ast.literal_eval(node)
    if isinstance(value, float):  # as written: 0.10 stays 0.10 where a text is wanted
        return ast.get_source_segment(source, node)
    if isinstance(value, bytes | complex | set):
        raise ValueError(type(value).__name__)
    return value


def _by_commas(text: str) -> tuple[list[Any], Arguments]:  # Any: texts
    """What stands between commas, as texts; NAME=VALUE by name."""
    positional: list[str] = []
    named: Arguments = {}
    for part in text.split(","):
        name, is_named, value = part.partition("=")
        if is_named and name.strip().isidentifier():
            if name.strip() in named:
                raise ToolInputRejected(f"{name.strip()} is given twice")
            named[name.strip()] = unquote(value)
        else:
            positional.append(unquote(part))
    return positional, named
