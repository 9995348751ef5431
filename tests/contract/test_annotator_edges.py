"""The annotator on what breaks annotators: strange scripts, too much text, broken logits."""

import itertools
import math

import pytest
import torch

from tests.support.builders import document
from tests.support.reference import reference_weights
from tests.support.reference_annotator import Reverser
from toolformer_core.augment import augment_documents, strip_calls
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.pipeline import AugmentConfig, ExecuteConfig, SampleConfig, ScoreConfig
from toolformer_core.execute import execute_calls
from toolformer_core.filter import filter_calls, score_calls
from toolformer_core.models import ModelRef
from toolformer_core.records import DropReason
from toolformer_core.sample import sample_calls
from toolformer_core.transformers_lm.loading import load_model
from toolformer_core.transformers_lm.probe import Way

EDGES = {
    "empty": "",
    "space": " ",
    "one token": "x",
    "backslashes": r"C:\new\table and \[x\] cost 5 \\ end\\ now",
    "brackets": "a [b](c) [[d]] -> ] [ e -> [Reverse(f) -> g] and so on",
    "emoji": "Give \U0001f600\U0001f680 me 3 \U0001f469\u200d\U0001f680 now!\U0001f44d\U0001f3fd",
    "right to left": "\u05e9\u05dc\u05d5\u05dd 12 and \u0645\u0631\u062d\u0628\u0627 13.",
    "line ends": "\n\none 1\r\ntwo 2\n \nthree 3\t\t",
    "combining": "e\u0301 na\u00efve \ufb01ne \u4e2d\u6587 7 and 8",
}
CONFIG = SampleConfig(
    sampling_threshold=0.0,
    max_positions=6,
    samples_per_position=4,
    max_call_tokens=24,
    look_ahead_guard=False,
)


class Anywhere(Reverser):
    """Answers whatever the model wrote."""

    def can_help_at(self, before, after, context):
        """Everywhere."""
        return True


def load(folder):
    return load_model(ModelRef(path=str(folder), digest="", dtype="float32"), "cpu", 4096)


@pytest.fixture(
    scope="module",
    params=["tiny_llama_folder", "tiny_gpt2_folder", "annotating_llama_folder"],
)
def lm(request):
    return load(request.getfixturevalue(request.param))


def annotate(lm, documents, config=CONFIG):
    by_id = {text.document_id: text for text in documents}
    proposed, counts = sample_calls(documents, lm, Anywhere(), config, num_scored_tokens=5)
    executed = execute_calls(proposed, by_id, ToolCaller(Anywhere(), ExecuteConfig()))
    scored = score_calls(executed, by_id, lm, Anywhere(), ScoreConfig(), prune_below=-math.inf)
    return proposed, scored, counts


def edge_documents():
    return [document(text=text, document_id=name) for name, text in EDGES.items()]


def test_edges_are_annotated_with_exact_offsets(lm):
    documents = edge_documents()
    proposed, scored, counts = annotate(lm, documents)
    assert counts["documents"] == len(EDGES)
    for call in proposed:
        text = EDGES[call.document_id]
        ids = lm.tokenize(text).token_ids
        assert lm.tokenizer.decode(ids[: call.token_index]) == text[: call.char_offset]
        assert lm.tokenizer.decode(ids[call.token_index :]) == text[call.char_offset :]
    names = {call.document_id for call in proposed}
    assert names >= set(EDGES) - {"space"}  # behind a space nothing can be inserted
    assert all(math.isfinite(call.loss_reduction) for call in scored)


def test_edges_calls_written_into_the_texts_come_out_again(lm):
    documents = edge_documents()
    _, scored, _ = annotate(lm, documents)
    decisions = filter_calls(scored, -math.inf)
    assert all(decision.kept for decision in decisions)
    everything = {"Reverse": -math.inf}
    augmented = augment_documents(documents, decisions, everything, AugmentConfig())
    assert {text.document_id for text in augmented} == {d.document_id for d in decisions}
    for text in augmented:
        assert text.calls
        assert strip_calls(text) == EDGES[text.document_id]


