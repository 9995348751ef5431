"""The example of TOOLS.md of tools of one's own, each kind called on the command line.

Addresses, module and server of the example are replaced by ones that are here.
"""

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from prefect.blocks.system import Secret

from tasks.loaded_tools import look_up_secret
from tests.support.http_tools import Reply, answering, as_json
from tests.unit.tools.test_mcp_server import serving
from toolformer_core.errors import ConfigError

TOOLS = Path(__file__).parents[2] / "toolformer_core" / "tools" / "TOOLS.md"
DOCUMENT = {
    "openapi": "3.1.0",
    "info": {"title": "Tides", "version": "1"},
    "paths": {
        "/tide/{port}": {
            "get": {
                "operationId": "high_tide",
                "summary": "Tells when the tide is high.",
                "parameters": [
                    {"name": "port", "in": "path", "required": True, "schema": {"type": "string"}}
                ],
                "responses": {"200": {"description": "The time."}},
            }
        }
    },
}


def service(request):
    """The weather, for who has the key; and the tides, for all."""
    if request.path == "/openapi.json":
        return as_json(DOCUMENT)
    if request.path == "/tide/Brest":
        return Reply(b"14:05")
    if request.path == "/Oslo" and request.headers.get("x-api-key") == "sesame":
        return as_json({"current": {"temperature": -3.5}, "key": "sesame"})
    return as_json({"error": f"no key, but {request.headers.get('x-api-key')}"}, status=403)


def example():
    """The settings in TOOLS.md."""
    [block] = re.findall(r"```yaml\n(.*?)```", TOOLS.read_text(encoding="utf-8"), re.DOTALL)
    return yaml.safe_load(block)


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    with answering(service) as server, serving() as mcp_url:
        content = example()
        python, http, openapi, mcp = content["tools"]["own"]
        python["function"] = "tests.support.own_tools:convert"
        http |= {"url": f"{server.url}/{{city}}", "allow_private": True}
        openapi |= {
            "document": f"{server.url}/openapi.json",
            "server": server.url,
            "allow_private": True,
        }
        mcp["command"] = [sys.executable, "-m", "tests.support.mcp_example"]
        remote = {"kind": "mcp", "url": mcp_url, "prefix": "remote_", "allow_private": True}
        content["tools"]["own"].append(remote)
        path = tmp_path_factory.mktemp("own") / "settings.yaml"
        path.write_text(yaml.safe_dump({**content, "corpus": {"sources": ["texts.jsonl"]}}))
        yield path


@pytest.mark.parametrize(
    ("name", "argument", "result"),
    [
        ("convert", "10, km", "6.2"),
        ("Weather", "Oslo", "-3.5"),
        ("high_tide", "Brest", "14:05"),
        ("add", "2, 3", "5"),
        ("remote_add", "2, b=3", "5"),
    ],
)
def test_tools_call_own_tool_of_each_kind_answers(
    invoke,
    config_file,
    monkeypatch,
    name,
    argument,
    result,
):
    monkeypatch.setenv("WEATHER_KEY", "sesame")
    code, output, errors = invoke("tools", "call", name, argument, "--config", config_file)
    assert (code, output.strip(), errors) == (0, result, "")


def test_tools_call_bad_argument_is_answered_with_the_reason(invoke, config_file):
    code, output, _ = invoke("tools", "call", "convert", "ten, km", "--config", config_file)
    assert code == 0
    assert output.startswith("rejected: amount: 'ten' is not of type 'number'")


def test_tools_list_shows_own_tools_with_schema_version_health_and_cost(
    invoke,
    config_file,
    monkeypatch,
):
    monkeypatch.setenv("WEATHER_KEY", "sesame")
    code, output, _ = invoke("tools", "list", "--config", config_file, "--json")
    assert code == 0
    rows = {row["name"]: row for row in json.loads(output)}
    convert = rows["convert"]
    assert convert["signature"] == '(amount: number, source: km or mi, to: km or mi = "mi")'
    assert convert["health"] == "ok"
    assert convert["seconds_per_call"] > 0
    assert rows["Weather"]["health"] == "unknown: no example to try"
    assert rows["high_tide"]["description"] == "Tells when the tide is high."
    for name in ("convert", "Weather", "high_tide", "add", "remote_add", "Calculator"):
        assert rows[name]["version"]
    assert "sesame" not in output


def test_tools_list_server_that_is_away_is_listed_with_its_fault(invoke):
    entry = "tools.own=[{kind: mcp, command: [no-such-server]}]"
    code, output, _ = invoke("tools", "list", "--set", entry, "--json")
    assert code == 0
    health = {row["name"]: row["health"] for row in json.loads(output)}
    assert "no-such-server" in health["no-such-server"]
    assert health["Calculator"] == "ok"


def test_secret_of_an_http_tool_stays_out_of_answers(invoke, config_file, monkeypatch):
    monkeypatch.setenv("WEATHER_KEY", "sesamum")
    _, output, errors = invoke("tools", "call", "Weather", "Lima", "--config", config_file)
    assert "no key, but ***" in output
    assert "sesamum" not in output + errors


def test_secret_of_a_prefect_block_is_looked_up(prefect_server):
    Secret(value="sesame").save("weather-key")
    assert look_up_secret("prefect", "weather-key") == "sesame"
    with pytest.raises(ConfigError, match="no Secret block 'tide-key'; make one in the UI"):
        look_up_secret("prefect", "tide-key")
