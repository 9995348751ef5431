"""The adapter of a served model against real server processes on loopback: llama.cpp's own server
with the same weights as the local model, and one that echoes prompts as vLLM does.
"""

import pytest

from tests.support.builders import document
from tests.support.servers import serving
from toolformer_core.calling.caller import ToolCaller
from toolformer_core.config.base import SMOLLM2
from toolformer_core.config.pipeline import ExecuteConfig, ProposerConfig, SampleConfig, ScoreConfig
from toolformer_core.errors import ConfigError, TransientModelError
from toolformer_core.execute import execute_calls
from toolformer_core.filter import score_calls
from toolformer_core.lm import ContinuationRequest, LossRequest, SamplingSettings, TokenizedText
from toolformer_core.models import ModelRef
from toolformer_core.sample import annotation_prompt, sample_calls
from toolformer_core.served_lm.adapter import ServedLanguageModel, start_probability
from toolformer_core.served_lm.completions import CompletionsClient, served_models
from toolformer_core.sources import resolve_package_path
from toolformer_core.tools.calculator import Calculator
from toolformer_core.transformers_lm.loading import load_model

TEXT = "She bought 34 apples and 57 pears, so that she has 91 pieces of fruit."
PROMPT = annotation_prompt(Calculator())


def load(folder):
    return load_model(ModelRef(path=str(folder), digest="", dtype="float32"), "cpu", 4096)


def served(url, local, **settings):
    config = ProposerConfig(model=served_models(url)[0], **settings)
    return ServedLanguageModel(CompletionsClient(url, config.model), local, config, 2)


@pytest.fixture(scope="module")
def smollm2(smollm2_folder):
    return load(smollm2_folder)


@pytest.fixture(scope="module")
def llama_cpp(smollm2):
    with serving("llama_cpp", resolve_package_path(SMOLLM2)) as url:
        yield served(url, smollm2, num_logprobs=2000, document_start="<|endoftext|>")


@pytest.fixture(scope="module")
def tiny(tiny_llama_folder):
    return load(tiny_llama_folder)


@pytest.fixture(scope="module")
def echoing_url(tiny_llama_folder):
    with serving("echoing", tiny_llama_folder) as url:
        yield url


@pytest.fixture(scope="module")
def echoing(echoing_url, tiny):
    everything = len(tiny.tokenizer)
    return served(
        echoing_url, tiny, num_logprobs=everything, document_start="<|endoftext|>", scores=True
    )


def test_llama_cpp_start_probabilities_are_near_those_of_the_local_model(llama_cpp, smollm2):
    assert not llama_cpp.echoes
    tokens = smollm2.tokenize(TEXT)
    places = [(0, 4, 9, 15, len(tokens.token_ids))]
    [found] = llama_cpp.read(PROMPT, [tokens], places).start_probabilities
    [expected] = smollm2.read(PROMPT, [tokens], places).start_probabilities
    # The server multiplies quantised weights, the local model their float32 values.
    assert found == pytest.approx(expected, abs=0.02)
    assert max(found, key=found.get) == max(expected, key=expected.get)


def test_llama_cpp_greedy_continuation_is_that_of_the_local_model(llama_cpp, smollm2):
    tokens = smollm2.tokenize(TEXT)
    request = ContinuationRequest(
        document_index=0,
        token_index=tokens.char_offsets.index(TEXT.index(" 91")),
        start=" [Calculator(",
        seed=0,
    )
    settings = SamplingSettings(temperature=0, top_p=1, max_tokens=16, stop="]")
    readings = [lm.read(PROMPT, [tokens], [()]) for lm in (llama_cpp, smollm2)]
    found, expected = (reading.continuations([request], settings) for reading in readings)
    assert found == expected
    assert found[0].is_closed


def test_llama_cpp_sampled_continuations_differ_and_end_unclosed_at_the_limit(llama_cpp, smollm2):
    tokens = smollm2.tokenize(TEXT)
    requests = [
        ContinuationRequest(document_index=0, token_index=12, start=" [Calculator(", seed=seed)
        for seed in range(6)
    ]
    reading = llama_cpp.read(PROMPT, [tokens], [()])
    short = SamplingSettings(temperature=1, top_p=1, max_tokens=2, stop="]")
    found = reading.continuations(requests, short)
    assert len({c.text for c in found}) > 1
    assert not all(c.is_closed for c in found)


def test_llama_cpp_proposes_and_the_local_model_scores(llama_cpp, smollm2):
    texts = [document(text=TEXT, document_id="fruit")]
    tool, by_id = Calculator(), {"fruit": texts[0]}
    config = SampleConfig(
        sampling_threshold=0.0, max_positions=2, samples_per_position=4, temperature=0.5
    )
    proposed, counts = sample_calls(texts, llama_cpp, tool, config, num_scored_tokens=5)
    assert counts["positions"] == 1  # the one number that others precede
    executed = execute_calls(proposed, by_id, ToolCaller(tool, ExecuteConfig()))
    scored = score_calls(executed, by_id, llama_cpp, tool, ScoreConfig())
    assert scored
    assert scored == score_calls(executed, by_id, smollm2, tool, ScoreConfig())


def test_llama_cpp_cannot_score(llama_cpp, smollm2):
    scoring = ServedLanguageModel(
        llama_cpp.client, smollm2, llama_cpp.config.model_copy(update={"scores": True})
    )
    tokens = smollm2.tokenize(TEXT)
    with pytest.raises(ConfigError, match="no log-probabilities of its prompt"):
        scoring.token_losses([LossRequest(prefix="", tokens=tokens, first=3, last=8)])


