"""From C* to rows of tokens: labels, places of calls, the order, plain texts, packing."""

import itertools
from collections import Counter

import pytest
import torch

from tests.support.builders import augmented_document, document, filter_decision
from toolformer_core.augment import insert_calls
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.errors import ConfigError
from toolformer_core.models import ModelRef
from toolformer_core.training.examples import (
    TrainingRows,
    collate,
    epoch_order,
    held_out_plain_texts,
    plain_texts,
    split_documents,
    training_example,
    training_rows,
)
from toolformer_core.training.loss import IGNORED, give_own_loss
from toolformer_core.transformers_lm.loading import load_model

TEXT = "She bought 34 apples and 57 pears, and that is 91.\nIt is Tuesday, 4 in the afternoon."


@pytest.fixture(scope="module")
def lm(tiny_llama_folder):
    return load_model(ModelRef(path=str(tiny_llama_folder), digest="", dtype="float32"), "cpu", 512)


def config(**settings):
    defaults = {"batch_size": 6, "max_sequence_tokens": 1024, "dev_fraction": 0.2, "seed": 3}
    return FinetuneConfig(**{**defaults, **settings})


def call(text_before, tool, argument, result):
    return filter_decision(
        candidate_id=text_before,
        char_offset=len(text_before),
        tool=tool,
        argument=argument,
        result=result,
    )


@pytest.fixture
def augmented():
    calls = [
        call("She bought 34 apples and 57 pears, and that is", "Calculator", "34 + 57", "91"),
        call(TEXT.partition(" Tuesday")[0], "Calendar", "", "Today is Tuesday, March 4, 2014."),
    ]
    return insert_calls(document(text=TEXT), calls)


def ignored_texts(lm, example):
    """The runs of tokens that are left out of the loss, decoded; the first token never counts."""
    assert int(example.labels[0]) == IGNORED
    is_ignored = (example.labels == IGNORED).tolist()
    groups = itertools.groupby(range(1, len(is_ignored)), key=lambda k: is_ignored[k])
    return [lm.tokenizer.decode(example.input_ids[list(run)]) for ignored, run in groups if ignored]


def test_training_example_masks_exactly_the_results(lm, augmented):
    example = training_example(augmented, lm, config(train_on_results=False))
    assert [text.lstrip(" ") for text in ignored_texts(lm, example)] == [
        "91]",
        "Today is Tuesday, March 4, 2014.]",
    ]


def test_training_example_at_the_start_of_a_line_masks_exactly_the_result(lm):
    decision = call("", "Calculator", "34 + 57", "91")
    augmented = insert_calls(document(text="the mill is closed."), [decision])
    assert augmented.augmented_text == "[Calculator(34 + 57) -> 91] the mill is closed."
    example = training_example(augmented, lm, config(train_on_results=False))
    assert [text.strip(" ") for text in ignored_texts(lm, example)] == ["91]"]


def test_training_example_on_results_masks_nothing_and_is_the_whole_text(lm, augmented):
    example = training_example(augmented, lm, config())
    assert ignored_texts(lm, example) == []
    assert torch.equal(example.labels[1:], example.input_ids[1:])
    start = lm.tokenizer.decode([lm.document_start_id])
    assert lm.tokenizer.decode(example.input_ids) == f"{start}{augmented.augmented_text}{start}"


def test_training_example_without_calls_is_the_original_text(lm, augmented):
    example = training_example(augmented, lm, config(without_calls=True, train_on_results=False))
    start = lm.tokenizer.decode([lm.document_start_id])
    assert lm.tokenizer.decode(example.input_ids) == f"{start}{TEXT}{start}"
    assert ignored_texts(lm, example) == []
    assert example.calls == ()


def test_training_example_knows_where_calls_start_and_where_their_arrows_end(lm, augmented):
    example = training_example(augmented, lm, config())
    texts = [lm.tokenizer.decode(example.input_ids[s : a + 1]).strip() for s, a in example.calls]
    assert texts == ["[Calculator(34 + 57) ->", "[Calendar() ->"]
    assert all(int(example.input_ids[start]) in lm.start_ids for start, _ in example.calls)


