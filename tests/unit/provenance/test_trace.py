"""Training calls like a call, and the licences of the texts that they stand in."""

import difflib
import random

import pytest

from tests.support.builders import (
    augmented_document,
    call_span,
    document,
    executed_call,
    filter_decision,
    scored_call,
)
from toolformer_core.provenance.trace import Records, licence_of, nearest_calls, training_calls

DRAWN = random.Random(3)
ARGUMENTS = [
    f"{DRAWN.randint(1, 40)} {DRAWN.choice('+-*/')} {DRAWN.randint(1, 9)}" for _ in range(60)
]


def corpus(arguments, tool="Calculator"):
    calls = [
        call_span(candidate_id=f"{k:03d}", tool=tool, argument=argument)
        for k, argument in enumerate(arguments)
    ]
    return [augmented_document(document_id=f"d{k % 7}", calls=(c,)) for k, c in enumerate(calls)]


def test_nearest_calls_are_those_of_a_plain_loop():
    texts = [*corpus(ARGUMENTS), *corpus(["30 + 4"], tool="Other")]
    found = nearest_calls("Calculator", "30 + 4", texts, 10)
    ratio = [difflib.SequenceMatcher(None, one, "30 + 4").ratio() for one in ARGUMENTS]
    order = sorted(range(len(ARGUMENTS)), key=lambda k: (-ratio[k], k))[:10]
    assert [(similarity, call.candidate_id) for similarity, _, call in found] == [
        (ratio[k], f"{k:03d}") for k in order
    ]


def test_nearest_calls_same_argument_in_quotes_is_equal():
    [(similarity, _, call), *_] = nearest_calls("Calculator", "2 + 2", corpus(['"2 + 2"', "1"]), 5)
    assert (similarity, call.argument) == (1.0, '"2 + 2"')


def test_nearest_calls_of_a_tool_without_calls_are_none():
    assert nearest_calls("Calendar", "", corpus(["1"]), 5) == []


def test_training_calls_join_what_the_stages_know():
    texts = [augmented_document(document_id="d", source="texts.jsonl", calls=(call_span(),))]
    name = call_span().candidate_id
    records = Records(
        documents=[document(document_id="d", url="u", date="2020-01-01"), document()],
        executed=[executed_call(candidate_id=name, tool_version="7"), executed_call()],
        scored=[scored_call(candidate_id=name, loss_with_result=0.25)],
        decisions=[filter_decision(candidate_id=name, filtering_threshold=0.75)],
    )
    [found] = training_calls(texts, records, {"texts.jsonl": "CC0"})
    assert (found.document_id, found.url, found.date) == ("d", "u", "2020-01-01")
    assert (found.loss_with_result, found.filtering_threshold) == (0.25, 0.75)
    assert (found.source, found.licence) == ("texts.jsonl", "CC0")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("texts.jsonl", "CC0"),
        ("c.txt", "MIT"),
        ("hf:wiki/en:train", "CC-BY-SA-4.0"),
        ("reasoning-gym:sums", "stated"),
        ("elsewhere.jsonl", "not stated"),
    ],
)
def test_licence_of_a_document_is_that_of_the_source_that_it_came_from(source, expected):
    licences = {
        "/far/texts.jsonl": "CC0",
        "s3://bucket/*.txt": "MIT",
        "hf:wiki/en:train": "CC-BY-SA-4.0",
        "reasoning-gym:sums?size=3": "stated",
    }
    assert licence_of(source, list(licences), licences) == expected
