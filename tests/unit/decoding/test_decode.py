"""Decoding with calls against a reference that runs the whole sequence anew for every token.

The model is a real one, overfitted on texts with calls (tests/support/tiny_model.py).
"""

import itertools
import json
import random
import shutil
import threading

import pytest
import torch

from tests.support import tiny_model
from tests.support.tiny_model import SUMS, sum_text
from toolformer_core.calling.caller import ForgivingCaller, ToolCaller
from toolformer_core.config.pipeline import DecodeConfig, ExecuteConfig
from toolformer_core.decoding.decode import Decoder, Decoding
from toolformer_core.decoding.events import (
    CallFinished,
    CallStarted,
    DecodeRequest,
    Finished,
    TextPiece,
)
from toolformer_core.errors import ConfigError, NotationError, TransientToolError
from toolformer_core.models import ModelRef
from toolformer_core.notation import parse_call, render_call_with_result
from toolformer_core.records import Outcome
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import Calculator
from toolformer_core.transformers_lm.loading import load_model

EXECUTE = ExecuteConfig()
TOOLS = {"Calculator": ToolCaller(Calculator(), EXECUTE)}
PROMPTS = (
    "3 + 4 is",
    "8 + 9 is [Calculator(8 + 9) -> 17] 17. 2 + 7 is",
    "7 / 0 is",
    "The mill",
    "6 + 1",
    "The library",
    "2 + 7 is [Calculator(2 + 7) -> 9] 9.",
    "She bought 5 apples, and 5 + 6 is",
)


@pytest.fixture(scope="module")
def lm(calling_llama_folder):
    ref = ModelRef(path=str(calling_llama_folder), digest="", dtype="float32")
    return load_model(ref, "cpu", 4096)


def decoder(lm, tools=TOOLS, *, forbids_calls=True, **settings):
    return Decoder(lm, tools, DecodeConfig(**settings), forbids_calls)


def generate(lm, prompts=PROMPTS, tools=TOOLS, **settings):
    prompts = list(prompts)
    return decoder(lm, tools, **settings).generate(prompts, [NO_DOCUMENT] * len(prompts))


@torch.inference_mode()
def next_logits(lm, token_ids):
    return lm.model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0, -1]


def reference_completion(lm, prompt, tools=TOOLS, *, call_top_k, max_calls, max_new_tokens):
    """(completion, token ids, calls, number of malformed ones), reading all anew for each token."""
    prompt_ids = [lm.document_start_id, *lm.encode(prompt)]
    ids, calls, num_chosen, num_opened, num_malformed = [], [], 0, 0, 0
    while num_chosen < max_new_tokens:
        ranked = next_logits(lm, prompt_ids + ids).argsort(descending=True).tolist()
        plain = next(token for token in ranked if token not in lm.start_ids)
        starts = [token for token in ranked[:call_top_k] if token in lm.start_ids]
        if starts and num_opened < max_calls:
            num_opened += 1
            limit = max_new_tokens - num_chosen
            written = reference_call(lm, prompt_ids + ids, starts[0], limit)
            call = parsed_call(lm, written)
            if call is None or call.tool not in tools:
                num_malformed += 1
            else:
                [answer] = tools[call.tool].answers([(call.argument, NO_DOCUMENT)])
                calls.append((call.argument, answer.result, answer.outcome))
                if answer.outcome is Outcome.OK:
                    num_chosen += len(written)
                    ids += [*written, *lm.encode(f" {answer.result}]")]
                    continue
        if plain == lm.tokenizer.eos_token_id:
            break
        ids.append(plain)
        num_chosen += 1
    return lm.tokenizer.decode(ids), tuple(ids), calls, num_malformed


def reference_call(lm, before, start, limit):
    """The tokens of a call up to the arrow, or up to where it can be none."""
    written = [start]
    while len(written) < limit:
        written.append(int(next_logits(lm, before + written).argmax()))
        text = lm.tokenizer.decode(written)
        if text.endswith(" ->"):
            break
        if "]" in text or len(written) == 48 or written[-1] == lm.tokenizer.eos_token_id:
            break
    return written


