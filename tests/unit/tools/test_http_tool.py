import json
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.support.http_tools import Reply, answering, as_json
from toolformer_core.config.overrides import parse_config
from toolformer_core.config.tools import HttpTool, McpTool, OpenApiTool
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected, TransientToolError
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.http_tool import http_tool
from toolformer_core.tools.secret_values import environment_lookup

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def build(url, lookup=environment_lookup, timeout_seconds=5.0, **settings):
    given = {"name": "Weather", "description": "The weather.", "parameters": CITY} | settings
    return http_tool(HttpTool(url=url, allow_private=True, **given), lookup, timeout_seconds)


def call(tool, argument="Oslo"):
    return tool.call(argument, NO_DOCUMENT)


def schema(**properties):
    return {"type": "object", "properties": properties}


def test_tool_query_holds_arguments_beside_what_the_url_has():
    with answering(Reply(b"cold")) as server:
        tool = build(f"{server.url}/now?units=metric", parameters=schema(city={}, days={}))
        assert call(tool, 'city="S\u00e3o Paulo & co", days=2') == "cold"
    url = urlsplit(server.received[0].path)
    assert url.path == "/now"
    assert parse_qsl(url.query) == [
        ("units", "metric"),
        ("city", "S\u00e3o Paulo & co"),
        ("days", "2"),
    ]


def test_tool_query_list_is_sent_item_by_item_and_null_not_at_all():
    with answering(Reply(b"x")) as server:
        tool = build(server.url, parameters=schema(a={}, b={}, c={}, d={}))
        call(tool, '{"a": [1, true], "b": null, "c": {"k": 1}}')
    assert parse_qsl(urlsplit(server.received[0].path).query) == [
        ("a", "1"),
        ("a", "true"),
        ("c", '{"k":1}'),
    ]


def test_tool_parameter_in_the_url_is_percent_encoded():
    with answering(Reply(b"x")) as server:
        call(build(f"{server.url}/of/{{city}}/now?for={{city}}"), "AC/DC?x=1&y#z%41")
    encoded = "AC%2FDC%3Fx%3D1%26y%23z%2541"
    assert server.received[0].path == f"/of/{encoded}/now?for={encoded}"


@pytest.mark.parametrize("value", ["..", ".", "a/../b", "..\\a", "", "../../admin"])
def test_tool_value_that_would_change_the_path_is_rejected(value):
    with answering(Reply(b"x")) as server:
        tool = build(f"{server.url}/of/{{city}}/now")
        with pytest.raises(ToolInputRejected):
            call(tool, json.dumps({"city": value}))
        assert not server.received


def test_tool_values_that_join_to_dots_are_rejected():
    tool = build("http://api.test/{a}{b}/x", parameters=schema(a={}, b={}))
    with pytest.raises(ToolInputRejected, match=r"\. or \.\."):
        call(tool, '".", "."')


def test_tool_parameter_of_the_url_is_required():
    tool = build("http://api.test/{city}", parameters=schema(city={"type": "string"}))
    with pytest.raises(ToolInputRejected, match="'city' is a required property"):
        call(tool, "")


def test_tool_unknown_argument_is_rejected():
    with pytest.raises(ToolInputRejected, match="admin"):
        call(build("http://api.test/"), 'city="Oslo", admin=true')


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["/{city}", "/"])
def test_tool_text_that_is_no_unicode_is_rejected(method, path):
    tool = build(f"http://api.test{path}", method=method)
    with pytest.raises(ToolInputRejected, match="cannot be sent"):
        call(tool, '{"city": "\\ud800"}')


def test_tool_number_too_large_for_json_is_rejected():
    tool = build("http://api.test/", method="POST", parameters=schema(a={}))
    with pytest.raises(ToolInputRejected, match="cannot be sent"):
        call(tool, '{"a": 1e999}')


def test_tool_post_sends_json_but_for_what_is_in_the_url():
    with answering(Reply(b"x")) as server:
        tool = build(f"{server.url}/{{a}}", method="POST", parameters=schema(a={}, b={}, c={}))
        call(tool, '{"a": "A", "b": 1.5, "c": ["\u00e9"]}')
    received = server.received[0]
    assert (received.method, received.path) == ("POST", "/A")
    assert json.loads(received.body) == {"b": 1.5, "c": ["\u00e9"]}
    assert received.headers["content-type"] == "application/json"


