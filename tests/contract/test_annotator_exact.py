"""The annotator against the slow reference: same positions, same samples, same losses, same calls
kept, whatever the model, the token budget, the order, the sharding and the pruning.

Arithmetic is float32 here and float64 there; losses agree to TOLERANCE nats, and a threshold nearer
than that to a margin decides nothing.
"""

import itertools
import random

import pytest

from tests.support import tiny_model
from tests.support.builders import document
from tests.support.reference_annotator import ReferenceAnnotator, Reverser
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.pipeline import ExecuteConfig, SampleConfig, ScoreConfig
from toolformer_core.execute import execute_calls
from toolformer_core.filter import filter_calls, score_calls
from toolformer_core.models import ModelRef
from toolformer_core.sample import sample_calls
from toolformer_core.tools.calculator import Calculator
from toolformer_core.transformers_lm.adapter import HFLanguageModel
from toolformer_core.transformers_lm.loading import load_model
from toolformer_core.transformers_lm.probe import Way

TOLERANCE = 2e-4
TEXTS = (
    "3 + 4 is 7. The mill is closed, and 8 + 9 is 17.",
    "x",
    "Today is Tuesday; \U0001f600 \u05e9\u05dc\u05d5\u05dd 5 + 6 = 11.",
    r"C:\new [is] a -> b ] of 12 dollars.",
    "She bought 34 apples and 57 pears, and that is 91 in all; the library opens again on Monday.",
)
DOCUMENTS = [document(text=text, document_id=f"document-{k}") for k, text in enumerate(TEXTS)]
CONFIG = SampleConfig(
    sampling_threshold=0.0,
    max_positions=3,
    samples_per_position=3,
    max_call_tokens=14,
    look_ahead_guard=False,
    seed=3,
)
SCORE = ScoreConfig()
ABLATIONS = [
    ScoreConfig(token_weights=weights, prefix_position=position)
    for weights, position in (
        ("flat", "before_text"),
        ("linear", "in_place"),
        ("flat", "in_place"),
    )
]


def load(folder, token_budget=4096):
    return load_model(ModelRef(path=str(folder), digest="", dtype="float32"), "cpu", token_budget)


@pytest.fixture(scope="module", params=["tiny_llama", "tiny_gpt2"])
def lm(request, tmp_path_factory):
    """A tiny model trained for a moment, so that it closes some of its calls."""
    texts = [
        text.replace("Calculator", "Reverse").replace("WikiSearch", "Reverse")
        for text in tiny_model.annotation_texts()
    ]
    model = tiny_model.train_on(getattr(tiny_model, request.param)(), texts, num_steps=30)
    return load(tiny_model.save(model, tmp_path_factory.mktemp(request.param)))


@pytest.fixture(scope="module", params=["tiny_llama_folder", "tiny_gpt2_folder"])
def random_lm(request):
    return load(request.getfixturevalue(request.param))


@pytest.fixture(scope="module")
def reference(lm):
    annotator = ReferenceAnnotator(lm, Reverser(), CONFIG)
    return [call for text in DOCUMENTS for call in annotator.calls(text)]


def annotate(lm, documents, config=CONFIG, tool=None, score=SCORE, prune_below=0.0):
    tool = tool or Reverser()
    by_id = {text.document_id: text for text in documents}
    proposed, _ = sample_calls(
        documents, lm, tool, config, num_scored_tokens=5, token_weights=score.token_weights
    )
    executed = execute_calls(proposed, by_id, ToolCaller(tool, ExecuteConfig()))
    return score_calls(executed, by_id, lm, tool, score, prune_below=prune_below)


def assert_equal(scored, reference, prune_below=0.0):
    found = sorted((c.document_id, c.token_index, c.argument) for c in scored)
    assert found == sorted((c.document_id, c.token_index, c.argument) for c in reference)
    expected = {(c.document_id, c.token_index, c.argument): c for c in reference}
    for call in scored:
        slow = expected[call.document_id, call.token_index, call.argument]
        assert call.loss_without_call == pytest.approx(slow.loss_without_call, abs=TOLERANCE)
        assert call.loss_with_result == pytest.approx(slow.loss_with_result, abs=TOLERANCE)
        if call.loss_with_empty_result is None:
            assert slow.margin < prune_below + TOLERANCE
        else:
            empty = slow.loss_with_empty_result
            assert call.loss_with_empty_result == pytest.approx(empty, abs=TOLERANCE)
            assert call.loss_reduction == pytest.approx(slow.margin, abs=2 * TOLERANCE)


def kept(scored, threshold):
    decisions = filter_calls(scored, threshold)
    return sorted(d.candidate_id for d in decisions if d.kept)


def threshold_between(reference):
    """A threshold in the middle of the widest gap of the positive margins."""
    margins = sorted(c.margin for c in reference if c.margin > 0)
    gaps = [(b - a, (a + b) / 2) for a, b in itertools.pairwise(margins)]
    width, middle = max(gaps)
    assert width > 4 * TOLERANCE
    return middle


