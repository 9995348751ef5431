"""WikiSearch on a handful of passages."""

import pytest

from toolformer_core.tools.arguments import ArgumentSchema
from toolformer_core.tools.base import NO_DOCUMENT, CallContext
from toolformer_core.tools.search_index import Passage, SearchIndex, build_index
from toolformer_core.tools.wiki_search import WikiSearch, cut_at_word

WIKI = "https://en.wikipedia.org/wiki/"

PASSAGES = [
    Passage(
        title="Abraham Lincoln",
        url=WIKI + "Abraham_Lincoln",
        document_id="lincoln",
        text="Abraham Lincoln was born in a log cabin in Kentucky.",
    ),
    Passage(
        title="Kentucky",
        url=WIKI + "Kentucky",
        document_id="kentucky",
        text="Kentucky is a state; Lincoln came from there.\nIts capital\tis Frankfort.",
    ),
    Passage(title="notes.txt", url=None, document_id="notes", text="Bees make honey in hives."),
    Passage(title="", url=None, document_id="bare", text="Wax  candles\nburn for hours."),
    Passage(title="Empty", url=None, document_id="empty", text=""),
]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "index"
    build_index(PASSAGES, folder)
    return SearchIndex(folder)


@pytest.fixture
def search(index):
    return WikiSearch(index, max_snippet_chars=200)


def test_search_best_passage_is_title_and_text(search):
    expected = "Abraham Lincoln > Abraham Lincoln was born in a log cabin in Kentucky."
    assert search.call('"where was Abraham Lincoln born"', NO_DOCUMENT) == expected


def test_search_snippet_is_one_line_cut_at_a_word(index):
    search = WikiSearch(index, max_snippet_chars=50)
    expected = "Kentucky > Kentucky is a state; Lincoln came from there. Its"
    assert search.call("state capital Frankfort", NO_DOCUMENT) == expected


def test_search_title_words_count(search):
    assert search.call("notes txt", NO_DOCUMENT) == "notes.txt > Bees make honey in hives."


def test_search_passage_without_title_is_its_text_alone(search):
    assert search.call("candles", NO_DOCUMENT) == "Wax candles burn for hours."


@pytest.mark.parametrize("query", ["", '""', "the of and", "zebra", "?!", "a"])
def test_search_query_without_match_is_empty(search, query):
    assert search.call(query, NO_DOCUMENT) == ""


@pytest.mark.parametrize(
    "url",
    [
        WIKI + "Abraham_Lincoln",
        "http://en.wikipedia.org/wiki/abraham%20Lincoln?oldid=3#Birth",
        "https://EN.wikipedia.org/wiki/Abraham_Lincoln/",
    ],
)
def test_search_own_page_is_passed_over(search, url):
    context = CallContext(document_id="other", url=url, date=None)
    assert search.call("Abraham Lincoln Kentucky", context).startswith("Kentucky >")


def test_search_own_document_is_passed_over(search):
    context = CallContext(document_id="lincoln", url=None, date=None)
    assert search.call("Abraham Lincoln Kentucky", context).startswith("Kentucky >")


def test_search_only_own_passage_matches_gives_empty(search):
    context = CallContext(document_id="notes", url=None, date=None)
    assert search.call("bees honey", context) == ""


def test_search_malformed_url_of_context_is_harmless(search):
    context = CallContext(document_id="other", url="http://[broken", date=None)
    assert search.call("bees", context) == "notes.txt > Bees make honey in hives."


def test_version_changes_with_passages_and_snippet_only(index, tmp_path):
    build_index(iter(PASSAGES), tmp_path / "same")
    build_index(PASSAGES[:2], tmp_path / "fewer")
    version = WikiSearch(index, 200).version
    assert WikiSearch(SearchIndex(tmp_path / "same"), 200).version == version
    assert WikiSearch(SearchIndex(tmp_path / "fewer"), 200).version != version
    assert WikiSearch(index, 100).version != version


def test_parameters_read_the_argument_as_the_query(search):
    schema = ArgumentSchema(search.parameters, search.name)
    assert schema.signature() == "query: string"
    assert schema.parse('"Lincoln, born"') == {"query": "Lincoln, born"}


@pytest.mark.parametrize(
    ("text", "max_chars", "expected"),
    [
        ("short", 10, "short"),
        ("two words", 3, "two"),
        ("two words", 5, "two"),
        ("unbreakable", 4, "unbr"),
        ("  two \n words ", 20, "two words"),
    ],
)
def test_cut_at_word_keeps_whole_words(text, max_chars, expected):
    assert cut_at_word(text, max_chars) == expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ("Lincoln was born in", " Kentucky", True),
        ("Lincoln was born in", " the State of Kentucky", True),
        ("Lincoln was born in", " 1809", True),
        ("Lincoln was born in", " a cabin", False),
        ("He was shot.", " Lincoln died", False),
        ("", "Lincoln was born", False),
    ],
)
def test_search_can_help_before_a_name_or_number_within_a_sentence(search, before, after, expected):
    assert search.can_help_at(before, after, NO_DOCUMENT) is expected


def test_search_result_is_never_judged(search):
    assert search.is_right("Kentucky", " Kentucky") is None
