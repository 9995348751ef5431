"""Tools of real MCP servers, on stdio and on streamable HTTP."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx2
import psutil
import pytest

from toolformer_core.config.tools import McpTool
from toolformer_core.errors import ConfigError, ToolError, ToolInputRejected, TransientToolError
from toolformer_core.tools import mcp_server
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.mcp_server import mcp_tools, valid_name
from toolformer_core.tools.mcp_transport import Pinned

EXAMPLE = (sys.executable, "-m", "tests.support.mcp_example")
MAX_BYTES = 20_000


def no_secret(source, name):
    raise ConfigError(f"no secret {source}:{name}")


def sesame(source, name):
    return f"sesame-{source}-{name}"


def tools_of(lookup=no_secret, timeout_seconds=20.0, **settings):
    config = McpTool(**({"max_response_bytes": MAX_BYTES} | settings))
    return {tool.name: tool for tool in mcp_tools(config, lookup, timeout_seconds)}


def call(tools, name, argument=""):
    return tools[name].call(argument, NO_DOCUMENT)


def runs(process_id):
    """Whether a process runs; one that was killed a moment ago is given time to end."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(process_id).status() == psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            return False
        time.sleep(0.01)
    return True


@contextmanager
def serving(kind="http"):
    """The address of the example on HTTP, in a child process."""
    with subprocess.Popen(
        [*EXAMPLE, kind], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            address = child.stdout.readline().strip()
            assert address, f"the server ended with {child.wait()}"
            yield address
        finally:
            child.kill()


@pytest.fixture(scope="module")
def stdio():
    return tools_of(command=EXAMPLE)


@pytest.fixture(scope="module")
def http_url():
    with serving() as url:
        yield url


@pytest.fixture(scope="module")
def http(http_url):
    return tools_of(url=http_url, allow_private=True)


@pytest.fixture(scope="module")
def old_http():
    with serving("http-old") as url:
        yield tools_of(url=url, allow_private=True)


@pytest.fixture(params=["stdio", "http", "old_http"])
def tools(request):
    """The tools of a server on each transport."""
    return request.getfixturevalue(request.param)


def test_tool_is_described_as_the_server_does(tools):
    convert = tools["convert"]
    assert convert.description == "Convert an amount between two currencies."
    assert convert.parameters["required"] == ["amount", "source"]
    assert convert.takes_argument
    assert '[convert(amount: number, source: string, to: string = "EUR")]' in convert.prompt
    assert not tools["lines"].takes_argument


@pytest.mark.parametrize(
    ("name", "argument", "expected"),
    [
        ("convert", "10, USD", "5.00 EUR"),
        ("convert", 'amount=10, source="EUR", to=USD', "20.00 USD"),
        ("add", '{"a": 1, "b": 2}', "3"),
        ("lines", "", "one\ntwo"),
        ("structured", "", '{"rate": 1.5}'),
        ("big", "15", "x" * 15),
    ],
)
def test_call_answer_is_text(tools, name, argument, expected):
    assert call(tools, name, argument) == expected


@pytest.mark.parametrize(
    ("name", "argument", "reason"),
    [
        ("convert", "ten, USD", "'ten' is not of type 'number'"),
        ("convert", "10", "'source' is a required property"),
        ("fail", '{"text": "half of a pair: \\ud800"}', "UTF-8"),
        ("sleep", '{"seconds": 1e999}', "UTF-8"),
        ("fail", "1 validation error for failArguments", "validation error for"),
        ("refuse", "no such day", "no such day"),
        ("fail", "MCP error -32602: Input validation error", "-32602"),
    ],
)
def test_call_invalid_arguments_are_rejected(tools, name, argument, reason):
    with pytest.raises(ToolInputRejected, match=reason):
        call(tools, name, argument)


@pytest.mark.parametrize(
    ("name", "argument", "reason"),
    [
        ("fail", "no such day", "no such day"),
        ("convert", "10, ABC", "convert"),
        ("image", "", "answered with image; expected text"),
    ],
)
def test_call_failure_is_an_error_of_the_tool(tools, name, argument, reason):
    with pytest.raises(ToolError, match=reason) as caught:
        call(tools, name, argument)
    assert type(caught.value) is ToolError


def test_call_too_long_answer_fails_and_the_next_call_works(tools):
    with pytest.raises(ToolError) as caught:
        call(tools, "big", "100000")
    assert type(caught.value) is ToolError
    assert call(tools, "add", "1, 2") == "3"


def test_calls_are_concurrent(tools):
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: call(tools, "meet"), range(2))) == ["met", "met"]


