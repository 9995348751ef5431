"""The transformers adapter against references without cache, batch or padding."""

import collections
import copy
import itertools
import math

import pytest
import torch

from toolformer_core.lm import (
    AnnotationPrompt,
    ContinuationRequest,
    LossRequest,
    SamplingSettings,
)
from toolformer_core.models import ModelRef
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.loading import load_model
from toolformer_core.transformers_lm.probe import Way

PROMPT = AnnotationPrompt(head="Copy the text. Input: The mill.\nInput:\n", tail="\nOutput:\n")
TEXTS = (
    "She bought 34 apples and 57 pears.",
    "Today is Tuesday; the mill [is] closed.",
    "5 + 6 = 11",
)
GREEDY = SamplingSettings(temperature=0, top_p=1, max_tokens=12, stop="]")
SAMPLED = SamplingSettings(temperature=1, top_p=1, max_tokens=10, stop="]")


def load(folder, token_budget=4096):
    ref = ModelRef(path=str(folder), digest="", dtype="float32")
    return load_model(ref, "cpu", token_budget)


@pytest.fixture(scope="module", params=["tiny_llama_folder", "tiny_gpt2_folder"])
def lm(request):
    return load(request.getfixturevalue(request.param))


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_gpt2", "calling_llama"])
def continuing_lm(request):
    return load(request.getfixturevalue(f"{request.param}_folder"))


@torch.inference_mode()
def reference_logits(model, token_ids):
    """Logits of every position of one sequence: one forward, no cache, no mask."""
    return model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]


def reference_losses(lm, model64, request):
    token_ids, at = request.tokens.token_ids, request.prefix_before
    ids = [
        lm.document_start_id,
        *token_ids[:at],
        *lm.encode(request.prefix),
        *token_ids[at : request.last],
    ]
    logprobs_TV = reference_logits(model64, ids).log_softmax(-1)
    width = request.last - request.first
    return [-float(logprobs_TV[t - 1, ids[t]]) for t in range(len(ids) - width, len(ids))]


