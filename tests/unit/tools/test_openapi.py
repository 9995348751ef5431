import itertools
import json
import socket
import threading
import time
from contextlib import contextmanager
from typing import Annotated

import fastapi
import pydantic
import pytest
import uvicorn

from tests.support.http_tools import Reply, answering, as_json, redirect
from toolformer_core.config.tools import OpenApiTool
from toolformer_core.errors import ConfigError, ToolInputRejected, TransientToolError
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.described import describe
from toolformer_core.tools.openapi import openapi_tools
from toolformer_core.tools.secret_values import environment_lookup


class Trip(pydantic.BaseModel):
    start: str
    end: str = "Rome"
    stops: list[str] = []


def travel_api():
    """A FastAPI application, which writes its own document."""
    app = fastapi.FastAPI()

    @app.get("/cities/{name}/weather", operation_id="getWeather", summary="The weather of a city.")
    def weather(
        name: str,
        days: int = 1,
        tags: Annotated[list[str], fastapi.Query()] = [],  # noqa: B006  # fastapi's form
        x_unit: Annotated[str, fastapi.Header()] = "C",
    ):
        return {"answer": f"{name} {days} {'+'.join(tags)} {x_unit}"}

    @app.post("/trips")
    def plan(trip: Trip):
        """Plans a trip.

        At length.
        """
        return {"answer": f"{trip.start}-{trip.end} {trip.stops}"}

    @app.delete("/trips/{number}", operation_id="cancel")
    def cancel(number: int):
        return {"answer": number}

    @app.post("/photos", operation_id="upload")
    def upload(photo: Annotated[bytes, fastapi.Form()]):
        return {"answer": len(photo)}

    return app