def parsed_call(lm, written):
    text = lm.tokenizer.decode(written).lstrip(" ")
    try:
        return parse_call(text.removesuffix(" ->") + "]") if text.endswith(" ->") else None
    except NotationError:
        return None


def outline(generation):
    calls = [(call.argument, call.result, call.outcome) for call in generation.calls]
    return generation.completion, generation.token_ids, calls, generation.num_malformed


@pytest.mark.parametrize("call_top_k", [1, 10])
@pytest.mark.parametrize("max_calls", [0, 1, 2])
def test_generate_any_batch_equals_recomputing_every_step(lm, call_top_k, max_calls):
    settings = {"call_top_k": call_top_k, "max_calls": max_calls, "max_new_tokens": 37}
    expected = [reference_completion(lm, prompt, **settings) for prompt in PROMPTS]
    together = generate(lm, **settings)
    alone = [generate(lm, [prompt], **settings)[0] for prompt in PROMPTS]
    assert [outline(g) for g in together] == expected
    assert [outline(g) for g in alone] == expected
    assert max(len(g.calls) for g in together) == max_calls


@pytest.fixture(scope="module")
def chaining_lm(tmp_path_factory):
    """Knows texts of three sums, and so calls three times."""
    sums = [sum_text(*pair) for pair in SUMS]
    texts = [" ".join((sums * 2)[k : k + 3]) for k in range(len(sums))]
    model = tiny_model.train_on(tiny_model.tiny_llama(), texts, 200)
    folder = tiny_model.save(model, tmp_path_factory.mktemp("chaining-llama"))
    return load_model(ModelRef(path=str(folder), digest="", dtype="float32"), "cpu", 4096)


@pytest.mark.parametrize("max_calls", [1, 2, 3])
def test_generate_up_to_three_calls_equal_recomputing_every_step(chaining_lm, max_calls):
    settings = {"call_top_k": 3, "max_calls": max_calls, "max_new_tokens": 60}
    prompts = [f"{a} + {b} is" for a, b in SUMS] + ["6", "The mill"]
    expected = [reference_completion(chaining_lm, prompt, **settings) for prompt in prompts]
    assert [outline(g) for g in generate(chaining_lm, prompts, **settings)] == expected
    assert max(len(calls) for _, _, calls, _ in expected) == max_calls


class SlowCaller:
    """The calculator behind doors that the test opens, one call at a time."""

    def __init__(self):
        self.tool = Calculator()
        self.doors = []

    def answers(self, calls):
        door = threading.Event()
        self.doors.append(door)
        assert door.wait(60)
        return TOOLS["Calculator"].answers(calls)


@pytest.mark.parametrize("seed", range(4))
def test_decoding_tools_answering_in_any_order_change_nothing(chaining_lm, seed):
    lm = chaining_lm
    settings = {"call_top_k": 3, "max_calls": 3, "max_new_tokens": 60}
    prompts = [*PROMPTS, *[f"{a} + {b} is" for a, b in SUMS], "9 + 5", "She bought"]
    expected = [reference_completion(lm, prompt, **settings) for prompt in prompts]
    draw, caller = random.Random(seed), SlowCaller()
    decoding = Decoding(lm, {"Calculator": caller}, max_rows=16)
    config = DecodeConfig(**settings)
    for prompt in prompts:
        decoding.add(DecodeRequest(prompt=prompt, context=NO_DOCUMENT, config=config))
    found, num_overtaken = {}, 0
    while not decoding.is_idle:
        events = decoding.step()
        found |= {e.ticket: outline(e.generation) for e in events if isinstance(e, Finished)}
        if caller.doors and (decoding.is_waiting or draw.random() < 0.3):
            k = draw.randrange(len(caller.doors))
            num_overtaken += k > 0
            caller.doors.pop(k).set()
            assert decoding.wake.wait(60)
    decoding.close()
    assert [found[ticket] for ticket in range(len(prompts))] == expected
    assert len(prompts) == 16
    assert num_overtaken > 3
    assert {len(calls) for _, _, calls, _ in expected} == {0, 1, 2, 3}


