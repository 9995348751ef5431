"""`toolformer serve` in a process of its own, asked by OpenAI's client."""

import signal
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

from flows.direct import serve
from tasks import inference
from tests.end_to_end.test_cli import assert_one_line
from tests.support.gated_tool import GatedCaller
from tests.support.tuned_folder import toolformer_serve, tuned_folder
from toolformer_core.config.runtime import Runtime


@pytest.fixture(scope="module")
def folder(calling_llama_folder, tmp_path_factory):
    return tuned_folder(calling_llama_folder, tmp_path_factory.mktemp("tuned") / "sums")


def test_serve_streams_the_result_of_a_tool_and_ends_in_good_order(folder):
    with toolformer_serve("--model", folder, "--show-calls") as server:
        with openai.OpenAI(base_url=server.address, api_key="none", max_retries=0) as client:
            assert [model.id for model in client.models.list()] == ["sums"]
            chunks = list(client.completions.create(model="sums", prompt="3 + 4 is", stream=True))
            text = "".join(chunk.choices[0].text for chunk in chunks)
            assert text == " [Calculator(3 + 4) -> 7] 7. 5 + 6 is."
            chat = client.chat.completions.create(
                model="sums", messages=[{"role": "user", "content": "3 + 4 is"}]
            )
            assert chat.choices[0].message.content == text
        assert server.end() == (-signal.SIGTERM, "")


def test_serve_shutdown_tells_clients_whose_answers_take_too_long(folder, home, monkeypatch):
    caller = GatedCaller()  # never answers
    monkeypatch.setattr(inference, "ForgivingCaller", lambda _: caller)
    monkeypatch.setattr(serve, "_SHUTDOWN_SECONDS", 0.1)
    runtime = Runtime(root=home / "serve", home=home)
    server = serve.build_server(folder, None, runtime, max_rows=2, max_waiting=0, show_calls=False)
    with serve.listen("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        runs = threading.Thread(target=serve.run_server, args=[server, listener])
        runs.start()
        with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
            asked = {"model": "sums", "prompt": "3 + 4 is"}
            with client.completions.create(**asked, stream=True) as stream:
                assert next(stream).choices[0].calls
                server.should_exit = True
                with pytest.raises(openai.APIError, match="the server was shut down"):
                    list(stream)
        runs.join()
    caller.gate.set()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_serve_that_cannot_decode_any_more_ends(folder, home, monkeypatch):
    caller = GatedCaller()
    caller.errors = {"3 + 4": AssertionError("a fault that nothing is known of")}
    monkeypatch.setattr(inference, "ForgivingCaller", lambda _: caller)
    runtime = Runtime(root=home / "serve", home=home)
    server = serve.build_server(folder, None, runtime, max_rows=2, max_waiting=0, show_calls=False)

    def ask(url):
        client = openai.OpenAI(base_url=url, api_key="none", max_retries=0)
        told = pytest.raises(openai.InternalServerError, match="the server was shut down")
        with client, told:
            client.completions.create(model="sums", prompt="3 + 4 is")

    with serve.listen("127.0.0.1", 0) as listener, ThreadPoolExecutor() as threads:
        asked = threads.submit(ask, f"http://127.0.0.1:{listener.getsockname()[1]}/v1")
        with pytest.raises(SystemExit, match="decoding has ended"):
            serve.run_server(server, listener)
        asked.result(60)


def test_serve_on_a_port_in_use_is_one_line(invoke, folder):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_one_line(invoke("serve", "--model", folder, "--port", port), f"--port {port}")


def test_serve_without_a_model_is_one_line(invoke, tmp_path):
    outcome = invoke("serve", "--model", tmp_path / "missing", "--port", "0")
    assert_one_line(outcome, "missing")
