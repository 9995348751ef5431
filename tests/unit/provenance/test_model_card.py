"""The model card, parsed back as a hub would: its front matter, and the facts in its text."""

import json

import gguf
import pytest
from huggingface_hub import ModelCard

from tests.support.builders import document
from toolformer_core.augment import insert_calls
from toolformer_core.config.base import ModelConfig
from toolformer_core.config.pipeline import CorpusConfig, PipelineConfig
from toolformer_core.config.presets import demo
from toolformer_core.config.tools import WIKIPEDIA_SAMPLE
from toolformer_core.provenance.model_card import (
    NOT_STATED,
    TrainingTexts,
    base_licence,
    count_texts,
    model_card,
    public_name,
    source_licence,
)
from toolformer_core.records import FilterDecision

TEXTS = TrainingTexts(fingerprint="abcd", num_documents=41, num_calls={"Calculator": 13})
SCORES = [
    {
        "benchmark": "dateset",
        "arm": arm,
        "metric": "answer in the first 5 words",
        "value": value,
        "low": 0.1,
        "high": 0.5,
        "n": 32,
        "call_rate": 0.25,
        "malformed_rate": 0.0,
    }
    for arm, value in (("base", 0.125), ("on", 0.25))
]


def of_model(name):
    """The demo's settings with another base model: reading the demo's own takes seconds."""
    return demo().model_copy(update={"model": ModelConfig(name_or_path=str(name))})


def gguf_file(path, licence):
    """A model file without weights."""
    writer = gguf.GGUFWriter(path, "llama")
    if licence:
        writer.add_license(licence)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def card_of(config=None, scores=(), tmp_path=None):
    made = model_card(
        config or of_model("organisation/model-1.7B"),
        tmp_path / "base",
        TEXTS,
        {"Calculator": "3"},
        {"dev loss": 1.25, "dev texts": 4},
        scores,
    )
    path = tmp_path / "README.md"
    made.save(path)
    return ModelCard.load(path)


def rows(card, heading):
    """The cells of the tables below a heading."""
    section = card.text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_model_card_front_matter_is_what_hubs_read(tmp_path):
    data = card_of(of_model(gguf_file(tmp_path / "m.gguf", "MIT")), tmp_path=tmp_path).data
    assert data.license == "mit"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert "toolformer" in data.tags
    assert data.get("base_model") is None  # a file is no id of a hub


def test_model_card_of_a_hub_model_names_it_as_its_base(tmp_path):
    card = card_of(tmp_path=tmp_path)
    assert card.data.base_model == "organisation/model-1.7B"
    assert card.data.get("license") is None
    assert f"organisation/model-1.7B: {NOT_STATED}" in card.text


def test_model_card_has_thresholds_yield_and_version_of_every_tool(tmp_path):
    found = {row[0]: row[1:] for row in rows(card_of(tmp_path=tmp_path), "Tools")}
    sample = demo().sample
    assert list(found) == ["tool", "---", *demo().tools.enabled]
    assert found["Calculator"] == [
        "3",
        "13",
        "0",
        str(sample.max_positions["Calculator"]),
        str(sample.samples_per_position["Calculator"]),
        f"{demo().of_tool('Calculator').filtering_threshold:g}",
    ]
    assert found["WikiSearch"][:2] == [NOT_STATED, "0"]


def test_model_card_has_the_settings_and_figures_of_the_training(tmp_path):
    card = card_of(tmp_path=tmp_path)
    found = {row[0]: row[1] for row in rows(card, "Training")}
    assert found["num_steps"] == str(demo().finetune.num_steps)
    assert float(found["learning_rate"]) == demo().finetune.learning_rate
    assert (found["dev loss"], found["dev texts"]) == ("1.25", "4")


def test_model_card_names_sources_with_their_licences_and_the_texts(tmp_path):
    card = card_of(tmp_path=tmp_path)
    found = {row[0]: row[1] for row in rows(card, "Texts")}
    assert set(demo().corpus.sources) <= set(found)
    assert found[WIKIPEDIA_SAMPLE] == "CC-BY-SA-3.0 (Wikipedia)"
    assert "41 texts with 13 calls (fingerprint abcd)" in card.text


def test_model_card_before_the_evaluation_says_so(tmp_path):
    card = card_of(tmp_path=tmp_path)
    assert "Not evaluated." in card.text
    assert card.data.eval_results is None