@pytest.mark.parametrize(
    ("value", "pointer", "expected"),
    [
        ({"now": {"t": -3}}, "/now/t", "-3"),
        ({"now": {"t": 2.5}}, "/now/t", "2.5"),
        ({"a/b": ["x", "y z"]}, "/a~1b/1", "y z"),
        ({"a": True}, "/a", "true"),
        ({"a": 0}, "/a", "0"),
        ({"a": None}, "/a", ""),
        ({"a": []}, "/a", ""),
        ({"a": ""}, "/a", ""),
        ({"a": {"b": [1, "\u00e9"]}}, "/a", '{"b":[1,"\u00e9"]}'),
        ("bare", None, "bare"),
        ("half \ud800", None, "half ?"),
        ({"a": 1}, None, '{"a":1}'),
        ({"a": 1}, "", '{"a":1}'),
    ],
)
def test_tool_result_is_what_the_pointer_shows(value, pointer, expected):
    with answering(as_json(value)) as server:
        assert call(build(server.url, result=pointer)) == expected


@pytest.mark.parametrize("pointer", ["/b", "/a/7", "/a/0/x", "/a/x", "/a/-"])
def test_tool_result_pointer_to_nothing_is_an_error_that_quotes_no_response(pointer):
    with answering(as_json({"a": ["hunter2"]})) as server, pytest.raises(ToolError) as caught:
        call(build(server.url, result=pointer))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("content", [b"<html>", b"[" * 9_000, b"1" * 9_000])
def test_tool_result_that_is_no_json_is_an_error(content):
    with (
        answering(Reply(content, "application/json")) as server,
        pytest.raises(ToolError, match="not JSON"),
    ):
        call(build(server.url))


def test_tool_result_binary_is_an_error():
    with answering(Reply(b"\x89PNG", "image/png")) as server:
        with pytest.raises(ToolError, match="binary"):
            call(build(server.url))
        with pytest.raises(ToolError, match="binary"):
            call(build(server.url, result="/a"))


def test_tool_long_response_is_an_error():
    with answering(Reply(b"x" * 101)) as server, pytest.raises(ToolError, match="more than 100"):
        call(build(server.url, max_response_bytes=100))


def test_tool_slow_response_is_a_time_out():
    with answering(Reply(b"x" * 99, drip=0.05)) as server, pytest.raises(TimeoutError):
        call(build(server.url, timeout_seconds=0.2))


def test_tool_private_address_is_refused_unless_allowed():
    with answering(Reply(b"x")) as server:
        config = HttpTool(name="W", description="d", url=server.url)
        with pytest.raises(ConfigError, match="allow_private"):
            call(http_tool(config, environment_lookup, 5.0), "Oslo")


def test_tool_secret_is_sent_and_hidden_where_it_comes_back(monkeypatch):
    monkeypatch.setenv("WEATHER_KEY", "hunter/2")

    def echo(request):
        return as_json({"echo": f"{request.headers['authorization']} at {request.path}"})

    with answering(echo) as server:
        tool = build(
            f"{server.url}/{{city}}?appid=${{env:WEATHER_KEY}}",
            headers={"Authorization": "Bearer ${env:WEATHER_KEY}"},
            result="/echo",
        )
        assert call(tool) == "Bearer *** at /Oslo?appid=***"
    assert server.received[0].headers["authorization"] == "Bearer hunter/2"
    assert server.received[0].path == "/Oslo?appid=hunter%2F2"


def test_tool_secret_in_an_error_is_hidden(monkeypatch):
    monkeypatch.setenv("WEATHER_KEY", "hunter2")

    def echo(request):
        return Reply(request.headers["x-key"].encode(), status=503)

    with answering(echo) as server, pytest.raises(TransientToolError, match=r"503: \*\*\*"):
        call(build(server.url, headers={"X-Key": "${env:WEATHER_KEY}"}))


def test_tool_secret_is_looked_up_at_each_call():
    secrets = iter(["first", "second"])
    with answering(lambda request: Reply(request.headers["x-key"][:3].encode())) as server:
        tool = build(
            server.url, lambda source, name: next(secrets), headers={"X-Key": "${prefect:key}"}
        )
        assert [call(tool), call(tool)] == ["fir", "sec"]


def test_tool_missing_secret_is_named_before_anything_is_sent(monkeypatch):
    monkeypatch.delenv("WEATHER_KEY", raising=False)
    with answering(Reply(b"x")) as server:
        with pytest.raises(ConfigError, match="WEATHER_KEY is not set"):
            call(build(server.url, headers={"X-Key": "${env:WEATHER_KEY}"}))
        assert not server.received


def test_tool_secret_with_a_line_end_is_refused_without_being_shown(monkeypatch):
    monkeypatch.setenv("WEATHER_KEY", "hunter2\n")
    with pytest.raises(ConfigError, match="header X-Key") as caught:
        call(build("http://api.test/", headers={"X-Key": "${env:WEATHER_KEY}"}))
    assert "hunter2" not in str(caught.value)