def test_decoding_rows_go_on_while_one_waits_for_its_tool(lm):
    caller = SlowCaller()
    decoding = Decoding(lm, {"Calculator": caller})
    config = DecodeConfig(call_top_k=1, max_new_tokens=30)
    waits = decoding.add(DecodeRequest(prompt="3 + 4 is", context=NO_DOCUMENT, config=config))
    goes_on = decoding.add(DecodeRequest(prompt="The mill", context=NO_DOCUMENT, config=config))
    finished = []
    while len(finished) < 1:
        finished += [e.ticket for e in decoding.step() if isinstance(e, Finished)]
    assert finished == [goes_on]
    assert decoding.is_waiting
    assert decoding.step() == []
    caller.doors.pop().set()
    assert decoding.wake.wait(60)
    while not decoding.is_idle:
        finished += [e.ticket for e in decoding.step() if isinstance(e, Finished)]
    assert finished == [goes_on, waits]
    decoding.close()


def test_generate_batches_split_by_token_budget_give_the_same(lm, calling_llama_folder):
    ref = ModelRef(path=str(calling_llama_folder), digest="", dtype="float32")
    small = load_model(ref, "cpu", 64)

    def timeless(lm):
        return [(g.completion, g.answer, g.num_malformed) for g in generate(lm, max_new_tokens=30)]

    assert timeless(small) == timeless(lm)


def test_generate_call_top_k_zero_never_starts_a_call(lm):
    generations = generate(lm, call_top_k=0, max_new_tokens=30)
    assert all("[" not in g.completion and not g.calls for g in generations)
    assert [g.answer for g in generations] == [g.completion for g in generations]


def test_generate_without_tools_forbids_the_start_of_a_call(lm):
    generations = generate(lm, tools={}, call_top_k=0, max_new_tokens=30)
    assert all("[" not in g.completion for g in generations)


def test_generate_base_model_may_write_brackets_as_text(lm):
    (generation,) = generate(lm, ["3 + 4 is"], tools={}, forbids_calls=False, max_new_tokens=30)
    assert generation.completion.startswith(" [Calculator(3 + 4) -> 7]")
    assert generation.answer == generation.completion
    assert (generation.calls, generation.num_malformed) == ((), 0)


class Verbose(Calculator):
    """A calculator that answers with a long text, brackets and arrows included."""

    answer = "about [7] -> \\ or\nso \U0001f600"

    def call(self, argument, context):
        return self.answer


def test_generate_result_is_inserted_verbatim_and_escaped(lm):
    (generation,) = generate(
        lm, ["3 + 4 is"], tools={"Calculator": ToolCaller(Verbose(), EXECUTE)}, max_new_tokens=30
    )
    rendered = render_call_with_result("Calculator", "3 + 4", Verbose.answer)
    assert generation.completion.startswith(f" {rendered}")
    (call,) = generation.calls
    assert (call.argument, call.result, call.outcome) == ("3 + 4", Verbose.answer, Outcome.OK)
    at = generation.completion.index("[")
    assert generation.completion[call.char_offset :].lstrip(" ").startswith(rendered)
    assert call.char_offset in (at - 1, at)


def test_generate_failed_call_is_taken_back_and_told_of(lm):
    (generation,) = generate(lm, ["7 / 0 is"], call_top_k=1, max_new_tokens=20)
    (call,) = generation.calls
    assert (call.outcome, call.result, call.char_offset) == (Outcome.REJECTED, "", 0)
    assert "zero" in call.reason
    (forbidden,) = generate(lm, ["7 / 0 is"], call_top_k=0, max_new_tokens=20)
    assert generation.completion == generation.answer == forbidden.completion
    assert generation.token_ids == forbidden.token_ids