def test_what_is_no_message_is_kept_out_of_our_output(capfd):
    tools = tools_of(command=("sh", "-c", f"echo banner; exec {' '.join(EXAMPLE)}"))
    assert call(tools, "shout") == "done"
    assert capfd.readouterr() == ("", "")


def test_call_server_that_dies_is_started_anew(stdio):
    with pytest.raises(TransientToolError, match="Connection closed"):
        call(stdio, "die")
    assert call(stdio, "add", "1, 2") == "3"


def test_call_server_that_died_unseen_is_started_anew(stdio):
    process_id = int(call(stdio, "process").split()[0])
    os.kill(process_id, signal.SIGKILL)
    assert not runs(process_id)
    with suppress(TransientToolError):  # if its end is seen only now
        call(stdio, "add", "1, 2")
    assert call(stdio, "add", "1, 2") == "3"


def test_call_time_out_kills_the_group_and_the_next_call_works():
    tools = tools_of(command=("sh", "-c", f"{' '.join(EXAMPLE)}; true"), timeout_seconds=1.0)
    process_id, group = map(int, call(tools, "process").split())
    assert len({process_id, group, os.getpgid(0)}) == 3
    with pytest.raises(TimeoutError, match="no answer within 1 s"):
        call(tools, "sleep", "60")
    assert not runs(process_id)
    assert not runs(group)
    assert call(tools, "add", "1, 2") == "3"


def test_call_time_out_fails_the_calls_beside_it_as_an_outage():
    tools = tools_of(command=EXAMPLE, timeout_seconds=1.0)
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(call, tools, "sleep", "60")
        time.sleep(0.5)  # the other one begins later, so that it is not the one that is out of time
        with pytest.raises(TransientToolError):
            call(tools, "sleep", "50")
        assert isinstance(hanging.exception(), TimeoutError)


def test_call_time_out_on_http_leaves_the_session(http_url):
    tools = tools_of(url=http_url, allow_private=True, timeout_seconds=0.2)
    with pytest.raises(TimeoutError, match="no answer within"):
        call(tools, "sleep", "1")
    assert call(tools, "add", "1, 2") == "3"


@pytest.mark.parametrize("status", [401, 404, 429, 503])
def test_call_status_of_an_outage_is_one_and_the_next_call_works(old_http, status):
    assert call(old_http, "fail_next", str(status)) == "will do"
    with pytest.raises(TransientToolError):
        call(old_http, "add", "1, 2")
    assert call(old_http, "add", "1, 2") == "3"


def test_call_http_server_that_dies_is_an_outage():
    with serving() as url:
        tools = tools_of(url=url, allow_private=True)
        with pytest.raises(TransientToolError):
            call(tools, "die")
        with pytest.raises(TransientToolError, match="connection attempts failed"):
            call(tools, "add", "1, 2")


def test_call_server_that_cannot_be_started_again_is_an_outage(tmp_path):
    flag = tmp_path / "started"
    once = f"test -e {flag} && exit 1; touch {flag}; exec {' '.join(EXAMPLE)}"
    tools = tools_of(command=("sh", "-c", once))
    for _ in range(2):
        with pytest.raises(TransientToolError):
            call(tools, "die")


def test_environment_is_what_is_named_and_little_else(monkeypatch):
    monkeypatch.setenv("TOOLFORMER_OTHER", "private")
    tools = tools_of(sesame, command=EXAMPLE, env={"TOKEN": "${env:KEY}", "PLAIN": "1"})
    names = set(call(tools, "variables").split())
    assert {"PATH", "HOME", "TOKEN", "PLAIN"} <= names
    assert names <= {"PATH", "HOME", "LANG", "LC_CTYPE", "TOKEN", "PLAIN"}


def test_secret_is_sent_and_hidden(http_url):
    given = {"TOKEN": "${env:KEY}"}
    by_command = tools_of(sesame, command=EXAMPLE, env=given)
    by_url = tools_of(sesame, url=http_url, allow_private=True, headers=given)
    assert call(by_command, "variable", "TOKEN") == "***"
    assert call(by_url, "header", "token") == "***"
    with pytest.raises(ToolError, match=r": \*\*\*$"):
        call(by_command, "fail", "sesame-env-KEY")


