"""The HTTP API over a real server on loopback, asked by OpenAI's own client."""

import json
import socket
import threading

import httpx
import openai
import pytest
import uvicorn

from tests.support.gated_tool import GatedCaller
from tests.support.waiting import wait_until
from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.decoding.decode import Decoder, Decoding
from toolformer_core.models import ModelRef
from toolformer_core.serving import app as openai_api
from toolformer_core.serving.answers import server_sent
from toolformer_core.serving.app import Served, build_app
from toolformer_core.serving.decoding_thread import DecodingThread
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.transformers_lm.loading import load_model

CONFIG = DecodeConfig(call_top_k=1, max_new_tokens=24)
ANSWER, COMPLETION = " 7. 5 + 6 is.", " [Calculator(3 + 4) -> 7] 7. 5 + 6 is."
TEMPLATE = (
    "{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "<|endoftext|>{{ m.content }}{% endfor %}"
)


@pytest.fixture(scope="module")
def lm(calling_llama_folder):
    return load_model(
        ModelRef(path=str(calling_llama_folder), digest="", dtype="float32"), "cpu", 4096
    )


class Service:
    """A server in a thread; `caller` answers the calls."""

    def __init__(self, lm):
        self.caller = GatedCaller()
        self.caller.gate.set()
        tools = {"Calculator": self.caller}
        self.thread = DecodingThread(lambda: Decoding(lm, tools, max_rows=4), max_open=8)
        served = Served(name="tiny", lm=lm, config=CONFIG, show_calls=False)
        app = build_app(served, self.thread, self.thread.close)
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        )
        self._runs = threading.Thread(target=self._server.run, args=[[listener]])
        self._runs.start()
        self.client = openai.OpenAI(base_url=self.url, api_key="none", max_retries=0)

    def close(self):
        self.client.close()
        self._server.should_exit = True
        self._runs.join()


@pytest.fixture(scope="module")
def service(lm):
    running = Service(lm)
    yield running
    running.close()
    assert not running.thread.is_alive


@pytest.fixture
def complete(service):
    def ask(prompt="3 + 4 is", **fields):
        return service.client.completions.create(model="tiny", prompt=prompt, **fields)

    return ask


@pytest.fixture
def chat(service):
    def ask(*texts, **fields):
        messages = [{"role": "user", "content": text} for text in texts]
        return service.client.chat.completions.create(model="tiny", messages=messages, **fields)

    return ask


def told(calls):
    return [(c["tool"], c["argument"], c["result"], c["outcome"]) for c in calls]


DONE = ("Calculator", "3 + 4", "7", "ok")


def test_models_are_listed_and_found(service):
    assert [model.id for model in service.client.models.list()] == ["tiny"]
    assert service.client.models.retrieve("tiny").context_tokens == 4096
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        service.client.models.retrieve("other")


def test_health_is_well(service):
    answer = httpx.get(f"{service.url}/../health")
    assert (answer.status_code, answer.json()) == (200, {"is_alive": True, "num_open": 0})


def test_completion_has_the_answer_and_tells_of_its_call(complete, lm):
    answer = complete()
    [choice] = answer.choices
    assert (choice.text, choice.finish_reason) == (ANSWER, "stop")
    assert told(choice.calls) == [DONE]
    num_read = 1 + len(lm.encode("3 + 4 is"))
    num_generated = len(lm.encode(COMPLETION))
    usage = answer.usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (num_read, num_generated)
    assert usage.total_tokens == num_read + num_generated


def test_completion_shows_calls_where_asked_to(complete):
    assert complete(extra_body={"show_calls": True}).choices[0].text == COMPLETION


def test_completions_of_several_texts_keep_their_order(complete, service, lm):
    prompts = ["5 + 6 is", "7 + 0 is", "3 + 4 is", "The mill"]
    decoder = Decoder(lm, {"Calculator": service.caller}, CONFIG)
    expected = decoder.generate(prompts, [NO_DOCUMENT] * 4)
    choices = complete(prompts).choices
    assert [choice.index for choice in choices] == [0, 1, 2, 3]
    assert [choice.text for choice in choices] == [generation.answer for generation in expected]


