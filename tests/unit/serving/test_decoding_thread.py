"""Many clients of one decoding: each gets its own row's answer, and no other's trouble."""

import queue
import threading

import pytest
from pydantic import ValidationError

from tests.support.gated_tool import GatedCaller
from tests.support.waiting import wait_until
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.decoding import changed_decoding
from toolformer_core.config.pipeline import DecodeConfig, ExecuteConfig
from toolformer_core.decoding.decode import Decoder, Decoding
from toolformer_core.decoding.events import DecodeRequest, Finished, TextPiece
from toolformer_core.errors import ConfigError, NotationError, OverloadError
from toolformer_core.models import ModelRef
from toolformer_core.serving.decoding_thread import DecodingThread, Failed
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import Calculator
from toolformer_core.transformers_lm.loading import load_model

CONFIG = DecodeConfig(call_top_k=1, max_new_tokens=24)
PROMPTS = tuple(f"{a} + {b} is" for a, b in ((3, 4), (5, 6), (8, 9), (2, 7), (6, 1), (9, 5)))


@pytest.fixture(scope="module")
def lm(calling_llama_folder):
    return load_model(
        ModelRef(path=str(calling_llama_folder), digest="", dtype="float32"), "cpu", 4096
    )


@pytest.fixture
def caller():
    return GatedCaller()


@pytest.fixture
def thread(lm, caller):
    """Two rows at a time, five in all."""
    driven = DecodingThread(lambda: Decoding(lm, {"Calculator": caller}, max_rows=2), max_open=5)
    yield driven
    caller.gate.set()
    driven.close()


def request(prompt, config=CONFIG):
    return DecodeRequest(prompt=prompt, context=NO_DOCUMENT, config=config)


class Client:
    """Submits texts and waits for what is told of them."""

    def __init__(self, thread, *prompts, config=CONFIG):
        self.told = queue.SimpleQueue()
        self.num_rows = len(prompts)
        self.submission = thread.submit(
            [request(prompt, config) for prompt in prompts],
            lambda number, told: self.told.put((number, told)),
        )

    def ended(self):
        """What each row ended with."""
        ends = {}
        while len(ends) < self.num_rows:
            number, told = self.told.get(timeout=60)
            if isinstance(told, Finished | Failed):
                ends[number] = told
        return [ends[number] for number in range(self.num_rows)]

    def completions(self):
        return [told.generation.completion for told in self.ended()]


def alone(lm, prompt):
    tools = {"Calculator": ToolCaller(Calculator(), ExecuteConfig())}
    [generation] = Decoder(lm, tools, CONFIG).generate([prompt], [NO_DOCUMENT])
    return generation.completion