def test_model_card_with_scores_has_every_arm_and_lists_the_tuned_one(tmp_path):
    card = card_of(scores=SCORES, tmp_path=tmp_path)
    [result] = card.data.eval_results
    assert (result.dataset_name, result.metric_value) == ("dateset", 0.25)
    found = rows(card, "Evaluation")[2:]
    assert [(row[1], row[3]) for row in found] == [("base", "0.125"), ("on", "0.250")]


def test_model_card_paths_of_this_machine_stay_out(tmp_path):
    corpus = CorpusConfig(sources=(str(tmp_path / "texts" / "mine.jsonl"),))
    model = ModelConfig(name_or_path=str(tmp_path / "my-model"))
    card = card_of(PipelineConfig(corpus=corpus, model=model), tmp_path=tmp_path)
    assert str(tmp_path) not in str(card)
    assert "mine.jsonl" in card.text
    assert "my-model" in card.text


def test_model_card_of_a_hub_model_has_the_licence_of_its_downloaded_folder(tmp_path):
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "README.md").write_text("---\nlicense: apache-2.0\n---\nText")
    card = card_of(tmp_path=tmp_path)
    assert card.data.license == "apache-2.0"
    assert "organisation/model-1.7B: apache-2.0" in card.text


def test_model_card_of_the_control_does_not_say_that_it_calls_tools(tmp_path):
    settings = of_model("organisation/model-1.7B")
    training = settings.finetune.model_copy(update={"without_calls": True})
    card = card_of(settings.model_copy(update={"finetune": training}), tmp_path=tmp_path)
    assert card.text.startswith("\n# model-1.7B control without calls\n\nThe control: organ")
    assert "was not taught to call tools" in card.text
    assert "toolformer generate" not in card.text
    assert card.data.tags == ["toolformer", "control"]


def test_model_card_of_a_folder_in_the_working_directory_names_no_hub_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    card = card_of(of_model("models/mine"), tmp_path=tmp_path)
    assert card.data.get("base_model") is None
    assert "models/mine" not in str(card)


def test_public_name_keeps_what_is_no_path_of_this_machine():
    for name in ("texts/*.jsonl", "s3://bucket/texts.jsonl", WIKIPEDIA_SAMPLE, "me/model"):
        assert public_name(name) == name


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("reasoning-gym:gsm_symbolic?size=4", "Apache-2.0 (package reasoning-gym)"),
        (WIKIPEDIA_SAMPLE, "LGPL-2.1-only (package gensim)"),
        ("package://no_such_package/texts.jsonl", NOT_STATED),
        ("texts/*.jsonl", NOT_STATED),
        ("stated.jsonl", "CC0"),
    ],
)
def test_source_licence_is_stated_or_that_of_the_package(source, expected):
    assert source_licence(source, {"stated.jsonl": "CC0"}) == expected


def test_source_licence_of_the_settings_goes_before_that_of_the_package():
    assert source_licence(WIKIPEDIA_SAMPLE, {WIKIPEDIA_SAMPLE: "CC-BY-SA-3.0"}) == "CC-BY-SA-3.0"


def test_base_licence_is_read_out_of_a_gguf_file(tmp_path):
    for name, licence in (("stated", "mit"), ("silent", None)):
        file = gguf_file(tmp_path / f"{name}.gguf", licence)
        assert base_licence(str(file), tmp_path / "converted") == (licence or NOT_STATED)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("---\nlicense: cc-by-4.0\n---\nText", "cc-by-4.0"),
        ("---\nlanguage: en\n---\nText", NOT_STATED),
        (None, NOT_STATED),
    ],
)
def test_base_licence_of_a_folder_is_that_of_its_readme(tmp_path, content, expected):
    (tmp_path / "config.json").write_text(json.dumps({}))
    if content:
        (tmp_path / "README.md").write_text(content)
    assert base_licence("organisation/model", tmp_path) == expected


def test_count_texts_counts_documents_and_calls_by_tool():
    decision = FilterDecision(
        candidate_id="c",
        document_id="d",
        tool="Calculator",
        char_offset=3,
        argument="1 + 2",
        result="3",
        loss_reduction=1.0,
        filtering_threshold=0.5,
        kept=True,
        drop_reason=None,
        is_right=True,
    )
    texts = [insert_calls(document(text=f"Is {n} more?"), [decision]) for n in range(3)]
    counted = count_texts("f", texts)
    assert (counted.num_documents, counted.num_calls) == (3, {"Calculator": 3})