@pytest.mark.parametrize("shows_calls", [False, True])
def test_stream_joins_to_the_answer_and_tells_when_the_call_starts_and_ends(complete, shows_calls):
    options = {"stream_options": {"include_usage": True}}
    *chunks, last = complete(stream=True, extra_body={"show_calls": shows_calls}, **options)
    text = "".join(chunk.choices[0].text for chunk in chunks)
    assert text == (COMPLETION if shows_calls else ANSWER)
    calls = [call for chunk in chunks for call in chunk.choices[0].calls]
    assert told(calls) == [("Calculator", "3 + 4", None, None), DONE]
    assert [c.choices[0].finish_reason for c in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert (last.choices, last.usage) == ([], complete().usage)
    assert all(chunk.usage is None for chunk in chunks)


def test_stream_tells_of_a_call_before_its_tool_answers(complete, service):
    service.caller.gate.clear()
    with complete(stream=True) as chunks:
        first = next(chunks)
        assert told(first.choices[0].calls) == [("Calculator", "3 + 4", None, None)]
        service.caller.gate.set()
        assert "".join(chunk.choices[0].text for chunk in chunks) == ANSWER


def test_stream_of_several_texts_gives_each_its_own(complete):
    texts = ["", ""]
    for chunk in complete(["3 + 4 is", "5 + 6 is"], stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in complete(["3 + 4 is", "5 + 6 is"]).choices]


def test_chat_without_a_template_joins_the_texts(chat, complete):
    answer = chat("She bought 5.", "3 + 4 is")
    assert (answer.object, answer.choices[0].message.role) == ("chat.completion", "assistant")
    assert answer.choices[0].message.content == complete("She bought 5.\n3 + 4 is").choices[0].text
    parts = [{"type": "text", "text": "3 + "}, {"type": "text", "text": "4 is"}]
    assert told(chat(parts).choices[0].calls) == [DONE]


def test_chat_stream_joins_to_the_answer(chat):
    chunks = list(chat("3 + 4 is", stream=True))
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == ANSWER
    calls = [call for chunk in chunks for call in chunk.choices[0].calls]
    assert told(calls)[-1] == DONE
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_chat_stream_tells_the_role_once(chat):
    deltas = [chunk.choices[0].delta for chunk in chat("3 + 4 is", stream=True)]
    assert [delta.role for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)


def test_chat_stream_of_the_clients_helper_joins_to_the_answer(service, chat):
    messages = [{"role": "user", "content": "3 + 4 is"}]
    with service.client.chat.completions.stream(model="tiny", messages=messages) as stream:
        message = stream.get_final_completion().choices[0].message
    assert (message.role, message.content) == ("assistant", ANSWER)


def test_event_of_a_stream_is_one_line_for_every_client():
    content = {"text": "1\u20282\u2029\x853\r\n4\ud800"}
    line, *rest = server_sent(content).splitlines()
    assert rest == [""]
    assert json.loads(line.removeprefix("data: ")) == content


def test_chat_template_writes_the_prompt_and_its_own_start(chat, complete, lm, monkeypatch):
    monkeypatch.setattr(lm.tokenizer, "chat_template", TEMPLATE)
    answer = chat("3 + 4 is")
    assert answer.choices[0].message.content == ANSWER
    assert answer.usage == complete().usage  # one start token, not two


def test_chat_that_the_template_has_no_place_for_is_refused(service, lm, monkeypatch):
    monkeypatch.setattr(lm.tokenizer, "chat_template", TEMPLATE)
    with pytest.raises(openai.BadRequestError, match="no system here"):
        service.client.chat.completions.create(
            model="tiny", messages=[{"role": "system", "content": "x"}]
        )


def test_limits_and_stops_are_those_of_the_request(complete, chat):
    assert complete(stop=" 5").choices[0].text == " 7."
    assert complete(stop=["6", "."]).choices[0].text == " 7"
    [choice] = complete("The mill", max_tokens=2).choices
    assert choice.finish_reason == "length"
    renamed = chat("The mill", max_tokens=9, max_completion_tokens=2)
    assert renamed.choices[0].message.content == choice.text


@pytest.mark.parametrize(
    "extension", [{"tools_enabled": False}, {"max_calls": 0}, {"call_top_k": 0}]
)
def test_calls_can_be_forbidden(complete, extension):
    [choice] = complete(extra_body=extension).choices
    assert choice.calls == []
    assert "[" not in choice.text


def test_threshold_on_the_probability_decides_on_calls(complete):
    assert complete(extra_body={"call_threshold": 0.5}).choices[0].calls
    assert complete("The mill", extra_body={"call_threshold": 1.0}).choices[0].calls == []


def test_sampling_with_a_seed_repeats_and_without_one_does_not(complete):
    def texts(**fields):
        drawn = complete(["The"] * 4, temperature=2.0, **fields).choices
        return [choice.text for choice in drawn]

    assert texts(seed=3) == texts(seed=3)
    assert len(set(texts())) > 1


def test_fields_that_say_what_holds_anyway_are_taken(complete, chat):
    neutral = {"n": 1, "presence_penalty": 0.0, "frequency_penalty": 0, "user": "me"}
    assert complete(**neutral, best_of=1, echo=False, suffix=None).choices[0].text == ANSWER
    assert chat("3 + 4 is", **neutral, logprobs=False).choices[0].message.content == ANSWER


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 1}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"suffix": "x"}, "suffix"),
        ({"logit_bias": {"3": 1}}, "logit_bias"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"extra_body": {"colour": "red"}}, "colour"),
        ({"extra_body": {"max_calls": "many"}}, "max_calls"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": -1}, "seed"),
        ({"stop": [""]}, "stop"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt"),
        ({"prompt": ["x"] * 9}, "prompt"),
        ({"prompt": "3 + 4 is " * 4096}, "prompt"),
        ({"prompt": "3 + 4 is " * 40_960}, "prompt"),
    ],
    ids=str,
)
def test_what_is_not_offered_is_refused_by_its_name(complete, fields, param):
    with pytest.raises(openai.BadRequestError) as refused:
        complete(**{"prompt": "x", **fields})
    assert refused.value.param == param
    assert refused.value.type == "invalid_request_error"
    assert refused.value.body["message"].startswith(("prompt of", param))


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages"),
    ],
    ids=str,
)
def test_chat_that_is_not_offered_is_refused_by_its_name(service, fields, param):
    given = {"messages": [{"role": "user", "content": "x"}], **fields}
    with pytest.raises(openai.BadRequestError) as refused:
        service.client.chat.completions.create(model="tiny", **given)
    assert refused.value.param == param