def test_generate_answer_has_its_calls_taken_out(lm):
    (generation,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_calls=2, max_new_tokens=30)
    assert generation.completion.startswith(" [Calculator(3 + 4) -> 7] 7.")
    assert generation.answer.startswith(" 7.")
    assert "[" not in generation.answer


@pytest.mark.parametrize("prompt", ["The mill", "The library"])
def test_generate_malformed_call_is_taken_back_and_counted(lm, prompt):
    (generation,) = generate(lm, [prompt], call_top_k=1, max_new_tokens=30)
    (forbidden,) = generate(lm, [prompt], call_top_k=0, max_new_tokens=30)
    assert (generation.calls, generation.num_malformed) == ((), 1)
    assert generation.token_ids == forbidden.token_ids


@pytest.mark.parametrize("limit", [3, 5])
def test_generate_call_open_at_the_end_is_taken_back(lm, limit):
    (generation,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_new_tokens=limit)
    (forbidden,) = generate(lm, ["3 + 4 is"], call_top_k=0, max_new_tokens=limit)
    assert (generation.calls, generation.num_malformed) == ((), 1)
    assert generation.completion == generation.answer == forbidden.answer
    assert generation.finish_reason == forbidden.finish_reason


@pytest.mark.parametrize(
    "prefix", ["8 + 9 is", "8 + 9 is [Calculator(8 + 9) -> 17] 17. 2", "The mill"]
)
def test_generate_prefix_that_is_read_once_changes_nothing(lm, prefix):
    prompts = [prefix, *(f"{prefix} {prompt}" for prompt in PROMPTS), "no such beginning"]
    contexts, config = [NO_DOCUMENT] * len(prompts), DecodeConfig(max_calls=2)
    expected = Decoder(lm, TOOLS, config).generate(prompts, contexts)
    found = Decoder(lm, TOOLS, config, prefix=prefix).generate(prompts, contexts)
    assert [g.token_ids for g in found] == [g.token_ids for g in expected]


def test_generate_keeps_the_order_of_the_prompts(lm):
    forward = [g.completion for g in generate(lm, PROMPTS, max_new_tokens=20)]
    backward = [g.completion for g in generate(lm, PROMPTS[::-1], max_new_tokens=20)]
    assert forward == backward[::-1]


def test_generate_stops_at_max_new_tokens_when_a_result_comes_last(lm):
    at_the_arrow = len(lm.encode(" [Calculator(3 + 4) ->"))
    (generation,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_new_tokens=at_the_arrow)
    assert generation.completion == " [Calculator(3 + 4) -> 7]"


def test_generate_nothing_gives_nothing(lm):
    assert generate(lm, []) == []


def events_of(lm, prompts, tools=TOOLS, **settings):
    contexts = [NO_DOCUMENT] * len(prompts)
    return list(decoder(lm, tools, **settings).stream(prompts, contexts))


def written(events):
    """What the events of a row put into its completion."""
    for event, following in itertools.pairwise(events):
        match event:
            case TextPiece():
                yield event.text
            case CallStarted() if following.call.outcome is Outcome.OK:
                yield event.written
            case CallFinished():
                yield event.rest


def test_stream_pieces_are_the_answers_and_calls_stand_between_them(lm):
    events = events_of(lm, PROMPTS, max_calls=2, max_new_tokens=30)
    finished = {e.ticket: e.generation for e in events if isinstance(e, Finished)}
    assert finished.keys() == set(range(len(PROMPTS)))
    for ticket, generation in finished.items():
        own = [e for e in events if e.ticket == ticket]
        assert isinstance(own[-1], Finished)
        assert "".join(e.text for e in own if isinstance(e, TextPiece)) == generation.answer
        calls = [e.call for e in own if isinstance(e, CallFinished)]
        assert tuple(calls) == generation.calls
        started = [(e.tool, e.argument, e.char_offset) for e in own if isinstance(e, CallStarted)]
        assert started == [(c.tool, c.argument, c.char_offset) for c in calls]
        assert "".join(written(own)) == generation.completion
    assert any(generation.calls for generation in finished.values())


