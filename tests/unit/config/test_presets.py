"""The paper's constants (Appendix A, Appendix B, section 4.2), and presets that fit together."""

import pytest

from tests.support.builders import document
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.config.pipeline import PipelineConfig
from toolformer_core.config.presets import PRESETS, demo, paper, preset, smoke
from toolformer_core.corpus import read_corpus
from toolformer_core.demo_texts import is_article
from toolformer_core.errors import ConfigError
from toolformer_core.records import Document

# Appendix A: tau_s, k, m, tau_f
APPENDIX_A = {
    "Calculator": (0.0, 20, 10, 0.5),
    "Calendar": (0.05, 5, 5, 1.0),
    "WikiSearch": (0.05, 5, 5, 1.0),
}


@pytest.mark.parametrize("tool", sorted(APPENDIX_A))
def test_paper_constants_of_a_tool_are_those_of_appendix_a(tool):
    config = paper()
    sample = config.of_tool(tool).sample
    threshold = config.of_tool(tool).filtering_threshold
    assert (
        sample.sampling_threshold,
        sample.max_positions,
        sample.samples_per_position,
        threshold,
    ) == APPENDIX_A[tool]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 1e-5),
        ("batch_size", 128),
        ("num_steps", 2000),
        ("warmup_fraction", 0.1),
        ("max_sequence_tokens", 1024),
        ("eval_every_steps", 500),
        ("train_on_results", True),
    ],
)
def test_paper_finetuning_is_that_of_appendix_b(name, value):
    assert getattr(paper().finetune, name) == value


def test_paper_examples_per_tool_are_at_most_25k():
    assert paper().augment.max_examples_per_tool == 25_000


def test_paper_decoding_starts_one_call_among_the_ten_likeliest_tokens():
    decode = paper().evaluate.decode
    assert (decode.call_top_k, decode.max_calls) == (10, 1)


def test_paper_loss_counts_five_tokens():
    assert paper().score.num_scored_tokens == 5


def test_paper_prunes_only_below_the_sweep():
    paper_run = paper()
    assert paper_run.of_tool("Calculator").prune_below == min(paper_run.filter.threshold_sweep)


def test_paper_arithmetic_is_bfloat16():
    assert paper().model.dtype == "bfloat16"


def test_paper_sweep_shows_the_thresholds_of_table_2():
    assert set(paper().filter.threshold_sweep) >= {0.5, 1.0, 2.0}


def test_paper_offers_all_tools_that_we_have():
    assert set(paper().tools.enabled) == set(APPENDIX_A)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_of_a_name_passes_validation(name):
    config = preset(name)
    assert PipelineConfig.model_validate(config.model_dump()) == config


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_threshold_sweep_shows_the_thresholds_in_force(name):
    config = preset(name)
    used = {config.of_tool(t).filtering_threshold for t in config.tools.enabled}
    assert used <= set(config.filter.threshold_sweep)


def test_preset_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match="unknown preset 'papre'; known presets: paper, demo, sm"):
        preset("papre")


def test_smoke_is_smaller_than_the_demo():
    assert smoke().finetune.num_steps < demo().finetune.num_steps
    assert smoke().corpus.max_documents < demo().corpus.max_documents
    assert set(smoke().tools.enabled) < set(demo().tools.enabled)


def test_demo_texts_hold_no_item_of_the_benchmarks():
    config = demo()
    generated = [s for s in config.corpus.sources if s.startswith(("reasoning-gym:", "one-step:"))]
    corpus = config.corpus.model_copy(update={"sources": tuple(generated)})
    texts = [row.text for row in read_corpus(corpus) if isinstance(row, Document)]
    assert len(texts) > 300
    for spec in config.evaluate.benchmarks:
        for item in load_benchmark(spec, config.evaluate.limit, config.evaluate.seed).items:
            question = item.prompt.removesuffix(" The answer is")
            assert not any(text.startswith(question) for text in texts)


@pytest.mark.parametrize(("url", "expected"), [(None, False), ("https://example.org/a", True)])
def test_is_article_is_what_has_an_address(url, expected):
    assert is_article(document(url=url)) is expected
