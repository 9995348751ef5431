"""Decoding with calls against a reference that runs the whole sequence anew for every token.

The model is a real one, overfitted on texts with calls (tests/support/tiny_model.py).
"""

import pytest
import torch

from toolformer_core.calling import ToolCaller
from toolformer_core.config import DecodeConfig, ExecuteConfig
from toolformer_core.decode import Decoder
from toolformer_core.errors import NotationError
from toolformer_core.models import ModelRef, load_model
from toolformer_core.notation import parse_call, render_call_with_result
from toolformer_core.records import Outcome
from toolformer_core.tools.base import NO_DOCUMENT
from toolformer_core.tools.calculator import Calculator

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


def reference_choice(lm, logits_V, is_call_allowed, call_top_k):
    """(token, whether it opens a call): the best start if it is in the top k, else the best."""
    ranked = logits_V.argsort(descending=True).tolist()
    if is_call_allowed:
        for token in ranked[:call_top_k]:
            if token in lm.start_ids:
                return token, True
    return next(token for token in ranked if token not in lm.start_ids), False


def reference_completion(lm, prompt, *, call_top_k, max_calls, max_new_tokens):  # noqa: C901 - one loop, read from top to bottom
    """The completion, its calls as (argument, result), and the number of malformed ones."""
    prompt_ids = [lm.document_start_id, *lm.encode(prompt)]
    ids, call_start, num_chosen, num_opened, calls, num_malformed = [], None, 0, 0, [], 0
    while num_chosen < max_new_tokens:
        logits_V = next_logits(lm, prompt_ids + ids)
        if call_start is None:
            allowed = num_opened < max_calls
            token, opens = reference_choice(lm, logits_V, allowed, call_top_k)
            if token == lm.tokenizer.eos_token_id:
                break
            if opens:
                call_start, num_opened = len(ids), num_opened + 1
        else:
            token = int(logits_V.argmax())
        ids.append(token)
        num_chosen += 1
        if call_start is None:
            continue
        text = lm.tokenizer.decode(ids[call_start:]).lstrip(" ")
        if text.endswith(" ->"):
            try:
                call = parse_call(text.removesuffix(" ->") + "]")
                assert call.tool in TOOLS
            except (NotationError, AssertionError):
                num_malformed += 1
            else:
                result = TOOLS[call.tool].answers([(call.argument, NO_DOCUMENT)])[0].result
                calls.append((call.argument, result))
                ids += lm.encode(f" {result}]" if result else " ]")
            call_start = None
        elif "]" in text or len(ids) - call_start >= 48:
            num_malformed += 1
            call_start = None
    return lm.tokenizer.decode(ids), calls, num_malformed + (call_start is not None)


@pytest.mark.parametrize("call_top_k", [1, 10])
@pytest.mark.parametrize("max_calls", [0, 1, 2])
def test_generate_any_batch_equals_recomputing_every_step(lm, call_top_k, max_calls):
    settings = {"call_top_k": call_top_k, "max_calls": max_calls, "max_new_tokens": 37}
    expected = [reference_completion(lm, prompt, **settings) for prompt in PROMPTS]
    together = generate(lm, **settings)
    alone = [generate(lm, [prompt], **settings)[0] for prompt in PROMPTS]
    for generations in (together, alone):
        found = [
            (g.completion, [(c.argument, c.result) for c in g.calls], g.num_malformed)
            for g in generations
        ]
        assert found == expected
    assert max(len(g.calls) for g in together) == max_calls


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


def test_generate_failed_call_has_empty_result_and_decoding_goes_on(lm):
    (generation,) = generate(lm, ["7 / 0 is"], call_top_k=1, max_new_tokens=40)
    (call,) = generation.calls
    assert (call.outcome, call.result) == (Outcome.REJECTED, "")
    before, called, after = generation.completion.partition("[Calculator(7 / 0) -> ]")
    assert called
    assert before == " "
    assert after
    assert generation.num_malformed == 0


def test_generate_answer_has_its_calls_taken_out(lm):
    (generation,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_calls=2, max_new_tokens=30)
    assert generation.completion.startswith(" [Calculator(3 + 4) -> 7] 7.")
    assert generation.answer.startswith(" 7.")
    assert "[" not in generation.answer


@pytest.mark.parametrize(
    ("prompt", "written"), [("The mill", "[Calculator, no]"), ("The library", "[Oracle(May) ->")]
)
def test_generate_malformed_call_is_counted_and_taken_out(lm, prompt, written):
    (generation,) = generate(lm, [prompt], call_top_k=1, max_new_tokens=30)
    assert written in generation.completion
    assert written not in generation.answer
    assert (generation.calls, generation.num_malformed) == ((), 1)


def test_generate_call_open_at_the_end_is_malformed(lm):
    (generation,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_new_tokens=3)
    assert generation.completion.startswith(" [Calculator")
    assert (generation.calls, generation.num_malformed) == ((), 1)


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


def test_generate_out_of_tokens_inside_a_call_leaves_it_out_of_the_answer(lm):
    (generation,) = generate(lm, ["3 + 4 is"], call_top_k=1, max_new_tokens=5)
    assert "[Calculator(" in generation.completion
    assert "[" not in generation.answer
    assert (generation.calls, generation.num_malformed) == ((), 1)