def test_stream_text_before_a_call_comes_before_it(lm):
    events = events_of(lm, ["6 + 1"], call_top_k=1, max_new_tokens=30)
    kinds = [type(event).__name__ for event in events if not isinstance(event, Finished)]
    first_call = kinds.index("CallStarted")
    before = "".join(e.text for e in events[:first_call])
    assert before == " is"
    assert events[first_call].char_offset == len(before)
    assert kinds[first_call + 1] == "CallFinished"


@pytest.mark.parametrize("max_words", [1, 3])
def test_generate_max_words_ends_the_answer_behind_the_last_whole_one(lm, max_words):
    (unlimited,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_new_tokens=30)
    (generation,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_new_tokens=30, max_words=max_words)
    words = unlimited.answer.split()
    assert len(words) > max_words
    assert generation.answer.split()[:max_words] == words[:max_words]
    assert len(generation.answer.split()) == max_words + 1
    assert generation.finish_reason == "length"


@pytest.mark.parametrize(
    ("stop", "answer"), [((". 5",), " 7"), (("is.", "6 is"), " 7. 5 + "), (("nowhere",), None)]
)
def test_generate_stop_text_ends_the_answer_and_is_left_out(lm, stop, answer):
    (unstopped,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_new_tokens=30)
    assert unstopped.answer.startswith(" 7. 5 + 6 is")
    (generation,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_new_tokens=30, stop=stop)
    expected = unstopped.answer if answer is None else answer
    assert generation.answer == expected
    assert generation.completion == f" [Calculator(3 + 4) -> 7]{expected}"
    assert generation.finish_reason == "stop"


def test_generate_sampling_depends_on_prompt_and_seed_alone(lm):
    settings = {"temperature": 1.5, "top_p": 0.9, "max_new_tokens": 25}
    together = [g.token_ids for g in generate(lm, **settings)]
    alone = [generate(lm, [prompt], **settings)[0].token_ids for prompt in PROMPTS]
    backward = [g.token_ids for g in generate(lm, PROMPTS[::-1], **settings)][::-1]
    assert together == alone == backward
    assert together != [g.token_ids for g in generate(lm, seed=1, **settings)]
    assert together != [g.token_ids for g in generate(lm, max_new_tokens=25)]


def test_generate_at_a_low_temperature_is_greedy(lm):
    cold = generate(lm, temperature=1e-6, max_new_tokens=25)
    assert [g.token_ids for g in cold] == [g.token_ids for g in generate(lm, max_new_tokens=25)]


def test_generate_call_threshold_takes_the_place_of_the_rank(lm):
    """p(<API>) by a plain forward pass, all spellings together; a call just at it and above it."""
    prompt_ids = [lm.document_start_id, *lm.encode("3 + 4 is")]
    p = float(next_logits(lm, prompt_ids).softmax(-1)[list(lm.start_ids)].sum())
    assert 0.1 < p < 1
    settings = {"call_top_k": 1, "max_new_tokens": 20}
    (below,) = generate(lm, ["3 + 4 is"], call_threshold=p * 0.999, **settings)
    (above,) = generate(lm, ["3 + 4 is"], call_threshold=min(1.0, p * 1.001), **settings)
    assert [call.char_offset for call in below.calls] == [0]
    assert all(call.char_offset > 0 for call in above.calls)


def test_generate_forced_tool_is_written_after_the_start(lm):
    """Left to itself the model writes no tool's name there."""
    settings = {"call_top_k": 1, "max_new_tokens": 30}
    (free,) = generate(lm, ["The mill"], **settings)
    (forced,) = generate(lm, ["The mill"], forced_tool="Calculator", **settings)
    assert (free.calls, free.num_malformed) == ((), 1)
    assert [call.tool for call in forced.calls] == ["Calculator"]
    assert forced.completion.startswith(" [Calculator(")


def test_decoding_unknown_forced_tool_is_refused(lm):
    with pytest.raises(ConfigError, match=r"forced_tool 'Oracle'.*known: Calculator"):
        generate(lm, ["3 + 4 is"], forced_tool="Oracle")