def test_training_example_is_cut_to_the_length_and_loses_calls_behind_it(lm, augmented):
    (_, first_arrow), _ = training_example(augmented, lm, config()).calls
    example = training_example(augmented, lm, config(max_sequence_tokens=first_arrow + 1))
    assert len(example.input_ids) == len(example.labels) == first_arrow + 1
    assert len(example.calls) == 1
    shorter = training_example(augmented, lm, config(max_sequence_tokens=first_arrow))
    assert shorter.calls == ()


def documents(count, tool=None, length=1):
    """Documents with a call to the tool, or without a call; texts of some unlike lengths."""
    decisions = [call("", tool, "1 + 1", "2")] if tool else []
    return [
        insert_calls(
            document(document_id=f"{tool}-{n}", text="It is late. " * (length + n % 5)), decisions
        )
        for n in range(count)
    ]


def test_split_documents_depends_on_id_and_seed_alone():
    many = documents(200)
    train, dev = split_documents(many, config())
    assert sorted(d.document_id for d in (*train, *dev)) == sorted(d.document_id for d in many)
    assert 20 <= len(dev) <= 60
    backward = split_documents(many[::-1], config())
    assert backward == (train[::-1], dev[::-1])
    half = split_documents(many[::2], config())
    assert half[1] == [d for d in many[::2] if d in dev]
    assert split_documents(many, config(seed=4))[1] != dev


def test_split_documents_never_leaves_training_empty():
    for number in range(20):
        (only,) = documents(number + 1)[-1:]
        assert split_documents([only], config(dev_fraction=0.5)) == ([only], [])