def test_echoing_server_losses_equal_the_local_ones(echoing, tiny):
    texts = (TEXT, "5 + 6 = 11", "[x] \\ y", "Give me 3 \U0001f600 apples, 4 in all.")
    tokens = [tiny.tokenize(text) for text in texts]
    requests = [
        LossRequest(prefix=prefix, tokens=text, first=first, last=min(first + 5, size))
        for text in tokens
        for prefix in ("", "[Calculator(34 + 57) -> 91]\n")
        for size in [len(text.token_ids)]
        for first in (0, 2, 8, size)
        if first <= size
    ]
    found, expected = echoing.token_losses(requests), tiny.token_losses(requests)
    assert [len(row) for row in found] == [len(row) for row in expected]
    for row, reference in zip(found, expected, strict=True):
        assert row == pytest.approx(reference, abs=1e-4)


@pytest.mark.parametrize(
    ("after", "prefix"),
    [
        (" 91", " [Calculator(34 + 57) -> 91]"),
        ("ght", "an"),  # the server joins it with what stands before: it is measured here
        ("ght", "t"),  # and with what comes behind
    ],
)
def test_echoing_server_losses_behind_a_call_in_the_text_equal_the_local_ones(
    echoing, tiny, after, prefix
):
    tokens = tiny.tokenize(TEXT)
    at = tokens.char_offsets.index(TEXT.index(after))
    request = LossRequest(prefix=prefix, tokens=tokens, first=at, last=at + 5, prefix_before=at)
    found, expected = echoing.token_losses([request]), tiny.token_losses([request])
    assert found[0] == pytest.approx(expected[0], abs=1e-4)


def test_echoing_server_start_probabilities_equal_the_local_ones(echoing, tiny):
    tokens = [tiny.tokenize(text) for text in (TEXT, "5 + 6 = 11", "3 \U0001f600 and 4.")]
    places = [
        [i for i, c in enumerate(text.char_offsets) if c not in text.char_offsets[i + 1 : i + 2]]
        for text in tokens
    ]
    found = echoing.read(PROMPT, tokens, places).start_probabilities
    expected = tiny.read(PROMPT, tokens, places).start_probabilities
    for row, reference in zip(found, expected, strict=True):
        assert row == pytest.approx(reference, abs=1e-5)


def test_echoing_server_place_inside_its_own_token_is_asked_for_alone(echoing, tiny):
    letters = TokenizedText(
        text=TEXT, token_ids=tuple(map(ord, TEXT)), char_offsets=tuple(range(len(TEXT) + 1))
    )
    starts = tiny.tokenize(TEXT).char_offsets
    inside = [i for i in range(len(TEXT)) if i not in starts][:6]
    [found] = echoing.read(PROMPT, [letters], [inside]).start_probabilities
    assert list(found) == inside
    assert all(0 < p < 1 for p in found.values())


def test_echoing_server_start_outside_the_listed_tokens_is_impossible(echoing, tiny):
    few = ServedLanguageModel(
        echoing.client, tiny, echoing.config.model_copy(update={"num_logprobs": 5})
    )
    tokens = tiny.tokenize(TEXT)
    places = [range(len(tokens.token_ids) + 1)]
    [found] = few.read(PROMPT, [tokens], places).start_probabilities
    [everything] = echoing.read(PROMPT, [tokens], places).start_probabilities
    assert 0.0 in found.values()
    assert all(found[i] <= everything[i] for i in found)


def test_echo_of_what_comes_behind_a_token_is_not_believed(tiny_llama_folder, tiny):
    tokens = tiny.tokenize("5 + 6 = 11")
    places = [range(len(tokens.token_ids) + 1)]
    with serving("shifted", tiny_llama_folder) as url:
        shifted = served(
            url, tiny, num_logprobs=len(tiny.tokenizer), document_start="<|endoftext|>"
        )
        assert not shifted.echoes
        [found] = shifted.read(PROMPT, [tokens], places).start_probabilities
    [expected] = tiny.read(PROMPT, [tokens], places).start_probabilities
    assert found == pytest.approx(expected, abs=1e-5)


def test_echoing_server_with_other_tokens_cannot_score(echoing, smollm2):
    other = ServedLanguageModel(echoing.client, smollm2, echoing.config)
    tokens = smollm2.tokenize(TEXT)
    with pytest.raises(ConfigError, match=r"does not cut the text at .* as the base model does"):
        other.token_losses([LossRequest(prefix="", tokens=tokens, first=0, last=10)])


def test_start_probability_sums_the_spellings():
    found = start_probability({"[": -1.0, " [": -2.0, "[[": -0.5, "a": -0.1})
    assert found == pytest.approx(0.36787944 + 0.13533528)


def test_server_that_is_gone_is_an_outage(tiny):
    with serving("echoing", tiny.model.config._name_or_path) as url:
        client = CompletionsClient(url, "tiny", max_retries=0)
    with pytest.raises(TransientModelError, match=r"127\.0\.0\.1"):
        client.complete("x", max_tokens=1, temperature=0.0)
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1"):
        served_models(url)


def test_address_that_is_no_completions_server_is_refused(echoing_url):
    for url in (echoing_url.removesuffix("/v1") + "/page", "http://[::1", "no address"):
        with pytest.raises(ConfigError, match="model server") as refused:
            served_models(url)
        assert "\n" not in str(refused.value)


def test_server_without_the_model_refuses_in_one_line(echoing_url):
    with pytest.raises(ConfigError, match=r"refuses: .*no model other") as refused:
        CompletionsClient(echoing_url, "other").complete("x", max_tokens=1, temperature=0.0)
    assert "\n" not in str(refused.value)