def test_thread_many_clients_each_get_their_own_answer(lm):
    expected = {prompt: alone(lm, prompt) for prompt in PROMPTS}
    assert len(set(expected.values())) == len(PROMPTS)
    tools = {"Calculator": ToolCaller(Calculator(), ExecuteConfig())}
    driven = DecodingThread(lambda: Decoding(lm, tools, max_rows=4), max_open=100)
    found = []

    def work(start):
        for k in range(6):
            prompts = [PROMPTS[(start + k + j) % len(PROMPTS)] for j in range(k % 2 + 1)]
            found.extend(zip(prompts, Client(driven, *prompts).completions(), strict=True))

    workers = [threading.Thread(target=work, args=[k]) for k in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert driven.num_open == 0
    driven.close()
    assert len(found) == 8 * 9
    assert all(completion == expected[prompt] for prompt, completion in found)


def test_thread_row_that_waits_for_its_tool_stops_no_other(thread, caller):
    caller.ungated = {"5 + 6"}
    waiting = Client(thread, "3 + 4 is")
    assert caller.asked.acquire(timeout=60)
    assert Client(thread, "5 + 6 is").completions()[0].startswith(" [Calculator(5 + 6) -> 11]")
    caller.gate.set()
    assert waiting.completions()[0].startswith(" [Calculator(3 + 4) -> 7]")


def test_thread_pieces_of_text_join_to_the_answer(thread, caller):
    caller.gate.set()
    client = Client(thread, "3 + 4 is")
    pieces, told = "", None
    while not isinstance(told, Finished):
        _, told = client.told.get(timeout=60)
        pieces += told.text if isinstance(told, TextPiece) else ""
    assert pieces == told.generation.answer


def test_thread_more_rows_than_may_wait_are_refused(thread, caller):
    client = Client(thread, *PROMPTS[:4])
    with pytest.raises(OverloadError, match="4 texts are decoded or wait, at most 5 may"):
        Client(thread, *PROMPTS[:2])
    last = Client(thread, PROMPTS[4])
    caller.gate.set()
    assert all(isinstance(end, Finished) for end in client.ended() + last.ended())
    assert thread.num_open == 0


def test_thread_text_longer_than_the_context_is_refused_with_its_request(thread, lm):
    too_long = "3 + 4 is " * lm.context_tokens
    client = Client(thread, "3 + 4 is", too_long, "5 + 6 is")
    with pytest.raises(ConfigError, match="shorten the prompt"):
        client.submission.accepted.result(60)
    assert thread.num_open == 0


def test_thread_cancelled_row_makes_room_at_once(thread, caller):
    client = Client(thread, *PROMPTS[:5])
    assert caller.asked.acquire(timeout=60)
    client.submission.cancel()
    wait_until(lambda: thread.num_open == 0)
    caller.gate.set()
    assert Client(thread, "5 + 6 is").completions()[0].startswith(" [Calculator(5 + 6) -> 11]")


@pytest.fixture
def late_thread(lm, caller):
    """Is in a step that ends when `may_go_on` is set, so that nobody has been taken."""
    in_step, may_go_on = threading.Event(), threading.Event()

    class Late(Decoding):
        def step(self):
            in_step.set()
            assert may_go_on.wait(60)
            return super().step()

    driven = DecodingThread(lambda: Late(lm, {"Calculator": caller}), max_open=5)
    driven.may_go_on = may_go_on
    assert in_step.wait(60)
    yield driven
    may_go_on.set()
    driven.close()


def test_thread_client_that_left_before_it_was_taken_is_no_row(late_thread):
    client = Client(late_thread, "3 + 4 is")
    assert client.submission.accepted.cancel()
    late_thread.may_go_on.set()
    late_thread.close()
    assert late_thread.num_open == 0
    assert client.told.empty()


def test_thread_close_refuses_who_has_not_been_taken(late_thread):
    client = Client(late_thread, "3 + 4 is")
    closing = threading.Thread(target=late_thread.close)
    closing.start()
    wait_until(lambda: not late_thread.is_alive)
    late_thread.may_go_on.set()
    closing.join()
    with pytest.raises(OverloadError, match="shutting down"):
        client.submission.accepted.result(60)
    assert late_thread.num_open == 0


def test_thread_fault_ends_the_rows_of_that_moment_and_no_later_ones(thread, caller):
    caller.errors = {"8 + 9": RuntimeError("out of memory")}
    client = Client(thread, "3 + 4 is", "8 + 9 is")
    assert [end.reason for end in client.ended()] == ["RuntimeError: out of memory"] * 2
    caller.gate.set()
    assert Client(thread, "5 + 6 is").completions()[0].startswith(" [Calculator(5 + 6) -> 11]")
    assert thread.is_alive


FAULTS = [IndexError, KeyError, TypeError, ValueError, MemoryError, NotationError]


@pytest.mark.parametrize("fault", FAULTS)
def test_thread_any_fault_of_a_step_leaves_the_server_to_others(thread, caller, fault):
    caller.errors = {"8 + 9": fault("oops")}
    caller.gate.set()
    [end] = Client(thread, "8 + 9 is").ended()
    assert end.reason.startswith(fault.__name__)
    assert Client(thread, "5 + 6 is").completions()[0].startswith(" [Calculator(5 + 6) -> 11]")


@pytest.fixture
def faulty_thread(lm, caller):
    """Cannot take "bad", nor let a row go or close while one waits."""

    class Faulty(Decoding):
        def add(self, request):
            if request.prompt == "bad":
                raise TypeError("no text")
            return super().add(request)

        def cancel(self, ticket):
            raise KeyError(ticket)

    caller.ungated = {"5 + 6"}
    driven = DecodingThread(lambda: Faulty(lm, {"Calculator": caller}), max_open=5)
    yield driven
    caller.gate.set()
    driven.close()


@pytest.mark.parametrize("prompts", [["bad"], ["3 + 4 is", "bad"]])
def test_thread_fault_of_joining_is_told_and_leaves_the_server_to_others(faulty_thread, prompts):
    client = Client(faulty_thread, *prompts)
    with pytest.raises(TypeError, match="no text"):
        client.submission.accepted.result(60)
    assert Client(faulty_thread, "5 + 6 is").completions()[0].startswith(" [Calculator(5 + 6)")
    assert faulty_thread.num_open == 0


def test_thread_fault_of_leaving_leaves_the_server_to_others(faulty_thread):
    leaving, other = Client(faulty_thread, "3 + 4 is"), Client(faulty_thread, "8 + 9 is")
    other.submission.accepted.result(60)
    leaving.submission.cancel()
    assert other.ended() == [Failed("KeyError: 0")]
    assert Client(faulty_thread, "5 + 6 is").completions()[0].startswith(" [Calculator(5 + 6)")
    assert faulty_thread.num_open == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_thread_that_ends_for_another_error_leaves_nobody_waiting(lm):
    class Broken(Decoding):
        def add(self, request):
            raise AssertionError

    driven = DecodingThread(lambda: Broken(lm, {}), max_open=5)
    client = Client(driven, "3 + 4 is")
    with pytest.raises(RuntimeError, match="decoding has ended"):
        client.submission.accepted.result(60)
    driven.close()
    assert not driven.is_alive
    assert driven.num_open == 0


def test_thread_close_ends_rows_and_takes_no_more(thread, caller):
    client = Client(thread, "3 + 4 is")
    assert caller.asked.acquire(timeout=60)
    thread.close()
    assert client.ended() == [Failed("the server was shut down")]
    assert not thread.is_alive
    with pytest.raises(OverloadError, match="shutting down"):
        Client(thread, "3 + 4 is")


def test_changed_decoding_leaves_what_is_not_given():
    config = DecodeConfig(max_calls=3, temperature=0.5)
    assert changed_decoding(config, {"max_calls": None, "seed": 4}) == config.model_copy(
        update={"seed": 4}
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"call_top_k": 3}, (3, None)),
        ({"call_threshold": 0.2}, (None, 0.2)),
        ({"call_top_k": 3, "call_threshold": 0.2}, (3, 0.2)),
        ({}, (None, 0.1)),
    ],
)
def test_changed_decoding_rank_takes_the_place_of_the_models_threshold(given, expected):
    config = changed_decoding(DecodeConfig(call_threshold=0.1), given)
    assert (config.call_top_k, config.call_threshold) == expected


def test_changed_decoding_value_out_of_range_is_refused():
    with pytest.raises(ValidationError, match="top_p"):
        changed_decoding(DecodeConfig(), {"top_p": 2.0})