def test_secret_that_is_missing_is_refused():
    with pytest.raises(ConfigError, match="no secret prefect:BLOCK"):
        tools_of(command=EXAMPLE, env={"TOKEN": "${prefect:BLOCK}"})


def test_version_is_of_the_tool_its_server_and_the_names_of_secrets(stdio, http):
    renamed = tools_of(no_secret, command=EXAMPLE, prefix="my_")
    assert renamed["my_add"].version == stdio["add"].version != http["add"].version
    assert len({tool.version for tool in stdio.values()}) == len(stdio)
    given = {"command": EXAMPLE, "env": {"TOKEN": "${env:KEY}"}}
    one, other = (tools_of(lambda *_, value=value: value, **given) for value in ("abcd", "efgh"))
    assert one["add"].version == other["add"].version != stdio["add"].version


def script(tmp_path, source):
    """The command of a server of one's own."""
    path = tmp_path / "server.py"
    head = "from mcp.server.mcpserver import MCPServer\nserver = MCPServer('own', version={!r})\n"
    path.write_text(head.format("1") + textwrap.dedent(source) + "\nserver.run('stdio')\n")
    return sys.executable, str(path)


def test_version_changes_with_the_description_and_the_version_of_the_server(tmp_path):
    source = """
        @server.tool()
        def now() -> str:
            '''Tell the time.'''
            return "noon"
        """
    versions = set()
    for changed in (source, source.replace("Tell", "Say"), source.replace("now()", "now(a: int)")):
        command = script(tmp_path, changed)
        versions.add(tools_of(command=command)["now"].version)
    path = tmp_path / "server.py"
    path.write_text(path.read_text().replace("version='1'", "version='2'"))
    versions.add(tools_of(command=command)["now"].version)
    assert len(versions) == 4


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("get_time", "get_time"),
        ("time.get-now", "time.get-now"),
        ("a b/c(d)", "a_b_c_d_"),
        ("2fast", "_2fast"),
        ("-x", "_-x"),
        ("\u00e9t\u00e9", "_t_"),
    ],
)
def test_valid_name_is_one_of_the_notation(name, expected):
    assert valid_name(name) == expected


def test_tools_are_chosen_prefixed_and_given_their_demonstrations():
    tools = tools_of(
        command=EXAMPLE,
        tools=("add", "convert"),
        prefix="my.",
        demonstrations=("1 and 2 make [my.add(1, 2)] 3.", "It is [my.convert(1, USD)] 0.50 EUR."),
    )
    assert list(tools) == ["my.add", "my.convert"]
    assert "1 and 2 make [my.add(1, 2)] 3." in tools["my.add"].prompt
    assert "USD" not in tools["my.add"].prompt


def test_example_is_of_the_only_tool():
    tools = tools_of(command=EXAMPLE, tools=("add",), example="1, 2")
    assert tools["add"].example == "1, 2"


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tools": ("add", "subtract")}, "no tool subtract; it has convert, add"),
        ({"example": "1, 2"}, "is of which of"),
        ({"demonstrations": ("It is [Weather(Oslo)] cold.",)}, "calls none of its tools"),
    ],
)
def test_settings_that_do_not_fit_the_server_are_refused(settings, reason):
    with pytest.raises(ConfigError, match=reason):
        tools_of(command=EXAMPLE, **settings)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("", "it has none at all"),
        (
            """
            for name in ("a b", "a_b"):
                server.add_tool(lambda: "x", name=name, description="d")
            """,
            "two tools would be named a_b",
        ),
    ],
)
def test_server_with_tools_that_cannot_be_used_is_refused(tmp_path, source, reason):
    with pytest.raises(ConfigError, match=reason):
        tools_of(command=script(tmp_path, source))


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("no-such-command",), "No such file or directory: 'no-such-command'"),
        ((sys.executable, "-c", "import no_such_module"), "No module named 'no_such_module'"),
        (("true",), "Connection closed"),
        (("cat",), "Method not found"),
        (("yes",), f"answered with more than {MAX_BYTES} bytes"),
        (("sleep", "77"), "not ready within 1 s"),
    ],
)
def test_command_that_is_no_server_is_refused(monkeypatch, command, reason):
    monkeypatch.setattr(mcp_server, "START_SECONDS", 1.0)
    with pytest.raises(ConfigError, match=reason) as caught:
        tools_of(command=command)
    assert str(caught.value).startswith(f"MCP server {command[0]}")
    assert "expected an MCP server" in str(caught.value)