def test_document_longer_than_the_context_is_annotated_in_windows(tiny_gpt2_folder):
    lm = load(tiny_gpt2_folder)
    text = " ".join(f"Then {n} apples and {n + 2} pears came." for n in range(120))
    long = document(text=text, document_id="long")
    tokens = lm.tokenize(text)
    assert len(tokens.token_ids) > 2 * lm.context_tokens
    config = CONFIG.model_copy(update={"max_positions": 2, "samples_per_position": 2})
    proposed, scored, counts = annotate(lm, [long], config)
    windows = sorted({(call.window_start, call.window_end) for call in proposed})
    assert counts["documents_windowed"] == 1
    assert windows[0][0] == 0
    assert windows[-1][1] == len(tokens.token_ids)
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(windows))
    for call in proposed:
        assert tokens.char_offsets[call.token_index] == call.char_offset
        seen = tokens.token_ids[call.window_start : call.window_end]
        expected = slow_loss(lm, seen, call.token_index - call.window_start)
        assert call.loss_without_call == pytest.approx(expected, abs=1e-4)
    assert all(math.isfinite(call.loss_reduction) for call in scored)


@torch.inference_mode()
def slow_loss(lm, token_ids, i):
    """L_i without a call, one forward pass over what the model saw."""
    ids = torch.tensor([[lm.document_start_id, *token_ids]])
    logprobs = lm.model(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
    weights = reference_weights(len(token_ids) - i)
    pairs = zip(range(i, len(token_ids)), weights, strict=True)
    return -sum(w * float(logprobs[j, token_ids[j]]) for j, w in pairs)


@pytest.fixture(params=[math.nan, math.inf], ids=str)
def broken_lm(request, annotating_llama_folder):
    """A model with broken logits wherever it is sure that a digit comes next."""
    lm = load(annotating_llama_folder)
    digits = {lm.tokenizer.convert_tokens_to_ids(str(n)) for n in range(10)}

    def breaks(_, __, logits):
        is_broken = torch.isin(logits.argmax(-1), torch.tensor(sorted(digits)))
        logits[is_broken] = request.param
        return logits

    lm.model.lm_head.register_forward_hook(breaks)
    return lm


TEXTS = (
    "It cost 12 dollars, which is 3 less than the day before and 7 more than in May.",
    "The library opens again tomorrow, on Wednesday; Monday was a holiday.",
)


def test_broken_logits_break_nothing_else(broken_lm):
    assert broken_lm.way is Way.PACKED  # broken logits are no reason for a slower way
    documents = [document(text=text, document_id=text) for text in TEXTS]
    proposed, _, _ = annotate(broken_lm, documents)
    assert proposed
    assert all(0 < call.start_probability <= 1 for call in proposed)


def test_broken_logits_drop_the_calls_as_not_finite_and_touch_no_other(
    broken_lm, annotating_llama_folder
):
    documents = {text: document(text=text, document_id=text) for text in TEXTS}
    healthy = load(annotating_llama_folder)
    proposed, expected, _ = annotate(healthy, list(documents.values()))
    executed = execute_calls(proposed, documents, ToolCaller(Anywhere(), ExecuteConfig()))
    scored = score_calls(
        executed, documents, broken_lm, Anywhere(), ScoreConfig(), prune_below=-math.inf
    )
    reasons = {d.candidate_id: d.drop_reason for d in filter_calls(scored, -math.inf)}
    broken = [name for name, reason in reasons.items() if reason is DropReason.NOT_FINITE]
    assert 0 < len(broken) < len(scored)
    for call, reference in zip(scored, expected, strict=True):
        if reasons[call.candidate_id] is None:
            assert call.loss_reduction == pytest.approx(reference.loss_reduction, abs=1e-4)
