"""When calls start: counts against plain forward passes, the choice, and where nothing tells."""

import dataclasses
import itertools

import pytest
import torch

from tests.support.builders import document, filter_decision
from tests.support.tiny_model import SUMS
from toolformer_core.augment import insert_calls
from toolformer_core.call_rule import (
    CHOICE,
    RULES,
    CallChoice,
    CallRule,
    Place,
    best_rule,
    choose_call_rule,
    count_starts,
    read_places,
    with_choice,
)
from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.config.presets import smoke
from toolformer_core.models import ModelRef
from toolformer_core.sample import insertion_places
from toolformer_core.tools.calculator import Calculator
from toolformer_core.transformers_lm.loading import load_model


def opened(folder, token_budget=4096):
    return load_model(ModelRef(path=str(folder), digest="", dtype="float32"), "cpu", token_budget)


@pytest.fixture(scope="module", params=["calling_llama_folder", "tiny_gpt2_folder"])
def lm(request):
    return opened(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def calling_lm(calling_llama_folder):
    return opened(calling_llama_folder)


def augmented(number, sentences):
    """Sentences (text before, argument, result) with a call in each; without an argument, none."""
    text, decisions = "", []
    for before, argument, result in sentences:
        text += before
        if argument:
            decisions.append(
                filter_decision(
                    candidate_id=f"{number}-{len(text)}",
                    char_offset=len(text),
                    argument=argument,
                    result=result,
                )
            )
        text += f" {result}."
    return insert_calls(document(document_id=f"text-{number}", text=text), decisions)


def sum_of(first, second, argument=None):
    argument = argument or f"{first} + {second}"
    return f"{first} + {second} is", argument, str(first + second)


DEV = [
    augmented(1, [sum_of(3, 4)]),
    augmented(2, [sum_of(5, 6), (" The mill is", "", "closed")]),
    # A call that the model does not write, and one behind another in the same text.
    augmented(3, [sum_of(8, 9, "9 + 8"), *[(f" {b}", a, r) for b, a, r in [sum_of(2, 7)]]]),
    augmented(4, [("The library \U0001f600 is", "", "open"), (" 7 / 0 is", "7 / 0", "no number")]),
    augmented(5, [("It is [old] and", "", "closed")]),
]
PLAIN = [augmented(10 + a, [(f"{a} + {b} is", "", str(a + b))]) for a, b in SUMS]


def reference_places(lm, document):
    """(rank, probability, has_call, is_exact) of every place: one forward pass per token."""
    text = document.augmented_text
    tokens = lm.tokenize(text)
    ids = [lm.document_start_id, *tokens.token_ids]
    calls = {}
    for call in document.calls:
        bracket = text.index("[", call.start)
        arrow_end = text.index(" ->", bracket) + len(" ->")
        inside = [
            k
            for k, (start, end) in enumerate(itertools.pairwise(tokens.char_offsets))
            if end > bracket and start < arrow_end
        ]
        calls[inside[0]] = inside[1:]
    as_text = dataclasses.replace(document_of(document), text=text)
    free = insertion_places(tokens, as_text, Calculator(), guard=False)
    free = {
        k: at for k, at in free.items() if not any(c.start <= at < c.end for c in document.calls)
    }
    for k in sorted({*free, *calls}):
        logits = logits_after(lm, ids[: k + 1])
        ranked = sorted(range(len(logits)), key=lambda i: -logits[i])
        p = torch.softmax(logits, -1)
        written = [
            int(logits_after(lm, ids[: j + 1]).argmax()) == ids[j + 1] for j in calls.get(k, [])
        ]
        yield (
            min(ranked.index(i) for i in lm.start_ids),
            float(sum(p[i] for i in lm.start_ids)),
            k in calls,
            k in calls and all(written),
        )


def document_of(augmented_document):
    return document(
        document_id=augmented_document.document_id, text=augmented_document.original_text
    )


def logits_after(lm, ids):
    with torch.no_grad():
        return lm.model(input_ids=torch.tensor([ids])).logits[0, -1].double()


@pytest.fixture(scope="module")
def expected(lm):
    """What `reference_places` finds in DEV and in PLAIN."""
    return [[p for text in texts for p in reference_places(lm, text)] for texts in (DEV, PLAIN)]


def test_read_places_equals_one_forward_pass_per_token(lm, expected):
    expected = [*expected[0], *expected[1]]
    found = read_places([*DEV, *PLAIN], lm)
    assert [(p.rank, p.has_call, p.is_exact) for p in found] == [
        (r, c, e) for r, _, c, e in expected
    ]
    assert [p.probability for p in found] == pytest.approx([p for _, p, _, _ in expected], rel=1e-4)
    assert sum(p.has_call for p in found) == 5


def test_read_places_of_a_model_that_calls_has_exact_calls_and_others(calling_lm):
    # Else the test above would compare nothing with nothing.
    exact = [place.is_exact for place in read_places(DEV, calling_lm) if place.has_call]
    assert set(exact) == {True, False}


@pytest.mark.parametrize("token_budget", [1, 64])
def test_read_places_in_any_batch_are_the_same(calling_llama_folder, calling_lm, token_budget):
    found = read_places(DEV, opened(calling_llama_folder, token_budget))
    expected = read_places(DEV, calling_lm)
    assert [dataclasses.replace(p, probability=0.0) for p in found] == [
        dataclasses.replace(p, probability=0.0) for p in expected
    ]


def test_read_places_behind_the_context_are_left_out(tiny_gpt2_folder):
    lm = opened(tiny_gpt2_folder)
    long = augmented(1, [(" mill" * 600, "", "it"), sum_of(3, 4)])
    assert lm.context_tokens == 512
    places = read_places([long], lm)
    assert 0 < len(places) <= 512
    assert not any(place.has_call for place in places)


def fires(rule, rank, probability):
    return rank < rule.value if rule.setting == "call_top_k" else probability >= rule.value


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_count_starts_equals_counting_one_by_one(lm, expected, rule):
    count = count_starts(rule, read_places(DEV, lm), read_places(PLAIN, lm))
    fired = [(c, e) for r, p, c, e in expected[0] if fires(rule, r, p)]
    plain = [1 for r, p, _, _ in expected[1] if fires(rule, r, p)]
    exact = sum(e for _, e in fired)
    assert (count.num_calls, count.num_started, count.num_exact) == (
        5,
        sum(c for c, _ in fired),
        exact,
    )
    assert (count.num_false, count.num_false_plain) == (sum(not c for c, _ in fired), len(plain))
    assert count.recall == exact / 5
    assert count.recall_low <= count.recall <= count.recall_high
    if not fired:
        assert count.precision is None
    elif exact:
        precision, recall = exact / len(fired), exact / 5
        assert count.precision == precision
        assert count.f1 == pytest.approx(2 * precision * recall / (precision + recall))


def counted(rule, exact, false, *, started=None, calls=10):
    """By hand: so many exact calls and false starts."""
    places = [
        *(Place(rank=0, probability=1.0, has_call=True, is_exact=True) for _ in range(exact)),
        *(Place(rank=0, probability=1.0, has_call=True) for _ in range((started or exact) - exact)),
        *(Place(rank=0, probability=1.0, has_call=False) for _ in range(false)),
    ]
    missed = calls - (started or exact)
    places += [Place(rank=999, probability=0.0, has_call=True, is_exact=True)] * missed
    return count_starts(rule, places)


K1, K2, P5, P3 = RULES[0], RULES[1], RULES[5], RULES[6]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        # F1 2*6/(6+10) = 0.75, 2*8/(16+10) = 0.62: many false starts outweigh more calls.
        ([(K1, 6, 0), (K2, 8, 8)], K1),
        ([(K1, 4, 0), (K2, 8, 2)], K2),  # 0.57, 0.8
        # 2*3/(5+10) and 2*4/(10+10) are both 0.4: fewer starts.
        ([(K2, 4, 6), (K1, 3, 2)], K1),
        ([(P5, 3, 2), (K2, 3, 2), (K1, 3, 2)], P5),  # the first
        ([(K1, 3, 2), (P3, 3, 1)], P3),
    ],
)
def test_best_rule_is_that_of_the_best_f1_then_fewest_starts_then_the_first(counts, expected):
    rule, reason = best_rule([counted(*one) for one in counts])
    assert (rule, reason) == (expected, "best F1 on held-out texts of C*")


