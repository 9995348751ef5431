"""A typed Python function with a docstring as a tool.

Its annotations are the parameters, its docstring the description. A parameter annotated with
CallContext is not the model's to fill: it is given the document's date, url and id. Raise
ToolInputRejected for an argument that has no answer; an OSError counts as an outage. The version
follows the source of the function's own module; a change in what that imports is not seen.
"""

import datetime
import inspect
import json
from collections.abc import Callable
from decimal import Decimal
from importlib.metadata import entry_points
from typing import Any, cast, get_type_hints

import pydantic

from toolformer_core.config.tools import PythonTool
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected
from toolformer_core.fingerprint import fingerprint
from toolformer_core.tools.base import CallContext
from toolformer_core.tools.described import DescribedTool
from toolformer_core.user_code import load_function, source_digest

ENTRY_POINTS = "toolformer.tools"
_CONTEXT_FIELDS = ("document_id", "url", "date")


def installed_functions() -> list[PythonTool]:
    """The functions that installed packages offer as tools (entry points).

    Raises: ConfigError for one that cannot be a tool.
    """
    found = sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name)
    try:
        return [PythonTool(name=point.name, function=point.value) for point in found]
    except pydantic.ValidationError as error:
        shown = ", ".join(f"{point.name} = {point.value}" for point in found)
        raise ConfigError(f"installed tools {shown}: {error.errors()[0]['msg']}") from error


class PythonFunction(DescribedTool):
    """Calls a function of the user's own."""

    def __init__(self, config: PythonTool) -> None:
        """Raises: ConfigError for a function without types or docstring."""
        function = load_function(config.function, "tools.own function")
        name = config.name or config.function.partition(":")[2]
        self._context_parameter = _context_parameter(function, name)
        try:
            self._call = pydantic.validate_call(function)
            parameters = _parameters(function, self._context_parameter)
        except pydantic.PydanticUserError as error:
            raise ConfigError(f"tool {name}: its types make no schema ({error})") from error
        described = inspect.getdoc(function)
        if not described:
            raise ConfigError(f"tool {name}: {config.function} has no docstring; write one")
        super().__init__(
            name=name,
            description=described.partition("\n\n")[0],
            version=f"1-{fingerprint(config.function, source_digest(function), parameters)}",
            parameters=parameters,
            demonstrations=config.demonstrations,
            example=config.example,
            context_fields=_CONTEXT_FIELDS if self._context_parameter else (),
        )

    def call(self, argument: str, context: CallContext) -> str:
        """What the function returns, as text.

        Raises: ToolInputRejected for arguments of another type; ToolError for a result that is no
        text.
        """
        given = self.arguments.parse(argument)
        if self._context_parameter:
            given[self._context_parameter] = context
        try:
            result = self._call(**given)
        except pydantic.ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise ToolInputRejected(f"{place}: {first['msg']}") from error
        return text_of(result, self.name)


def text_of(result: Any, name: str) -> str:  # Any: what a user's function returns
    """The result of a call as text.

    Raises: ToolError for bytes and other objects.
    """
    if result is None:
        return ""
    if isinstance(result, str | bool | int | float | Decimal | datetime.date):
        return str(result)
    try:
        return json.dumps(result, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ToolError(f"{name} returned {type(result).__name__}, expected text") from error


def _context_parameter(function: Callable[..., Any], name: str) -> str | None:
    """The parameter that is given the context.

    Raises: ConfigError for a parameter without a type, or of a kind that cannot be named.
    """
    if inspect.iscoroutinefunction(function):
        raise ConfigError(f"tool {name}: an async function cannot be called; write a plain one")
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError) as error:
        raise ConfigError(f"tool {name}: types cannot be read ({error})") from error
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise ConfigError(f"tool {name}: parameter {parameter.name} cannot be given by name")
        if parameter.name not in hints:
            raise ConfigError(
                f"tool {name}: parameter {parameter.name} has no type; annotate it, as in "
                f"{parameter.name}: str"
            )
    return next((key for key, hint in hints.items() if hint is CallContext), None)


def _parameters(function: Callable[..., Any], context: str | None) -> dict[str, Any]:
    """JSON schema of what the model may fill in."""
    adapter: pydantic.TypeAdapter[Any] = pydantic.TypeAdapter(cast(Any, function))
    schema = adapter.json_schema()
    properties = dict(schema.get("properties", {}))
    properties.pop(context, None)
    required = [name for name in schema.get("required", ()) if name != context]
    kept: dict[str, Any] = {key: schema[key] for key in ("$defs", "type") if key in schema}
    return kept | {"properties": properties, "required": required}