def assert_positions_equal(lm, config=CONFIG):
    annotator = ReferenceAnnotator(lm, Reverser(), config)
    calls, _ = sample_calls(DOCUMENTS, lm, Reverser(), config, num_scored_tokens=5)
    for text in DOCUMENTS:
        own = [c for c in calls if c.document_id == text.document_id]
        found = {c.token_index: c.start_probability for c in own}
        expected = annotator.positions(text)
        assert list(found) == list(expected)
        assert found == pytest.approx(expected, abs=1e-5)


def test_annotator_positions_equal_the_reference(lm):
    assert_positions_equal(lm)


def test_annotator_positions_of_a_random_model_equal_the_reference(random_lm):
    assert_positions_equal(random_lm)


def test_annotator_guarded_positions_equal_the_reference(lm):
    assert_positions_equal(lm, CONFIG.model_copy(update={"look_ahead_guard": True}))


def test_annotator_losses_and_kept_calls_equal_the_reference(lm, reference):
    scored = annotate(lm, DOCUMENTS)
    assert_equal(scored, reference)
    threshold = threshold_between(reference)
    expected = {c.token_index for c in reference if c.margin >= threshold}
    assert len(reference) >= 8
    assert 0 < sum(c.margin >= threshold for c in reference) < len(reference)
    chosen = [c for c in scored if c.candidate_id in kept(scored, threshold)]
    assert {c.token_index for c in chosen} == expected
    assert len(chosen) == sum(c.margin >= threshold for c in reference)


def test_annotator_pruning_keeps_the_same_calls(lm, reference):
    threshold = threshold_between(reference)
    config = CONFIG.model_copy(update={"prune_below": threshold})
    pruned = annotate(lm, DOCUMENTS, config, prune_below=threshold)
    everything = annotate(lm, DOCUMENTS)
    assert len(pruned) < len(everything) or any(c.loss_with_empty_result is None for c in pruned)
    assert kept(pruned, threshold) == kept(everything, threshold)


@pytest.mark.parametrize("score", ABLATIONS, ids=lambda s: f"{s.token_weights}-{s.prefix_position}")
def test_annotator_ablated_losses_and_kept_calls_equal_the_reference(lm, reference, score):
    annotator = ReferenceAnnotator(lm, Reverser(), CONFIG, score)
    by_id = {text.document_id: text for text in DOCUMENTS}
    slow = [
        annotator.scored(by_id[c.document_id], c.token_index, c.argument, c.result)
        for c in reference
    ]
    scored = annotate(lm, DOCUMENTS, score=score)
    assert_equal(scored, slow)
    threshold = threshold_between(slow)
    config = CONFIG.model_copy(update={"prune_below": threshold})
    pruned = annotate(lm, DOCUMENTS, config, score=score, prune_below=threshold)
    assert kept(pruned, threshold) == kept(scored, threshold)
    assert len(kept(scored, threshold)) == sum(c.margin >= threshold for c in slow)


@pytest.mark.parametrize("token_budget", [16, 300, 100_000])
def test_annotator_any_token_budget_equals_the_reference(lm, reference, token_budget):
    other = HFLanguageModel(lm.model, lm.tokenizer, token_budget)
    assert_equal(annotate(other, DOCUMENTS), reference)


@pytest.mark.parametrize("way", Way)
def test_annotator_every_way_of_decoding_equals_the_reference(lm, reference, way):
    assert lm.way is Way.PACKED
    other = HFLanguageModel(lm.model, lm.tokenizer, 400)
    other.__dict__["way"] = way  # what probing the model would have found
    assert_equal(annotate(other, DOCUMENTS), reference)


@pytest.mark.parametrize("seed", range(4))
def test_annotator_any_order_and_sharding_equals_the_reference(lm, reference, seed):
    shuffled = random.Random(seed).sample(DOCUMENTS, k=len(DOCUMENTS))
    cut = seed + 1
    shards = [shuffled[first : first + cut] for first in range(0, len(shuffled), cut)]
    assert_equal([call for shard in shards for call in annotate(lm, shard)], reference)


@pytest.mark.timeout(900)  # one float64 pass per token: minutes on a busy machine
@pytest.mark.slow
def test_annotator_smollm2_equals_the_reference(smollm2_folder):
    lm = load(smollm2_folder)
    texts = (
        "She bought 34 apples and 57 pears, 91 pieces of fruit.",
        "Of 60 stamps Ann sold 24, so that 36 were left.",
    )
    documents = [document(text=text, document_id=text) for text in texts]
    fewer = {"max_positions": 2, "samples_per_position": 2, "max_call_tokens": 12}
    config = CONFIG.model_copy(update={**fewer, "look_ahead_guard": True})
    tool = Calculator()
    annotator = ReferenceAnnotator(lm, tool, config)
    expected = [call for text in documents for call in annotator.calls(text)]
    scored = annotate(lm, documents, config, tool)
    assert len(expected) >= 2
    assert_equal(scored, expected)
    for threshold in (0.0, 0.25, 0.5):
        assert min(abs(call.margin - threshold) for call in expected) > TOLERANCE
        keys = {(call.document_id, call.argument) for call in expected if call.margin >= threshold}
        chosen = [c for c in scored if c.candidate_id in kept(scored, threshold)]
        assert {(call.document_id, call.argument) for call in chosen} == keys