def test_decoding_prompt_longer_than_the_context_is_refused(short_lm):
    with pytest.raises(ConfigError, match=r"prompt of \d+ tokens; the model takes 24"):
        generate(short_lm, ["3 + 4 is " * 20])


def test_decoding_row_ends_at_the_end_of_the_context(short_lm):
    (generation,) = generate(short_lm, ["The mill is closed. The mill is"], call_top_k=0)
    assert generation.num_prompt_tokens + len(generation.token_ids) == 24
    assert generation.finish_reason == "length"


def test_decoding_forced_call_that_has_no_room_is_not_started(short_lm):
    prompt = "7" * 21  # each digit is a token
    settings = {"call_top_k": 1000, "forced_tool": "Calculator"}
    (generation,) = generate(short_lm, [prompt], **settings)
    (forbidden,) = generate(short_lm, [prompt], call_top_k=0)
    assert 24 - generation.num_prompt_tokens < len(short_lm.encode("Calculator(")) + 1
    assert generation.token_ids
    assert (generation.token_ids, generation.num_malformed) == (forbidden.token_ids, 0)


def test_decoding_prompt_that_is_no_text_is_refused(lm):
    with pytest.raises(ConfigError, match="no Unicode text"):
        generate(lm, ["half a character: \ud800"])


def test_decoding_result_that_does_not_fit_the_context_is_a_failed_call(short_lm):
    tools = {"Calculator": ToolCaller(Verbose(), EXECUTE)}
    (generation,) = generate(short_lm, ["3 + 4 is"], tools=tools, call_top_k=1)
    (call,) = generation.calls
    assert (call.outcome, call.result) == (Outcome.FAILED, "")
    assert "no room for a result" in call.reason
    assert "[" not in generation.completion


@pytest.fixture(scope="module")
def short_lm(calling_llama_folder, tmp_path_factory):
    """The same model with a context of 24 tokens."""
    folder = tmp_path_factory.mktemp("short") / "model"
    shutil.copytree(calling_llama_folder, folder)
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "max_position_embeddings": 24}))
    return load_model(ModelRef(path=str(folder), digest="", dtype="float32"), "cpu", 4096)


def request_of(prompt, **settings):
    config = DecodeConfig(call_top_k=1, max_new_tokens=30, **settings)
    return DecodeRequest(prompt=prompt, context=NO_DOCUMENT, config=config)


def test_decoding_cancelled_rows_are_gone_and_others_unmoved(lm):
    (expected,) = generate(lm, ["2 + 7 is"], call_top_k=1, max_new_tokens=30)
    caller = SlowCaller()
    decoding = Decoding(lm, {"Calculator": caller}, max_rows=3)
    tickets = [decoding.add(request_of(p)) for p in ("3 + 4 is", "2 + 7 is", "6 + 1", "The mill")]
    while not caller.doors:
        decoding.step()
    for ticket in (tickets[0], tickets[2], tickets[3]):
        decoding.cancel(ticket)
    decoding.cancel(tickets[0])  # a second time changes nothing
    found = []
    while not decoding.is_idle:
        for door in caller.doors:
            door.set()
        found += [e for e in decoding.step() if isinstance(e, Finished)]
    decoding.close()
    assert [(e.ticket, outline(e.generation)) for e in found] == [(tickets[1], outline(expected))]


def test_decoding_row_that_has_not_been_fed_may_be_cancelled(calling_llama_folder):
    """Two prompts, and tokens for one of them in a step."""
    ref = ModelRef(path=str(calling_llama_folder), digest="", dtype="float32")
    lm = load_model(ref, "cpu", 16)
    decoding = Decoding(lm, TOOLS)
    tickets = [decoding.add(request_of("The mill is closed. " * 4)) for _ in range(2)]
    decoding.step()
    decoding.cancel(tickets[1])
    found = []
    while not decoding.is_idle:
        found += [e.ticket for e in decoding.step() if isinstance(e, Finished)]
    decoding.close()
    assert found == [tickets[0]]