@pytest.mark.parametrize("path", ["/elsewhere", "/"])
def test_url_that_is_no_server_is_refused(http_url, path):
    with pytest.raises(ConfigError, match="Not Found; expected an MCP server"):
        tools_of(url=http_url.replace("/mcp", path), allow_private=True)


def test_url_that_refuses_is_refused():
    with pytest.raises(ConfigError, match="connection attempts failed; expected an MCP server"):
        tools_of(url="http://127.0.0.1:9/mcp", allow_private=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "10.0.0.1", "169.254.1.1"])
def test_url_that_is_private_is_refused(host):
    with pytest.raises(ConfigError, match="not public"):
        tools_of(url=f"http://{host}:9/mcp")


def test_url_whose_name_leads_elsewhere_by_now_is_not_followed(http_url, monkeypatch):
    """The name is looked up once, by the guard: a second answer may be an address within."""
    looked_up = []
    system = socket.getaddrinfo

    def rebinding(host, port, *given, **options):
        if host != "localhost":
            return system(host, port, *given, **options)
        looked_up.append(host)
        return system("127.0.0.1" if len(looked_up) == 1 else "127.0.0.9", port, *given, **options)

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    url = http_url.replace("127.0.0.1", "localhost")
    tools = tools_of(url=url, allow_private=True)
    assert [call(tools, "add", f"{n}, 2") for n in range(3)] == ["2", "3", "4"]
    assert looked_up == ["localhost"]


def test_pinned_request_keeps_the_name_for_the_server_and_its_certificate():
    seen = []

    def answer(request):
        if request.url.host == "10.0.0.1":
            raise httpx2.ConnectError("refused")
        seen.append(request)
        return httpx2.Response(200)

    async def get():
        pinned = Pinned(httpx2.MockTransport(answer), ["10.0.0.1", "2001:db8::1"])
        async with httpx2.AsyncClient(transport=pinned) as client:
            return await client.get("https://tools.example.org:8443/mcp?a=1")

    assert asyncio.run(get()).status_code == 200
    [request] = seen
    assert str(request.url) == "https://[2001:db8::1]:8443/mcp?a=1"
    assert request.headers["host"] == "tools.example.org:8443"
    assert request.extensions["sni_hostname"] == "tools.example.org"


def test_pinned_request_that_no_address_takes_is_refused():
    def refuse(request):
        raise httpx2.ConnectError("refused")

    async def get():
        pinned = Pinned(httpx2.MockTransport(refuse), ["10.0.0.1", "10.0.0.2"])
        async with httpx2.AsyncClient(transport=pinned) as client:
            await client.get("http://tools.example.org/mcp")

    with pytest.raises(httpx2.ConnectError, match="refused"):
        asyncio.run(get())


_OURS = """
import contextlib, sys, threading
from toolformer_core.config.tools import McpTool
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.mcp_server import mcp_tools

config = McpTool(command=(sys.executable, "-m", "tests.support.mcp_example"))
tools = {tool.name: tool for tool in mcp_tools(config, str, 60.0)}
print(tools["process"].call("", NO_DOCUMENT), flush=True)
if "hanging" in sys.argv:
    def hanging():
        with contextlib.suppress(Exception):  # it may still see that the server ended
            tools["sleep"].call("60", NO_DOCUMENT)
    threading.Thread(target=hanging, daemon=True).start()
if "dropped" in sys.argv:
    del tools
sys.stdin.readline()
"""


def ours(*arguments):
    """A process of ours with a server, which ends when it reads a line."""
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", _OURS, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return child, int(child.stdout.readline().split()[0])


@pytest.mark.parametrize("state", ["idle", "hanging"])
def test_server_ends_with_our_process(state):
    child, server_id = ours(state)
    _, said = child.communicate("\n", timeout=60)
    assert (child.returncode, said) == (0, "")
    assert not runs(server_id)


def test_server_ends_when_our_process_is_killed():
    child, server_id = ours()
    child.kill()
    child.communicate()
    assert not runs(server_id)


def test_server_ends_with_its_tools():
    child, server_id = ours("dropped")
    assert not runs(server_id)
    _, said = child.communicate("\n", timeout=60)
    assert (child.returncode, said) == (0, "")