@contextmanager
def running(app):
    """The address of the application on a server of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(app, log_level="critical", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def travel():
    with running(travel_api()) as url:
        yield url


def build(document, **settings):
    config = OpenApiTool(document=str(document), **{"allow_private": True} | settings)
    return {tool.name: tool for tool in openapi_tools(config, environment_lookup, 5.0)}


def call(tool, argument=""):
    return tool.call(argument, NO_DOCUMENT)


def minimal(operation=None, version="3.1.0", path="/a", **parts):
    """A document of one operation."""
    operation = {"operationId": "op"} | (operation or {})
    return {"openapi": version, "paths": {path: {"get": operation}}} | parts


def written(tmp_path, document):
    path = tmp_path / "api.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def with_body(schema, *, required=True, media_type="application/json", **components):
    """A document whose operation takes a body."""
    body = {"required": required, "content": {media_type: {"schema": schema}}}
    operation = {"operationId": "op", "requestBody": body}
    return {
        "openapi": "3.1.0",
        "paths": {"/a": {"post": operation}},
        "components": {"schemas": components},
    }


def test_tools_of_fastapi_get_and_post_json(travel):
    tools = build(f"{travel}/openapi.json", result="/answer")
    assert list(tools) == ["getWeather", "plan_trips_post"]
    weather = tools["getWeather"]
    assert weather.description == "The weather of a city."
    assert weather.arguments.names == ("name", "days", "tags", "x_unit")
    assert call(weather, "Oslo") == "Oslo 1  C"
    argument = 'name="a/b", days=3, tags=["x", "y"], x_unit="F"'
    with pytest.raises(ToolInputRejected, match="status 404"):  # uvicorn decodes before it routes
        call(weather, argument)
    assert call(weather, argument.replace("a/b", "a b?")) == "a b? 3 x+y F"


def test_tools_of_fastapi_body_is_given_by_property(travel):
    plan = build(f"{travel}/openapi.json", result="/answer")["plan_trips_post"]
    assert plan.description == "Plan"
    assert plan.arguments.signature() == 'start: string, end: string = "Rome", stops: array = []'
    assert call(plan, '{"start": "Oslo"}') == "Oslo-Rome []"
    assert call(plan, 'start="Oslo", stops=["Kiel"]') == "Oslo-Rome ['Kiel']"


def test_tools_of_fastapi_refused_input_is_a_rejection(travel):
    weather = build(f"{travel}/openapi.json")["getWeather"]
    with pytest.raises(ToolInputRejected, match="not of type 'integer'"):
        call(weather, 'name="Oslo", days="soon"')


def test_tools_named_operations_are_taken_in_that_order(travel):
    tools = build(f"{travel}/openapi.json", operations=("cancel", "getWeather"), prefix="travel.")
    assert list(tools) == ["travel.cancel", "travel.getWeather"]
    assert call(tools["travel.cancel"], "7") == '{"answer":7}'


def test_tools_unknown_operation_is_named_with_the_known_ones(travel):
    with pytest.raises(ConfigError, match="no operation 'fly'; known: getWeather, plan_trips_post"):
        build(f"{travel}/openapi.json", operations=("fly",))


def test_tools_operation_without_json_is_refused_if_named(travel):
    with pytest.raises(ConfigError, match="upload takes no JSON"):
        build(f"{travel}/openapi.json", operations=("upload",))


def test_tools_example_is_of_a_single_operation(travel):
    document = f"{travel}/openapi.json"
    one = build(document, operations=("getWeather",), example="Oslo")
    assert one["getWeather"].example == "Oslo"
    assert {tool.example for tool in build(document, example="Oslo").values()} == {None}


def test_tools_demonstrations_go_to_their_operation(travel):
    text = "It is [getWeather(Oslo)] cold in Oslo."
    tools = build(f"{travel}/openapi.json", demonstrations=(text,))
    assert text in tools["getWeather"].prompt
    assert text not in tools["plan_trips_post"].prompt


def test_tools_can_be_described(travel):
    tools = build(f"{travel}/openapi.json")
    assert json.loads(describe(tools["getWeather"]).parameters)["additionalProperties"] is False


def test_document_in_yaml_from_a_file(tmp_path):
    path = tmp_path / "api.yaml"
    path.write_text(
        """
        openapi: 3.0.3
        servers: [{url: 'http://{where}.test/{version}/', variables: {where: {default: api},
                   version: {default: v2, enum: [v2]}}}]
        paths:
          /on/{day}:
            parameters:
              - $ref: '#/components/parameters/Day'
              - {name: unit, in: query, schema: {type: string}}
            get:
              operationId: on-day
              description: |
                What was on a day.
                More.
              parameters: [{name: unit, in: query, required: true, schema: {type: integer}}]
        components:
          parameters:
            Day: {name: day, in: path, required: true, description: The day,
                  schema: {type: string, default: 2020-01-01}}
        """
    )
    tool = build(path)["on-day"]
    assert tool.description == "What was on a day."
    assert tool.parameters["properties"] == {
        "day": {"description": "The day", "type": "string", "default": "2020-01-01"},
        "unit": {"type": "integer"},
    }
    assert tool._endpoint.url == "http://api.test/v2/on/{day}"


@pytest.mark.parametrize(
    ("servers", "expected"),
    [
        (None, "{origin}/a"),
        ([], "{origin}/a"),
        ([{"url": "/v1"}], "{origin}/v1/a"),
        ([{"url": "v1/"}], "{origin}/docs/v1/a"),
        ([{"url": "https://other.test?x=1"}], "https://other.test/a"),
    ],
)
def test_server_is_found_from_the_address_of_the_document(servers, expected):
    document = minimal() | ({} if servers is None else {"servers": servers})
    with answering(as_json(document)) as server:
        tool = build(f"{server.url}/docs/api.json")["op"]
        assert tool._endpoint.url == expected.format(origin=server.url)


def test_server_of_the_settings_counts(tmp_path):
    path = written(tmp_path, minimal(servers=[{"url": "http://other.test"}]))
    assert build(path, server="http://api.test/v1/")["op"]._endpoint.url == "http://api.test/v1/a"


def test_server_of_a_file_that_names_none_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="set server"):
        build(written(tmp_path, minimal()))


def test_server_elsewhere_gets_headers_only_if_the_settings_name_it(monkeypatch):
    monkeypatch.setenv("TRAVEL_KEY", "hunter2")
    headers = {"Authorization": "Bearer ${env:TRAVEL_KEY}"}
    with answering(Reply(b"x")) as api:
        document = minimal(servers=[{"url": api.url}])
        with answering(as_json(document)) as server:
            with pytest.raises(ConfigError, match=f"set server={api.url}"):
                build(server.url, headers=headers)
            call(build(server.url, headers=headers, server=api.url)["op"])
        assert "authorization" not in server.received[0].headers
    assert api.received[0].headers["authorization"] == "Bearer hunter2"


def test_document_cannot_name_a_secret(monkeypatch, tmp_path):
    monkeypatch.setenv("TRAVEL_KEY", "hunter2")
    with answering(Reply(b"x")) as server:
        document = minimal(
            path="/${env:TRAVEL_KEY}/x", servers=[{"url": f"{server.url}/${{env:TRAVEL_KEY}}"}]
        )
        tool = build(written(tmp_path, document))["op"]
        for argument in ("y", '{"env_TRAVEL_KEY": "${env:TRAVEL_KEY}"}'):
            call(tool, argument)
    assert not [r.path for r in server.received if "hunter2" in r.path]


@pytest.mark.parametrize("name", ["X-Key", "x-key", "Authorization", "Host", "Content-Length"])
def test_header_that_is_not_the_models_is_no_parameter(tmp_path, name):
    parameters = [{"name": name, "in": "header", "required": True}]
    document = minimal({"parameters": parameters}, servers=[{"url": "http://api.test"}])
    tool = build(written(tmp_path, document), headers={"X-Key": "${env:TRAVEL_KEY}"})["op"]
    assert tool.arguments.names == ()


def test_header_of_the_model_cannot_start_another(tmp_path):
    parameters = [{"name": "X-Unit", "in": "header"}]
    document = minimal({"parameters": parameters}, servers=[{"url": "http://api.test"}])
    with pytest.raises(ToolInputRejected, match="header X-Unit"):
        call(build(written(tmp_path, document))["op"], '{"X_Unit": "C\\r\\nX-Admin: 1"}')


def test_cookie_is_no_parameter(tmp_path):
    parameters = [{"name": "session", "in": "cookie"}]
    document = minimal({"parameters": parameters}, servers=[{"url": "http://api.test"}])
    assert build(written(tmp_path, document))["op"].arguments.names == ()


def test_equal_names_in_different_places_are_told_apart(tmp_path):
    with answering(Reply(b"x")) as server:
        document = with_body({"properties": {"id": {}, "a b": {}}})
        document["servers"] = [{"url": server.url}]
        operation = document["paths"].pop("/a")["post"]
        operation["parameters"] = [{"name": "id", "in": "query"}]
        document["paths"]["/a/{id}"] = {"post": operation}
        tool = build(written(tmp_path, document))["op"]
        assert tool.arguments.names == ("id", "query_id", "member_id", "a_b")
        call(tool, '"1", "2", "3", "4"')
    assert server.received[0].path == "/a/1?id=2"
    assert json.loads(server.received[0].body) == {"id": "3", "a b": "4"}


def test_body_that_is_no_object_is_one_parameter(tmp_path):
    with answering(Reply(b"x")) as server:
        document = with_body({"type": "array", "items": {"type": "integer"}})
        document["servers"] = [{"url": server.url}]
        tool = build(written(tmp_path, document))["op"]
        call(tool, "[1, 2]")
        with pytest.raises(ToolInputRejected):
            call(tool, '["a"]')
    assert json.loads(server.received[0].body) == [1, 2]


def parameters_of(tmp_path, document):
    document = {"servers": [{"url": "http://api.test"}]} | document
    return build(written(tmp_path, document))["op"].parameters


def test_body_read_only_properties_are_left_out(tmp_path):
    schema = {"properties": {"id": {"readOnly": True}, "name": {}}, "required": ["id", "name"]}
    found = parameters_of(tmp_path, with_body(schema))
    assert (list(found["properties"]), found["required"]) == (["name"], ["name"])


def test_body_that_may_be_left_out_requires_nothing(tmp_path):
    schema = {"properties": {"name": {}}, "required": ["name"]}
    assert parameters_of(tmp_path, with_body(schema, required=False))["required"] == []


@pytest.mark.parametrize("media_type", ["application/vnd.api+json", "application/json; v=1"])
def test_body_of_any_json_type_is_taken(tmp_path, media_type):
    found = parameters_of(tmp_path, with_body({"properties": {"a": {}}}, media_type=media_type))
    assert list(found["properties"]) == ["a"]


@pytest.mark.parametrize("media_type", ["application/jsonl", "multipart/form-data"])
def test_body_of_another_type_is_left_out(tmp_path, media_type):
    document = with_body({"properties": {"a": {}}}, media_type=media_type)
    document["servers"] = [{"url": "http://api.test"}]
    assert build(written(tmp_path, document)) == {}


def test_schema_references_are_resolved(tmp_path):
    document = with_body(
        {"$ref": "#/components/schemas/Trip"},
        Trip={"properties": {"to": {"$ref": "#/components/schemas/a~1b%20c", "title": "T"}}},
        **{"a/b c": {"type": "string"}},
    )
    found = parameters_of(tmp_path, document)
    assert found["properties"] == {"to": {"type": "string", "title": "T"}}


def test_schema_that_contains_itself_is_cut(tmp_path):
    node = {"type": "object", "properties": {"next": {"$ref": "#/components/schemas/Node"}}}
    found = parameters_of(tmp_path, with_body({"$ref": "#/components/schemas/Node"}, Node=node))
    once = {"type": "object", "properties": {"next": {}}}
    assert found["properties"] == {"next": once}


def test_schema_that_multiplies_is_cut(tmp_path):
    names = [f"S{k}" for k in range(8)]
    schemas = {
        name: {
            "properties": {f"p{j}": {"$ref": f"#/components/schemas/{after}"} for j in range(50)}
        }
        for name, after in itertools.pairwise(names)
    }
    document = with_body({"$ref": "#/components/schemas/S0"}, **schemas, S7={"type": "string"})
    assert len(json.dumps(parameters_of(tmp_path, document))) < 100_000


def test_schema_of_yaml_aliases_that_multiply_is_refused(tmp_path):
    lines = ["a0: &a0 {type: string}"]
    lines += [
        f"a{k}: &a{k} {{properties: {{x: *a{k - 1}, y: *a{k - 1}, z: *a{k - 1}}}}}"
        for k in range(1, 25)
    ]
    path = tmp_path / "api.yaml"
    path.write_text(
        "openapi: 3.1.0\nservers: [{url: 'http://api.test'}]\nx:\n"
        + "".join(f"  {line}\n" for line in lines)
        + "paths: {/a: {get: {parameters: [{name: q, in: query, schema: *a24}]}}}\n"
    )
    with pytest.raises(ConfigError, match="too large"):
        build(path)


def test_schema_that_is_nested_too_deeply_is_refused(tmp_path):
    document = json.dumps(minimal()).replace('"op"', '"op", "x": ' + "[" * 100_000 + "]" * 100_000)
    with pytest.raises(ConfigError, match="nested too deeply"):
        build(written(tmp_path, document))


def test_schema_of_openapi_3_0_becomes_a_json_schema(tmp_path):
    schema = {
        "properties": {
            "a": {"type": "string", "nullable": True},
            "b": {"minimum": 0, "exclusiveMinimum": True},
            "c": {"maximum": 9, "exclusiveMaximum": False},
            "nullable": {"type": "boolean"},
        }
    }
    assert parameters_of(tmp_path, with_body(schema))["properties"] == {
        "a": {"type": ["string", "null"], "nullable": True},
        "b": {"exclusiveMinimum": 0},
        "c": {"maximum": 9},
        "nullable": {"type": "boolean"},
    }


def test_schema_loads_nothing_and_has_no_patterns(tmp_path):
    schema = {
        "properties": {
            "a": {"$dynamicRef": "http://evil.test/", "$id": "http://evil.test/", "type": "string"},
            "b": {"pattern": "(a+)+$", "patternProperties": {"(a+)+$": {}}},
            "pattern": {"type": "string"},
        }
    }
    assert parameters_of(tmp_path, with_body(schema))["properties"] == {
        "a": {"type": "string"},
        "b": {},
        "pattern": {"type": "string"},
    }


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("http://evil.test/schema.json", "leaves the document"),
        ("other.json#/a", "leaves the document"),
        ("#/components/schemas/None", "leads nowhere"),
        ("#anchor", "leads nowhere"),
        ("#/components/schemas/Circle", "leads in a circle"),
    ],
)
def test_reference_that_cannot_be_followed_is_refused(tmp_path, reference, said):
    circle = {"$ref": "#/components/schemas/Circle"}
    with pytest.raises(ConfigError, match=said):
        parameters_of(tmp_path, with_body({"$ref": reference}, Circle=circle))


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({"swagger": "2.0", "paths": {}}, "openapi is None; expected 3.x"),
        ([], "openapi is None"),
        ("{", "is not YAML"),
        (minimal(path="@evil.test/"), "is no path"),
        (minimal({"parameters": [{"in": "query"}]}), "parameters of op: name: Field required"),
        (minimal({"parameters": 1}), r"/a: get\.parameters"),
        (minimal({"requestBody": 1}), "requestBody of op"),
        (minimal(servers=1), "servers"),
        (minimal(servers=[{"url": "http://[::1"}]), "servers"),
        (minimal(servers=[{"url": "ftp://api.test"}]), "servers"),
        (minimal({"parameters": [{"name": "q", "in": "query", "schema": {"type": 1}}]}), "schema"),
    ],
)
def test_document_that_is_none_is_refused(tmp_path, document, said):
    if isinstance(document, dict):
        document = {"servers": [{"url": "http://api.test"}]} | document
    with pytest.raises(ConfigError, match=said):
        build(written(tmp_path, document))


def test_document_extensions_of_paths_are_no_operations(tmp_path):
    document = minimal(servers=[{"url": "http://api.test"}])
    document["paths"]["x-note"] = "text"
    assert list(build(written(tmp_path, document))) == ["op"]


def test_document_that_is_missing_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="cannot read the document"):
        build(tmp_path / "none.json")


def test_document_that_is_not_found_is_refused():
    with (
        answering(Reply(status=404)) as server,
        pytest.raises(ConfigError, match="cannot read the document: status 404"),
    ):
        build(server.url)


@pytest.mark.parametrize("reply", [Reply(status=503), Reply(b"x" * 99, drip=0.1)])
def test_document_out_of_reach_is_an_outage(reply):
    with answering(reply) as server:
        config = OpenApiTool(allow_private=True, document=server.url)
        with pytest.raises(TransientToolError, match=server.url):
            openapi_tools(config, environment_lookup, 0.3)


def test_document_at_a_private_address_is_refused_unless_allowed():
    with answering(as_json(minimal())) as server, pytest.raises(ConfigError, match="not public"):
        build(server.url, allow_private=False)


def test_document_elsewhere_is_not_followed_to():
    with (
        answering(redirect("http://169.254.169.254/")) as server,
        pytest.raises(ConfigError, match="not followed"),
    ):
        build(server.url)


@pytest.mark.parametrize(
    ("operation_id", "expected"),
    [("get weather!", "get_weather_"), ("2nd", "_2nd"), (None, "get_a_id_"), ("x" * 99, "x" * 64)],
)
def test_name_is_one_of_the_notation(tmp_path, operation_id, expected):
    document = minimal(
        {"operationId": operation_id}, path="/a/{id}", servers=[{"url": "http://api.test"}]
    )
    assert list(build(written(tmp_path, document))) == [expected]


def test_name_of_two_operations_is_refused(tmp_path):
    document = minimal(servers=[{"url": "http://api.test"}])
    document["paths"]["/b"] = document["paths"]["/a"]
    with pytest.raises(ConfigError, match="several operations are named op"):
        build(written(tmp_path, document))