def test_unknown_model_is_not_found(service):
    with pytest.raises(openai.NotFoundError, match="this server has 'tiny'") as refused:
        service.client.completions.create(model="other", prompt="x")
    assert refused.value.code == "model_not_found"


def test_unknown_model_is_told_before_anything_else(service):
    with pytest.raises(openai.NotFoundError, match="no model"):
        service.client.completions.create(model="m" * 9999, prompt=[])


def test_more_texts_than_may_wait_are_refused_before_a_row_is_built(complete, monkeypatch):
    monkeypatch.setattr(openai_api, "DecodeRequest", None)
    with pytest.raises(openai.BadRequestError, match="expected 1 to 8 texts"):
        complete(["x"] * 100_000)


@pytest.mark.parametrize(
    "body",
    [b"{oops", b'{"model": "tiny", "prompt": "x", "seed": %s}' % (b"1" * 5000), b"\xff"],
    ids=["text", "number", "bytes"],
)
def test_body_that_is_no_json_is_refused(service, body):
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{service.url}/completions", content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "embeddings", 404), ("GET", "completions", 405), ("DELETE", "models", 405)],
)
def test_what_is_not_there_is_told_in_the_form_of_an_error(service, method, path, status):
    answer = httpx.request(method, f"{service.url}/{path}")
    assert answer.status_code == status
    assert answer.json()["error"]["message"] == f"no {method} /v1/{path} here"


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        ("completions", {"prompt": "x"}, "model: Field required"),
        ("completions", {"model": "tiny"}, "prompt: Field required"),
        (
            "chat/completions",
            {"model": "tiny", "messages": [{"role": "user"}]},
            "messages.0.content: Field required",
        ),
        (
            "chat/completions",
            {"model": "tiny", "messages": [{"role": "user", "content": "x", "tool_calls": []}]},
            "messages.0.tool_calls is not supported here",
        ),
        ("completions", [], "request: Input should be a valid dictionary"),
    ],
)
def test_field_that_is_missing_or_unknown_is_named(service, path, body, message):
    answer = httpx.post(f"{service.url}/{path}", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith(message)


def test_message_about_a_long_value_is_short(service):
    body = {"model": "tiny", "prompt": "x", "max_calls": ["many" * 1000] * 1000}
    message = httpx.post(f"{service.url}/completions", json=body).json()["error"]["message"]
    assert message.startswith("max_calls = [")
    assert len(message) < 500


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_frees_its_row(service, stream):
    service.caller.gate.clear()
    body = {"model": "tiny", "prompt": "3 + 4 is", "stream": stream}
    with httpx.Client() as client:
        if stream:
            with client.stream("POST", f"{service.url}/completions", json=body) as answer:
                assert json.loads(next(answer.iter_lines()).removeprefix("data: "))["choices"]
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{service.url}/completions", json=body, timeout=1)
    wait_until(lambda: service.thread.num_open == 0)
    service.caller.gate.set()


def test_more_texts_than_may_wait_are_sent_away_for_a_while(service, complete):
    service.caller.gate.clear()
    with complete(["3 + 4 is"] * 5, stream=True) as waiting:
        with pytest.raises(openai.RateLimitError) as refused:
            complete(["3 + 4 is"] * 4)
        assert refused.value.response.headers["retry-after"] == "1"
        service.caller.gate.set()
        assert len([c for c in waiting if c.choices[0].finish_reason]) == 5


@pytest.mark.parametrize("stream", [False, True])
def test_fault_ends_a_request_and_not_the_server(service, complete, stream):
    service.caller.errors = {"8 + 9": RuntimeError("out of memory")}
    error = openai.APIError if stream else openai.InternalServerError
    with pytest.raises(error, match="out of memory"):
        list(complete("8 + 9 is", stream=stream))
    service.caller.errors = {}
    assert complete().choices[0].text == ANSWER


def test_fault_of_joining_is_told_and_not_the_end_of_the_server(complete, lm, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Decoding, "add", lambda *_: [][0])
        with pytest.raises(openai.InternalServerError) as told:
            complete()
    assert told.value.body["message"] == "IndexError: list index out of range"
    assert told.value.type == "server_error"
    assert complete().choices[0].text == ANSWER


def test_server_that_shuts_down_is_unavailable_and_not_for_a_moment(lm):
    ending = Service(lm)
    ending.thread.close()
    with pytest.raises(openai.InternalServerError, match="shutting down") as refused:
        ending.client.completions.create(model="tiny", prompt="x")
    assert refused.value.status_code == 503
    assert "retry-after" not in refused.value.response.headers
    ending.close()


def test_many_clients_at_once_each_get_their_own_answer(service, complete):
    prompts = [f"{a} + {b} is" for a, b in ((3, 4), (5, 6), (8, 9), (2, 7))]
    expected = {prompt: complete(prompt).choices[0].text for prompt in prompts}
    found = []

    def work(start):
        for k in range(4):
            prompt = prompts[(start + k) % 4]
            if k % 2:
                text = "".join(c.choices[0].text for c in complete(prompt, stream=True))
            else:
                text = complete(prompt).choices[0].text
            found.append(text == expected[prompt])

    workers = [threading.Thread(target=work, args=[k]) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert found == [True] * 32