def loss_requests(lm):
    tokens = [lm.tokenize(text) for text in TEXTS]
    prefixes = ("", "[Calculator(34 + 57) -> 91]\n", "[Calendar() -> ]\n")
    spans = [(0, 5), (3, 7), (7, 7), (2, 6)]
    requests = [
        LossRequest(prefix=prefix, tokens=t, first=first, last=last, prefix_before=at)
        for prefix in prefixes
        for t in tokens
        for first, last in spans
        for at in sorted({0, first // 2, first})
    ]
    whole = [LossRequest(prefix="", tokens=t, first=0, last=len(t.token_ids)) for t in tokens]
    return requests + whole


@pytest.fixture(scope="module")
def expected_losses(lm):
    model64 = copy.deepcopy(lm.model).double()
    return [reference_losses(lm, model64, request) for request in loss_requests(lm)]


def assert_losses_close(found, expected):
    assert [len(row) for row in found] == [len(row) for row in expected]
    for row, reference in zip(found, expected, strict=True):
        assert row == pytest.approx(reference, abs=1e-4)


@pytest.mark.parametrize("token_budget", [1, 64, 400, 100_000])
def test_token_losses_any_budget_equal_float64_reference(lm, expected_losses, token_budget):
    other = HFLanguageModel(lm.model, lm.tokenizer, token_budget)
    assert_losses_close(other.token_losses(loss_requests(lm)), expected_losses)


def test_token_losses_any_order_and_batch_equal_float64_reference(lm, expected_losses):
    requests = loss_requests(lm)
    found = lm.token_losses(requests[::-1])[::-1]
    assert_losses_close(found, expected_losses)
    halves = lm.token_losses(requests[::2]), lm.token_losses(requests[1::2])
    assert_losses_close(halves[0], expected_losses[::2])
    assert_losses_close(halves[1], expected_losses[1::2])


def test_token_losses_longer_than_one_head_chunk_equal_float64_reference(lm):
    tokens = lm.tokenize(" ".join(TEXTS * 4))
    request = LossRequest(prefix="x", tokens=tokens, first=0, last=len(tokens.token_ids))
    assert request.last > 128
    expected = reference_losses(lm, copy.deepcopy(lm.model).double(), request)
    assert_losses_close(lm.token_losses([request]), [expected])


def test_token_losses_longer_than_the_context_see_as_far_back_as_fits(tiny_gpt2_folder):
    lm = load(tiny_gpt2_folder)
    tokens = lm.tokenize(" ".join(TEXTS * 16))
    context, prefix = lm.context_tokens, "[Calculator(34 + 57) -> 91]\n"
    last = context + 40
    assert len(tokens.token_ids) > last
    spans = [(0, 5), (last - 5, last), (300, 305)]
    requests = [LossRequest(prefix=prefix, tokens=tokens, first=a, last=b) for a, b in spans]
    before = [lm.document_start_id, *lm.encode(prefix)]
    found = lm.token_losses(requests)
    for (a, b), row in zip(spans, found, strict=True):
        ids = [*before, *tokens.token_ids[max(0, b + len(before) - context) : b]]
        logprobs_TV = reference_logits(lm.model, ids).log_softmax(-1)
        width = b - a
        expected = [-float(logprobs_TV[t - 1, ids[t]]) for t in range(len(ids) - width, len(ids))]
        assert row == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("num_between", [0, 2, 300])
def test_token_losses_in_place_of_a_long_text_see_as_far_back_as_fits(
    tiny_gpt2_folder, num_between
):
    lm = load(tiny_gpt2_folder)
    tokens, prefix = lm.tokenize(" ".join(TEXTS * 16)), " [Calculator(34 + 57) -> 91]"
    z = lm.encode(prefix)
    first, last = lm.context_tokens + 20, lm.context_tokens + 25
    at = first - num_between
    [found] = lm.token_losses(
        [LossRequest(prefix=prefix, tokens=tokens, first=first, last=last, prefix_before=at)]
    )
    ids = [*tokens.token_ids[:at], *z, *tokens.token_ids[at:last]]
    seen = [lm.document_start_id, *ids[len(ids) - lm.context_tokens + 1 :]]
    logprobs_TV = reference_logits(lm.model, seen).log_softmax(-1)
    expected = [-float(logprobs_TV[t - 1, seen[t]]) for t in range(len(seen) - 5, len(seen))]
    assert found == pytest.approx(expected, abs=1e-4)


def test_token_losses_behind_a_prefix_that_fills_the_context_are_nan(tiny_gpt2_folder):
    lm = load(tiny_gpt2_folder)
    tokens = lm.tokenize(TEXTS[0])
    long = "much " * 600
    fitting = LossRequest(prefix="", tokens=tokens, first=0, last=3)
    filled = LossRequest(prefix=long, tokens=tokens, first=0, last=3)
    found = lm.token_losses([fitting, filled])
    assert all(math.isnan(loss) for loss in found[1])
    assert found[0] == pytest.approx(lm.token_losses([fitting])[0], abs=1e-5)


def test_token_losses_of_nothing_are_empty(lm):
    tokens = lm.tokenize(TEXTS[0])
    assert lm.token_losses([]) == []
    nothing = LossRequest(prefix="", tokens=tokens, first=4, last=4)
    assert lm.token_losses([nothing]) == [()]


def test_start_ids_are_the_tokens_that_spell_an_opening_bracket(lm):
    assert sorted(lm.tokenizer.decode([i]) for i in lm.start_ids) == [" [", "["]


def prompt_ids(lm, tokens, token_index, start=""):
    """P(x), x_1..x_i-1 and the opening, as tokens."""
    return [
        lm.document_start_id,
        *lm.encode(PROMPT.head),
        *tokens.token_ids,
        *lm.encode(PROMPT.tail),
        *tokens.token_ids[:token_index],
        *lm.encode(start),
    ]


def read(lm, tokens):
    """A reading that may start a call anywhere."""
    return lm.read(PROMPT, tokens, [range(len(text.token_ids) + 1) for text in tokens])


def test_start_probabilities_every_position_equals_one_forward_each(lm):
    tokens = [lm.tokenize(text) for text in TEXTS]
    found = read(lm, tokens).start_probabilities
    model64 = copy.deepcopy(lm.model).double()
    for row, text in zip(found, tokens, strict=True):
        expected = [
            float(
                reference_logits(model64, prompt_ids(lm, text, i))[-1]
                .softmax(-1)[list(lm.start_ids)]
                .sum()
            )
            for i in range(len(text.token_ids) + 1)
        ]
        assert list(row) == list(range(len(expected)))
        assert list(row.values()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("way", Way)
@pytest.mark.parametrize("places", [[(3,), (), (0, 5)], [(), (), ()]], ids=["some", "none"])
def test_start_probabilities_are_given_for_the_places_alone(lm, way, places):
    tokens = [lm.tokenize(text) for text in TEXTS]
    everywhere = read(lm, tokens).start_probabilities
    assert lm.way is Way.PACKED
    other = HFLanguageModel(lm.model, lm.tokenizer)
    other.__dict__["way"] = way
    found = other.read(PROMPT, tokens, places).start_probabilities
    for row, everything, own in zip(found, everywhere, places, strict=True):
        assert row == pytest.approx({i: everything[i] for i in own}, rel=1e-4)


def test_start_probabilities_do_not_depend_on_what_else_is_read(lm):
    tokens = [lm.tokenize(text) for text in TEXTS]
    together = read(lm, tokens).start_probabilities
    alone = [read(lm, [text]).start_probabilities[0] for text in tokens]
    for row, expected in zip(together, alone, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)


def reference_continuation(lm, tokens, request, settings):
    """Greedy, token by token, each from a full forward without a cache."""
    ids = prompt_ids(lm, tokens, request.token_index, request.start)
    chosen = []
    while True:
        chosen.append(int(reference_logits(lm.model, ids + chosen)[-1].argmax()))
        text = lm.tokenizer.decode(chosen)
        if settings.stop in text:
            return text.split(settings.stop)[0], True
        if chosen[-1] == lm.tokenizer.eos_token_id or len(chosen) == settings.max_tokens:
            return text, False


def continuation_requests(lm, tokens):
    """Several positions per document, the same one twice, and two openings."""
    return [
        ContinuationRequest(document_index=d, token_index=i, start=start, seed=17 * i + d + s)
        for d, text in enumerate(tokens)
        for i in (0, 2, len(text.token_ids) // 2, len(text.token_ids))
        for start in (" [", "[Calculator(", " [Calculator(")
        for s in range(2)
    ]


def as_pairs(continuations):
    return [(c.text, c.is_closed) for c in continuations]


@pytest.mark.parametrize("stop", ["]", "a"])
def test_continuations_greedy_equal_decoding_without_cache(continuing_lm, stop):
    lm = continuing_lm
    tokens = [lm.tokenize(text) for text in TEXTS]
    requests = continuation_requests(lm, tokens)
    settings = SamplingSettings(temperature=0, top_p=1, max_tokens=12, stop=stop)
    expected = [
        reference_continuation(lm, tokens[r.document_index], r, settings) for r in requests[::2]
    ]
    found = read(lm, tokens).continuations(requests, settings)
    assert as_pairs(found[::2]) == expected
    assert as_pairs(found[1::2]) == expected  # same position and opening, another seed


@pytest.mark.parametrize("token_budget", [200, 100_000])
def test_continuations_of_texts_of_very_unlike_length_equal_decoding_without_cache(
    lm, token_budget
):
    # Read in several passes, the later ones far wider than the first.
    texts = [TEXTS[2], TEXTS[0], " ".join(TEXTS), " ".join(TEXTS * 3)]
    tokens = [lm.tokenize(text) for text in texts]
    other = HFLanguageModel(lm.model, lm.tokenizer, token_budget)
    requests = [
        ContinuationRequest(document_index=d, token_index=i, start="[Calculator(", seed=0)
        for d, text in enumerate(tokens)
        for i in (1, len(text.token_ids) // 2, len(text.token_ids))
    ]
    expected = [reference_continuation(lm, tokens[r.document_index], r, GREEDY) for r in requests]
    assert as_pairs(read(other, tokens).continuations(requests, GREEDY)) == expected


def test_continuations_greedy_close_and_end_open(calling_llama_folder):
    lm = load(calling_llama_folder)
    tokens = [lm.tokenize("3 + 4 is 7."), lm.tokenize("8 + 9 is 17.")]
    requests = continuation_requests(lm, tokens)
    found = read(lm, tokens).continuations(requests, GREEDY)
    assert {c.is_closed for c in found} == {True, False}


def test_continuations_any_order_are_the_same(continuing_lm):
    lm = continuing_lm
    tokens = [lm.tokenize(text) for text in TEXTS]
    requests = continuation_requests(lm, tokens)
    reading = read(lm, tokens)
    found = as_pairs(reading.continuations(requests, SAMPLED))
    shuffled = [k for step in range(5) for k in range(step, len(requests), 5)]
    again = as_pairs(reading.continuations([requests[k] for k in shuffled], SAMPLED))
    assert again == [found[k] for k in shuffled]


def test_continuations_sampled_depend_on_the_seed_alone(continuing_lm):
    lm = continuing_lm
    tokens = [lm.tokenize(text) for text in TEXTS]
    requests = continuation_requests(lm, tokens)[::3]
    found = as_pairs(read(lm, tokens).continuations(requests, SAMPLED))
    for request, expected in zip(requests, found, strict=True):
        alone = ContinuationRequest(
            document_index=0,
            token_index=request.token_index,
            start=request.start,
            seed=request.seed,
        )
        reading = read(lm, [tokens[request.document_index]])
        assert as_pairs(reading.continuations([alone], SAMPLED)) == [expected]


def test_continuations_of_one_position_differ_by_seed(lm):
    tokens = [lm.tokenize(TEXTS[0])]
    requests = [
        ContinuationRequest(document_index=0, token_index=3, start=" [", seed=seed)
        for seed in (1, 2, 3, 1)
    ]
    first, second, third, again = read(lm, tokens).continuations(requests, SAMPLED)
    assert len({first.text, second.text, third.text}) == 3
    assert again == first


@pytest.mark.parametrize("top_p", [1.0, 0.5])
def test_continuations_follow_the_models_distribution(lm, top_p):
    tokens = lm.tokenize(TEXTS[0])
    requests = [
        ContinuationRequest(document_index=0, token_index=4, start=" [", seed=seed)
        for seed in range(4000)
    ]
    settings = SamplingSettings(temperature=0.7, top_p=top_p, max_tokens=1, stop="not one token")
    drawn = collections.Counter(
        c.text for c in read(lm, [tokens]).continuations(requests, settings)
    )
    logits_V = reference_logits(lm.model, prompt_ids(lm, tokens, 4, " ["))[-1]
    masses = sorted(
        ((float(p), i) for i, p in enumerate((logits_V / 0.7).softmax(-1))), reverse=True
    )
    nucleus, reached = {}, 0.0
    for mass, token in masses:
        if reached < top_p:
            nucleus[token] = mass
            reached += mass
    expected = collections.Counter()
    for token, mass in nucleus.items():
        expected[lm.tokenizer.decode([token])] += mass / reached
    assert set(drawn) <= set(expected)
    distance = sum(abs(drawn[text] / 4000 - p) for text, p in expected.items()) / 2
    assert distance < 0.09  # 4000 fair draws from such a distribution stay below


TRICKY = {
    "emoji": "I \U0001f600\U0001f680 you \U0001f469\u200d\U0001f680!",
    "ends_with_emoji": "done \U0001f44d\U0001f3fd",
    "right_to_left": "\u05e9\u05dc\u05d5\u05dd and \u0645\u0631\u062d\u0628\u0627.",
    "backslashes": r"C:\new\table \[x\] \\ end\\",
    "brackets": "a [b](c) [[d]] -> ] [ e",
    "spaces": "two  three   four    \t tab ",
    "newlines": "\n\none\r\ntwo\n \nthree\n",
    "combining": "e\u0301 na\u00efve \ufb01ne \u4e2d\u6587",
    "empty": "",
}


@pytest.mark.parametrize("name", TRICKY)
def test_tokenize_offsets_cut_text_and_tokens_at_the_same_place(lm, name):
    text = TRICKY[name]
    tokens = lm.tokenize(text)
    offsets = tokens.char_offsets
    assert len(offsets) == len(tokens.token_ids) + 1
    assert (offsets[0], offsets[-1]) == (0, len(text))
    assert list(offsets) == sorted(offsets)
    pieces = [text[a:b] for a, b in itertools.pairwise(offsets)]
    assert "".join(pieces) == text
    for i, offset in enumerate(offsets):
        if offset in offsets[i + 1 : i + 2]:
            continue  # inside a character: no place for a call
        assert lm.tokenizer.decode(tokens.token_ids[:i]) == text[:offset]
        assert lm.tokenizer.decode(tokens.token_ids[i:]) == text[offset:]


def test_tokenize_every_character_border_of_plain_text_is_reached_or_inside_a_token(lm):
    tokens = lm.tokenize("3 + 4")
    assert tokens.char_offsets[0] == 0
    assert len(set(tokens.char_offsets)) == len(tokens.token_ids) + 1