def test_tool_argument_cannot_name_a_secret(monkeypatch):
    monkeypatch.setenv("WEATHER_KEY", "hunter2")
    with answering(lambda request: Reply(request.path.encode())) as server:
        result = call(build(f"{server.url}/{{city}}?q={{city}}"), "${env:WEATHER_KEY}")
    encoded = "%24%7Benv%3AWEATHER_KEY%7D"
    assert result == f"/{encoded}?q={encoded}"


def test_tool_secret_cannot_name_a_parameter(monkeypatch):
    monkeypatch.setenv("WEATHER_KEY", "x{city}")
    with answering(Reply(b"x")) as server:
        call(build(f"{server.url}/{{city}}?k=${{env:WEATHER_KEY}}"))
    assert server.received[0].path == "/Oslo?k=x%7Bcity%7D"


def test_tool_public_attributes_hold_no_secret(monkeypatch):
    monkeypatch.setenv("WEATHER_KEY", "hunter2")
    with answering(Reply(b"x")) as server:
        tool = build(server.url, headers={"X-Key": "${env:WEATHER_KEY}"})
        call(tool)
    assert "hunter2" not in repr(vars(tool)) + repr(tool._endpoint)


def test_tool_version_depends_on_what_is_asked_and_on_no_secret(monkeypatch):
    url = "http://api.test/?k=${env:WEATHER_KEY}"
    monkeypatch.setenv("WEATHER_KEY", "one")
    version = build(url).version
    monkeypatch.setenv("WEATHER_KEY", "two")
    assert build(url, description="Other words.", example="Rome").version == version
    others = [
        build(f"{url}&x=1"),
        build(url, method="POST"),
        build(url, result="/a"),
        build(url, parameters=CITY | {"description": "other"}),
        build(url, headers={"Accept-Language": "no"}),
    ]
    assert len({version, *(other.version for other in others)}) == 6


def test_tool_describes_itself():
    tool = build(
        "http://api.test/{city}",
        demonstrations=("It is [Weather(Oslo)] cold in Oslo.",),
        example="Oslo",
    )
    assert (tool.name, tool.description, tool.example) == ("Weather", "The weather.", "Oslo")
    assert tool.context_fields == ()
    assert "It is [Weather(Oslo)] cold in Oslo." in tool.prompt
    assert tool.parameters == CITY | {"additionalProperties": False}


def test_tool_headers_of_the_settings_replace_ours():
    with answering(Reply(b"x")) as server:
        call(build(server.url, headers={"User-Agent": "mine"}))
    assert server.received[0].headers["user-agent"] == "mine"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"url": "http://{city}.api.test/"}, "no address"),
        ({"url": "http://api.test/{town}"}, r"\{town\} of the url is no parameter.*: city"),
        ({"result": "now/t"}, "'now/t' is no JSON pointer"),
        ({"parameters": {"type": "object", "properties": 1}}, "no JSON schema"),
        ({"parameters": {"type": "object", "required": 1}}, "no JSON schema"),
    ],
)
def test_tool_bad_setting_is_named(settings, said):
    with pytest.raises(ConfigError, match=said):
        build(**{"url": "http://api.test/"} | settings)


@pytest.mark.parametrize(
    "name", ["Authorization", "cookie", "X-API-Key", "apikey", "X-Auth-Token", "Client-Secret"]
)
def test_settings_secret_in_a_header_or_variable_is_refused_without_being_shown(name):
    for entry in (
        {"kind": "openapi", "document": "api.json", "headers": {name: "hunter2"}},
        {"kind": "mcp", "command": ["server"], "env": {name: "hunter2"}},
    ):
        with pytest.raises(ConfigError, match=r"expected \$\{env:NAME\}") as caught:
            parse_config({"tools": {"own": [entry]}})
        assert name in str(caught.value)
        assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["https://api.test/?appid=hunter2&q={q}", "https://user:hunter2@api.test/"],
)
def test_settings_secret_in_an_address_is_refused_without_being_shown(url):
    for entry in (
        {"kind": "http", "name": "W", "description": "d", "url": url},
        {"kind": "openapi", "document": url},
        {"kind": "openapi", "document": "api.json", "server": url},
    ):
        with pytest.raises(ConfigError, match=r"expected \$\{env:NAME\}") as caught:
            parse_config({"tools": {"own": [entry]}})
        assert "hunter2" not in str(caught.value)


def test_settings_references_and_plain_headers_are_taken():
    headers = {"Authorization": "Bearer ${env:A}", "X-Key": "${prefect:b}", "Accept": "text/csv"}
    url = "https://api.test/?keyword=rain&appid=${env:A}"
    assert HttpTool(name="W", description="d", url=url, headers=headers).headers == headers
    assert McpTool(url="https://api.test/", headers=headers).headers == headers
    assert OpenApiTool(document="api.json", headers=headers).document == "api.json"