def test_rules_list_ranks_first():
    ranks = [rule.value for rule in RULES if rule.setting == "call_top_k"]
    assert [rule.value for rule in RULES] == [*ranks, 0.5, 0.3, 0.2, 0.1, 0.05]
    assert ranks == [1, 2, 3, 5, 10]


def test_best_rule_where_no_call_is_exact_is_greedy_decoding():
    counts = [counted(K1, 0, 9, started=1), counted(P5, 0, 0, started=1)]
    assert best_rule(counts) == (K1, "no held-out call of C* is written exactly")


@pytest.mark.parametrize("dev", [[], [DEV[4]]])
def test_choose_call_rule_without_held_out_calls_is_greedy_and_says_why(calling_lm, dev):
    choice = choose_call_rule(dev, PLAIN, calling_lm)
    assert (choice.rule, choice.counts, choice.num_texts) == (K1, (), len(dev))
    assert str(choice) == "call_top_k = 1: no held-out text of C* has a call"


def test_choose_call_rule_where_no_call_is_exact_says_so_and_has_the_counts(tiny_gpt2_folder):
    choice = choose_call_rule(DEV, PLAIN, opened(tiny_gpt2_folder))
    assert str(choice) == "call_top_k = 1: no held-out call of C* is written exactly"
    assert tuple(count.rule for count in choice.counts) == RULES