def test_decoding_short_prompt_that_joins_leaves_a_waiting_row_as_it_is(lm):
    (expected,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_new_tokens=30)
    caller = SlowCaller()
    decoding = Decoding(lm, {"Calculator": caller})
    ticket = decoding.add(request_of("3 + 4 is"))
    while not caller.doors:
        decoding.step()
    decoding.add(request_of(""))
    decoding.step()
    found = {}
    while not decoding.is_idle:
        for door in caller.doors:
            door.set()
        found |= {e.ticket: e.generation for e in decoding.step() if isinstance(e, Finished)}
    decoding.close()
    assert outline(found[ticket]) == outline(expected)


def test_decoding_tool_that_hangs_keeps_no_other_tool_waiting(lm):
    hanging = SlowCaller()
    tools = {"Calculator": hanging, "Oracle": ToolCaller(Verbose(), EXECUTE)}
    decoding = Decoding(lm, tools, max_rows=1)
    decoding.cancel(decoding.add(request_of("3 + 4 is")))
    ticket = decoding.add(request_of("3 + 4 is"))
    while not hanging.doors:
        decoding.step()
    decoding.cancel(ticket)
    decoding.add(request_of("The library"))
    found = []
    while not decoding.is_idle:
        events = decoding.step()
        found += [e.call.tool for e in events if isinstance(e, CallFinished)]
        if not events and decoding.is_waiting:
            assert decoding.wake.wait(60)
    hanging.doors[0].set()
    decoding.close()
    assert found == ["Oracle"]


def test_decoding_close_lets_all_rows_go(lm):
    decoding = Decoding(lm, TOOLS, max_rows=1)
    for prompt in PROMPTS:
        decoding.add(request_of(prompt))
    decoding.step()
    decoding.close()
    assert decoding.is_idle


class AwayCaller:
    """A tool that cannot be reached."""

    tool = Calculator()

    def answers(self, calls):
        raise TransientToolError("the calculator is away")


def test_decoding_outage_is_raised(lm):
    with pytest.raises(TransientToolError, match="is away"):
        generate(lm, ["3 + 4 is"], tools={"Calculator": AwayCaller()})


def test_forgiving_caller_makes_an_outage_a_failed_call_that_is_taken_back(lm):
    tools = {"Calculator": ForgivingCaller(AwayCaller())}
    (generation,) = generate(lm, ["3 + 4 is"], tools=tools, call_top_k=1, max_new_tokens=20)
    (call,) = generation.calls
    assert (call.outcome, call.reason) == (Outcome.FAILED, "the calculator is away")
    assert "[" not in generation.completion


class UnsetCaller(AwayCaller):
    """A tool whose setting is wrong."""

    def answers(self, calls):
        raise ConfigError("its key is not set")


def test_forgiving_caller_makes_a_wrong_setting_a_failed_call():
    (answer,) = ForgivingCaller(UnsetCaller()).answers([("3 + 4", NO_DOCUMENT)])
    assert (answer.outcome, answer.reason) == (Outcome.FAILED, "its key is not set")


def test_forgiving_caller_hands_answers_through():
    caller = ForgivingCaller(TOOLS["Calculator"])
    assert caller.tool is TOOLS["Calculator"].tool
    assert [answer.result for answer in caller.answers([("3 + 4", NO_DOCUMENT)])] == ["7"]


def test_decoding_without_document_start_reads_the_prompt_alone(lm):
    decoding = Decoding(lm, {})
    config = DecodeConfig(call_top_k=0, max_new_tokens=8)
    for starts_document in (True, False):
        decoding.add(
            DecodeRequest(
                prompt="The mill is",
                context=NO_DOCUMENT,
                config=config,
                starts_document=starts_document,
            )
        )
    found = {}
    while not decoding.is_idle:
        found |= {e.ticket: e.generation for e in decoding.step() if isinstance(e, Finished)}
    decoding.close()
    assert found[0].num_prompt_tokens == found[1].num_prompt_tokens + 1
