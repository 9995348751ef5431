"""Rows that grow, go back, leave and join at random against one plain pass over each row.

On every way of running a model: packed, masked, copied and whole (test_architectures.py).
"""

import random

import pytest
import torch

from tests.contract.test_architectures import ARCHITECTURES, architecture_lm
from toolformer_core.transformers_lm.probe import Way
from toolformer_core.transformers_lm.rows import open_rows
from toolformer_core.transformers_lm.tree import Tree


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request):
    return architecture_lm(request.param)


@torch.inference_mode()
def plain_logits(lm, token_ids):
    return lm.model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0, -1]


def feed_and_check(lm, rows, held, tokens):
    """Feed and compare the logits of every row with a pass over all it holds."""
    found_BV = rows.feed(tokens)
    assert len(found_BV) == len(tokens)
    for (row, ids), found_V in zip(tokens.items(), found_BV, strict=True):
        held[row] = [*held.get(row, []), *ids]
        torch.testing.assert_close(found_V, plain_logits(lm, held[row]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_rows_any_history_equals_one_plain_pass(lm, seed):
    draw = random.Random(seed)
    rows, held = open_rows(lm), {}
    for step in range(30):
        for row in [row for row in held if draw.random() < 0.1]:
            rows.leave(row)
            del held[row]
        for row in [row for row in held if draw.random() < 0.15 and len(held[row]) > 1]:
            held[row] = held[row][: draw.randint(1, len(held[row]))]
            rows.rewind(row, len(held[row]))
        if held and draw.random() < 0.2:
            other = draw.choice(list(held))
            held[2000 + step] = held[other][: draw.randint(1, len(held[other]))]
            rows.fork(2000 + step, other, len(held[2000 + step]))
        able = [row for row in held if draw.random() < 0.7]
        draw.shuffle(able)
        tokens = {row: draw.choices(range(1, 300), k=draw.choice((1, 1, 1, 7))) for row in able}
        if draw.random() < 0.4:
            tokens[1000 + step] = draw.choices(range(1, 300), k=draw.choice((1, 1, 30)))
        if tokens:
            feed_and_check(lm, rows, held, tokens)


def test_rows_of_one_token_that_joins_before_others_moves_none_of_their_keys(lm):
    rows, held = open_rows(lm), {}
    feed_and_check(lm, rows, held, {0: [3, 4, 5], 1: [6, 7, 8]})
    feed_and_check(lm, rows, held, {2: [9], 1: [5]})
    feed_and_check(lm, rows, held, {0: [4], 1: [4], 2: [4]})


def test_rows_that_were_never_fed_may_leave(lm):
    rows, held = open_rows(lm), {}
    feed_and_check(lm, rows, held, {0: [3, 4, 5]})
    rows.leave(1)
    feed_and_check(lm, rows, held, {0: [6]})


def test_rows_all_gone_start_again(lm):
    rows = open_rows(lm)
    for _ in range(2):
        feed_and_check(lm, rows, {}, {7: [3, 4, 5], 8: [6]})
        rows.leave(7)
        rows.leave(8)


def test_rows_keep_what_they_hold_while_another_grows_and_leaves(lm):
    rows, held = open_rows(lm), {}
    feed_and_check(lm, rows, held, {0: [5] * 3, 1: list(range(1, 90))})
    for token in range(1, 300, 40):
        feed_and_check(lm, rows, held, {0: [token], 1: [token] * 40})
    rows.leave(1)
    for token in range(1, 4):
        feed_and_check(lm, rows, held, {0: [token]})


def test_rows_do_not_disturb_a_tree_of_the_same_model():
    lm = architecture_lm("qwen3")
    assert lm.way is Way.PACKED
    tree, rows = Tree(lm.model, 1, is_packed=True), open_rows(lm)
    rows.feed({0: [9, 8, 7]})
    with torch.inference_mode():
        (found_V,) = tree.read(slice(0, 1), [[3, 4, 5]], [[2]])
    torch.testing.assert_close(found_V, plain_logits(lm, [3, 4, 5]), rtol=1e-4, atol=1e-4)