def test_choose_call_rule_of_a_model_that_calls_is_the_best_by_its_counts(calling_lm):
    choice = choose_call_rule(DEV, PLAIN, calling_lm)
    assert tuple(count.rule for count in choice.counts) == RULES
    assert (choice.num_texts, choice.num_plain_texts) == (5, 6)
    best = max(choice.counts, key=lambda count: count.f1)
    [chosen] = [count for count in choice.counts if count.rule == choice.rule]
    assert chosen.f1 == best.f1 > 0
    assert str(choice) == (
        f"{choice.rule}, chosen on 5 held-out texts: {chosen.num_exact} of 5 calls exact and in "
        f"place, {chosen.num_false} false starts"
    )
    assert CHOICE.validate_json(CHOICE.dump_json(choice)) == choice


@pytest.mark.parametrize(
    ("rule", "expected"),
    [(K2, (2, None)), (P3, (None, 0.3)), (CallRule(setting="call_top_k", value=0), (0, None))],
)
def test_with_choice_puts_the_rule_into_the_decoding_alone(rule, expected):
    config = smoke()
    choice = CallChoice(rule=rule, reason="", num_texts=0, num_plain_texts=0, counts=())
    decode = with_choice(config, choice).evaluate.decode
    assert (decode.call_top_k, decode.call_threshold) == expected
    unset = {"call_top_k": None, "call_threshold": None}
    assert decode.model_copy(update=unset) == config.evaluate.decode
    assert with_choice(config, None) == config


def test_top_k_counts_as_one_where_none_is_given():
    assert [DecodeConfig(call_top_k=k).top_k for k in (None, 0, 1, 10)] == [1, 0, 1, 10]
    assert DecodeConfig().is_open
    assert not DecodeConfig(call_top_k=0).is_open
    assert not DecodeConfig(call_threshold=0.5).is_open
