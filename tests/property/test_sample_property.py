"""Sampling gives the same calls under any order and any sharding, at places the paper allows."""

import itertools
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.builders import document
from tests.support.reference import reference_places, reference_positions
from tests.support.scripted_lm import ScriptedLM
from toolformer_core.config.pipeline import SampleConfig
from toolformer_core.lm import TokenizedText
from toolformer_core.records import DropReason
from toolformer_core.sample import choose_positions, insertion_places, sample_calls
from toolformer_core.tools.calculator import Calculator


class HelpfulBehindANumber(Calculator):
    """Leaves out some places, so that some documents have none."""

    def can_help_at(self, before, after, context):
        return any(char.isdigit() for char in before)


LM, TOOL = ScriptedLM(), HelpfulBehindANumber()
CONFIG = SampleConfig(
    sampling_threshold=0.3, max_positions=3, samples_per_position=3, prune_below=1.0
)
ALPHABET = "a7 .,'_-+$%=\n\u00e9\u2212\u20ac\U0001f600"
WORDS = st.lists(st.sampled_from(["1", "2", "34", "57.5", "sum", "is", ",", "it's"]), max_size=12)


@st.composite
def corpora(draw):
    texts = draw(st.lists(WORDS.map(" ".join), min_size=1, max_size=20))
    return [document(document_id=f"d{k}", text=text) for k, text in enumerate(texts)]


def sample(documents, config=CONFIG):
    return sample_calls(documents, LM, TOOL, config, num_scored_tokens=5)


@settings(deadline=None)
@given(documents=corpora(), rng=st.randoms(use_true_random=False))
def test_sample_calls_do_not_depend_on_the_order_of_documents(documents, rng):
    expected, expected_counts = sample(documents)
    calls, counts = sample(rng.sample(documents, len(documents)))
    assert sorted(calls, key=lambda c: c.candidate_id) == sorted(
        expected, key=lambda c: c.candidate_id
    )
    assert counts == expected_counts


@settings(deadline=None)
@given(documents=corpora(), documents_per_shard=st.integers(1, 20))
def test_sample_calls_do_not_depend_on_the_sharding(documents, documents_per_shard):
    expected, expected_counts = sample(documents)
    calls, counts = [], Counter()
    for first in range(0, len(documents), documents_per_shard):
        shard_calls, shard_counts = sample(documents[first : first + documents_per_shard])
        calls += shard_calls
        counts.update(shard_counts)
    assert calls == expected
    assert counts == Counter(expected_counts)


@settings(deadline=None)
@given(documents=corpora())
def test_sample_calls_account_for_every_sample(documents):
    calls, counts = sample(documents)
    assert len(calls) == CONFIG.samples_per_position * counts.get("positions", 0)
    assert len({call.candidate_id for call in calls}) == len(calls)
    reasons = Counter(call.drop_reason for call in calls)
    assert sum(reasons.values()) == len(calls)
    assert set(reasons) <= {
        None,
        DropReason.NOT_CLOSED,
        DropReason.MALFORMED,
        DropReason.DUPLICATE,
        DropReason.LOOK_AHEAD,
    }


@settings(deadline=None)
@given(documents=corpora())
def test_sample_calls_proposed_calls_of_a_position_differ(documents):
    calls, _ = sample(documents)
    keys = [(c.document_id, c.token_index, c.argument) for c in calls if c.drop_reason is None]
    assert len(keys) == len(set(keys))


@settings(deadline=None)
@given(documents=corpora(), max_positions=st.integers(1, 6))
def test_sample_calls_more_positions_only_add_calls(documents, max_positions):
    fewer, _ = sample(documents, CONFIG.model_copy(update={"max_positions": max_positions}))
    more, _ = sample(documents, CONFIG.model_copy(update={"max_positions": max_positions + 1}))
    assert set(fewer) <= set(more)


@settings(deadline=None)
@given(documents=corpora(), samples_per_position=st.integers(1, 4))
def test_sample_calls_more_samples_only_add_calls(documents, samples_per_position):
    def calls(num_samples):
        config = CONFIG.model_copy(update={"samples_per_position": num_samples})
        return set(sample(documents, config)[0])

    assert calls(samples_per_position) <= calls(samples_per_position + 1)


@given(text=st.text(max_size=30) | st.text(alphabet=ALPHABET, max_size=30), data=st.data())
def test_insertion_places_equal_the_slow_reference_for_any_tokens(text, data):
    starts = data.draw(st.lists(st.integers(0, len(text)), max_size=20)) if text else []
    offsets = (*sorted([0, *starts]), len(text))
    tokens = TokenizedText(text=text, token_ids=(0,) * (len(offsets) - 1), char_offsets=offsets)
    places = insertion_places(tokens, document(text=text), TOOL, guard=False)
    assert list(places) == reference_places(text, offsets)
    assert all(offsets[i] == char_offset for i, char_offset in places.items())


@given(
    probabilities=st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.5]), min_size=1, max_size=15),
    threshold=st.floats(0, 1) | st.just(0.5),
    max_positions=st.integers(1, 20),
    data=st.data(),
)
def test_choose_positions_equal_the_slow_reference(probabilities, threshold, max_positions, data):
    places = data.draw(st.sets(st.sampled_from(range(len(probabilities)))))
    config = SampleConfig(sampling_threshold=threshold, max_positions=max_positions)
    found = choose_positions({i: probabilities[i] for i in places}, config)
    assert found == reference_positions(probabilities, places, threshold, max_positions)


@given(text=st.text(max_size=60) | st.text(alphabet=ALPHABET, max_size=60))
def test_scripted_lm_tokens_cover_the_text_exactly(text):
    tokens = LM.tokenize(text)
    offsets = tokens.char_offsets
    assert (offsets[0], offsets[-1]) == (0, len(text))
    assert all(a < b for a, b in itertools.pairwise(offsets))
    assert len(offsets) == len(tokens.token_ids) + 1
