"""Texts for perplexity, and passages in which no tool is of use."""

import pytest

from tests.support.benchmark_files import write_lines
from toolformer_core.benchmarks.registry import load_benchmark
from toolformer_core.errors import DataError

LINES = [
    " \n",
    " = Robert = \n",
    " \n",
    " He is old , and 1 @,@ 000 years so . \n",
    " = = Life = = \n",
    " Long . \n",
    " \n",
    " = Mary = \n",
    " She is not . \n",
]
ARTICLES = ["".join(LINES[1:7]), "".join(LINES[7:])]


def prompts(spec):
    return [item.prompt for item in load_benchmark(spec, None, 0).items]


def test_wikitext_raw_file_is_parted_into_articles(tmp_path):
    path = tmp_path / "wiki.test.raw"
    path.write_text("".join(LINES), encoding="utf-8")
    assert prompts(f"wikitext={path}") == ARTICLES


def test_wikitext_rows_of_lines_are_joined_into_the_same_articles(tmp_path):
    rows = [{"text": "" if line == " \n" else line} for line in LINES]
    write_lines(tmp_path / "set" / "test.jsonl", *rows)
    assert prompts(f"wikitext=hf:{tmp_path}/set:test") == ARTICLES


@pytest.mark.parametrize("field", ["text", "page"])
def test_wikitext_rows_of_articles_are_taken_as_they_are(tmp_path, field):
    rows = [{field: ARTICLES[0]}, {field: "Without a heading\nbut with lines"}]
    path = write_lines(tmp_path / "rows.jsonl.gz", *rows)
    assert prompts(f"wikitext={path}") == [row[field] for row in rows]


def test_wikitext_row_without_text_is_named(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", {"text": LINES[1]}, {"question": "?"})
    with pytest.raises(
        DataError, match=r"benchmark wikitext: rows\.jsonl row 2: no text; expected"
    ):
        prompts(f"wikitext={path}")


def test_heldout_takes_any_texts_of_a_corpus_whole(tmp_path):
    rows = [{"text": " One.\n\nTwo."}, {"no": "text"}, {"text": "Three."}]
    path = write_lines(tmp_path / "rows.jsonl", *rows)
    benchmark = load_benchmark(f"heldout={path}", None, 0)
    assert [item.prompt for item in benchmark.items] == [" One.\n\nTwo.", "Three."]
    assert benchmark.kind == "perplexity"


PLAIN = "She opened the old door and looked for a while at the quiet garden behind it."


@pytest.mark.parametrize(
    "sentence",
    [
        "She had 3 apples.",
        "She had three apples.",
        "She had twice as many.",
        "There were thousands of them.",
        "It was late in the day.",
        "Then came tomorrow.",
        "Monday was dull.",
        "March was dull.",
        "She saw an \u00e9clair.",
        "\u0414\u0430.",
        "Then she met Ada.",
        "Then, Ada left.",
        "It was the BBC.",
    ],
)
def test_overcalling_passage_ends_before_a_sentence_that_a_tool_could_help(tmp_path, sentence):
    after = f"{PLAIN[:-1]} once more."
    path = write_lines(tmp_path / "rows.jsonl", {"text": f"{PLAIN} {sentence} {after}"})
    half = "She opened the old door and looked"
    assert prompts(f"overcalling={path}") == [f"{half} for", f"{half} for a"]


@pytest.mark.parametrize(
    "sentence", ["I may, and I will.", '"Why?"', "Well, I may be wrong: I am."]
)
def test_overcalling_passage_goes_on_with_a_sentence_that_needs_no_tool(tmp_path, sentence):
    path = write_lines(tmp_path / "rows.jsonl", {"text": f"{PLAIN}\n{sentence} {PLAIN}"})
    [prompt] = prompts(f"overcalling={path}")
    words = f"{PLAIN} {sentence} {PLAIN}".split()
    assert prompt.split() == words[: len(words) // 2]


def test_overcalling_short_passages_and_other_paragraphs_are_apart(tmp_path):
    text = f"Too short, this one.\n\n{PLAIN}\n\nAnd so is this."
    path = write_lines(tmp_path / "rows.jsonl", {"text": text})
    assert prompts(f"overcalling={path}") == ["She opened the old door and looked for"]


def test_overcalling_without_texts_takes_a_story():
    benchmark = load_benchmark("overcalling", None, 0)
    assert benchmark.kind == "call_rate"
    assert len(benchmark.items) > 50
    assert not any("Gutenberg" in item.prompt for item in benchmark.items)


def test_texts_have_no_right_answer(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", {"text": "One."})
    with pytest.raises(TypeError, match="no right answer"):
        load_benchmark(f"heldout={path}", None, 0).is_right("a", ("a",))