def test_epoch_order_has_every_document_once_and_its_own_order_in_each_epoch():
    many = [*documents(30, "Calculator"), *documents(7, "Calendar")]
    orders = [epoch_order(many, seed, epoch) for seed in (1, 2) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(37)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4
    assert epoch_order(many, 1, 0) == orders[0]


def test_epoch_order_gives_every_batch_its_share_of_each_tool():
    sizes = {"Calculator": 60, "Calendar": 30, "WikiSearch": 6}
    many = [d for tool, size in sizes.items() for d in documents(size, tool)]
    order = epoch_order(many, 5, 0)
    for first in range(0, 96, 16):
        tools = Counter(many[k].calls[0].tool for k in order[first : first + 16])
        for tool, size in sizes.items():
            assert abs(tools[tool] - size / 6) <= 1


def test_training_rows_go_through_epochs_without_a_gap():
    many = documents(10, "Calculator")
    rows = training_rows(many, [], config(), num_steps=5)
    assert len(rows) == 30
    assert all(len(row) == 1 for row in rows)
    order = [k for epoch in range(3) for k in epoch_order(many, 3, epoch)]
    for step in range(5):
        batch = [k for (k,) in rows[6 * step : 6 * step + 6]]
        assert sorted(batch) == sorted(order[6 * step : 6 * step + 6])
        lengths = [len(many[k].original_text) for k in batch]
        assert lengths == sorted(lengths)


@pytest.mark.parametrize("packing", [False, True])
def test_training_rows_of_the_control_without_calls_are_the_same(packing):
    many = documents(20, "Calculator")
    lengths = [10 + n for n in range(20)]
    settings = {"packing": packing, "max_sequence_tokens": 50}
    rows = training_rows(many, lengths, config(**settings), 4)
    assert training_rows(many, lengths, config(**settings, without_calls=True), 4) == rows


def test_training_rows_packed_fill_rows_in_order_and_never_overflow():
    many = documents(20, "Calculator")
    lengths = [10 + 3 * n for n in range(20)]
    settings = config(packing=True, max_sequence_tokens=100, batch_size=2)
    rows = training_rows(many, lengths, settings, 6)
    assert len(rows) == 12
    assert all(sum(lengths[k] for k in row) <= 100 for row in rows)
    assert max(len(row) for row in rows) > 1
    order = epoch_order(many, 3, 0)
    first_two = sorted(k for row in rows[:2] for k in row)
    assert first_two == sorted(order[: len(first_two)])


def test_plain_texts_make_up_the_share_and_are_drawn_by_the_seed():
    with_calls = documents(40, "Calculator")
    corpus = [document(document_id=f"plain-{n}", text=f"Text {n}.") for n in range(200)]
    corpus += [document(document_id=d.document_id, text="x") for d in with_calls]
    chosen = plain_texts(with_calls, corpus, config(plain_text_share=0.5))
    num_train = len(split_documents(with_calls, config())[0])
    assert len(chosen) == num_train
    assert all(d.calls == () and d.document_id.startswith("plain") for d in chosen)
    assert plain_texts(with_calls, corpus[::-1], config(plain_text_share=0.5)) == chosen
    other = plain_texts(with_calls, corpus, config(plain_text_share=0.5, seed=4))
    assert {d.document_id for d in other} != {d.document_id for d in chosen}


def test_plain_texts_are_none_by_default():
    assert plain_texts(documents(4, "Calculator"), [document()], config()) == []


def test_plain_texts_too_few_are_refused():
    with pytest.raises(ConfigError, match=r"plain_text_share 0\.9: .* the corpus has 1; lower it"):
        plain_texts(
            documents(40, "Calculator"),
            [document(document_id="plain-1")],
            config(plain_text_share=0.9, dev_fraction=0),
        )


def test_held_out_plain_texts_lie_on_the_dev_side_and_were_not_trained_on():
    with_calls = documents(40, "Calculator")
    corpus = [document(document_id=f"plain-{n}", text=f"Text {n}.") for n in range(200)]
    corpus += [document(document_id=d.document_id, text="x") for d in with_calls]
    settings = config(plain_text_share=0.5)
    trained = plain_texts(with_calls, corpus, settings)
    seen = {d.document_id for d in (*with_calls, *trained)}
    held_out = held_out_plain_texts(corpus, seen, 1000, settings)
    # A text of C* with that id would have been held out.
    pretended = [augmented_document(document_id=d.document_id) for d in corpus]
    dev = {d.document_id for d in split_documents(pretended, settings)[1]}
    assert {d.document_id for d in held_out} == dev - seen
    assert all(d.calls == () and d.augmented_text == d.original_text for d in held_out)
    few = held_out_plain_texts(corpus[::-1], seen, 5, settings)
    assert few == held_out[:5]
    assert held_out_plain_texts(corpus, seen, 0, settings) == []


def packed_rows(lm, settings):
    texts = ["The mill is closed.", "She bought 34 apples.", "It is late, and 7 more came in May."]
    examples = [
        training_example(augmented_document(augmented_text=text, calls=()), lm, settings)
        for text in texts
    ]
    return TrainingRows(examples, [(0, 1), (2,)]), examples


def test_collate_packs_texts_so_that_logits_equal_those_of_each_alone(lm):
    rows, examples = packed_rows(lm, config(packing=True))
    batch = collate([rows[0], rows[1]], lm.document_start_id, is_packed=True)
    inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
    with torch.inference_mode():
        packed_BTV = lm.model(**inputs, use_cache=False).logits
        alone = [lm.model(input_ids=e.input_ids[None].long()).logits[0] for e in examples]
    length = len(examples[0].input_ids)
    found = [packed_BTV[0, :length], packed_BTV[0, length:], packed_BTV[1]]
    for logits_TV, expected_TV in zip(found, alone, strict=True):
        torch.testing.assert_close(logits_TV[: len(expected_TV)], expected_TV)


def test_collate_packed_loss_equals_that_of_padded_texts(tiny_llama_folder):
    fresh = load_model(ModelRef(path=str(tiny_llama_folder), digest="", dtype="float32"), "cpu", 9)
    give_own_loss(fresh.model, fresh.start_ids, has_plain_head=True)
    rows, examples = packed_rows(fresh, config())
    fresh.model.train()
    packed = collate([rows[0], rows[1]], fresh.document_start_id, is_packed=True)
    padded = collate([[e] for e in examples], fresh.document_start_id, is_packed=False)
    losses = [fresh.model(**batch)["loss"] for batch in (packed, padded)]
    torch.testing.assert_close(*losses)
    counts = [int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in (packed, padded)]
    assert counts[0] == counts[1] == sum(len(e.input_ids) - 1 for e in examples)


def test_collate_pads_on_the_right_and_gives_padding_no_label(lm):
    _, examples = packed_rows(lm, config())
    batch = collate([[e] for e in examples], lm.document_start_id, is_packed=False)
    assert set(batch) == {"input_ids", "labels", "attention_mask"}
    for row, example in enumerate(examples):
        length = len(example.input_ids)
        assert batch["attention_mask"][row].sum() == length
        assert torch.equal(batch["input_ids"][row, :length], example.input_ids.long())
        assert (batch["labels"][row, length:] == IGNORED).all()
