"""WikiSearch on a handful of passages."""

import pytest

from tests.support.builders import document
from toolformer_core.errors import ConfigError, CorpusError
from toolformer_core.tools.base import NO_DOCUMENT, CallContext
from toolformer_core.tools.wiki_search import (
    Passage,
    WikiSearch,
    build_index,
    cut_at_word,
    page_key,
    passage_of,
)

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
    Passage(title="Empty", url=None, document_id="empty", text=""),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("search") / "nested" / "index"
    build_index(PASSAGES, folder)
    return folder


@pytest.fixture
def search(folder):
    return WikiSearch(folder, max_snippet_chars=200)


def test_search_best_passage_is_title_and_text(search):
    expected = "Abraham Lincoln > Abraham Lincoln was born in a log cabin in Kentucky."
    assert search.call('"where was Abraham Lincoln born"', NO_DOCUMENT) == expected


def test_search_snippet_is_one_line_cut_at_a_word(folder):
    search = WikiSearch(folder, max_snippet_chars=50)
    expected = "Kentucky > Kentucky is a state; Lincoln came from there. Its"
    assert search.call("state capital Frankfort", NO_DOCUMENT) == expected


def test_search_title_words_count(search):
    assert search.call("notes txt", NO_DOCUMENT) == "notes.txt > Bees make honey in hives."


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


def test_search_equal_passages_first_one_wins(tmp_path):
    twins = [Passage(title=title, url=None, document_id=title, text="same words") for title in "AB"]
    build_index(twins, tmp_path / "index")
    assert WikiSearch(tmp_path / "index", 200).call("same words", NO_DOCUMENT) == "A > same words"


def test_version_changes_with_passages_and_snippet_only(folder, tmp_path):
    build_index(iter(PASSAGES), tmp_path / "same")
    build_index(PASSAGES[:2], tmp_path / "fewer")
    version = WikiSearch(folder, 200).version
    assert WikiSearch(tmp_path / "same", 200).version == version
    assert WikiSearch(tmp_path / "fewer", 200).version != version
    assert WikiSearch(folder, 100).version != version


def test_build_index_twice_replaces_and_leaves_nothing_behind(tmp_path):
    build_index(PASSAGES, tmp_path / "index")
    opened = WikiSearch(tmp_path / "index", 200)
    build_index(PASSAGES[2:], tmp_path / "index")
    assert WikiSearch(tmp_path / "index", 200).call("Lincoln", NO_DOCUMENT) == ""
    assert opened.call("Lincoln", NO_DOCUMENT) != ""
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_build_index_interrupted_keeps_the_old_one(tmp_path):
    def broken():
        yield PASSAGES[0]
        raise KeyboardInterrupt

    build_index(PASSAGES, tmp_path / "index")
    with pytest.raises(KeyboardInterrupt):
        build_index(broken(), tmp_path / "index")
    assert WikiSearch(tmp_path / "index", 200).call("honey", NO_DOCUMENT) != ""
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize(
    "passages", [[], [Passage(title="?", url=None, document_id="d", text="the ...")]]
)
def test_build_index_without_words_raises(tmp_path, passages):
    with pytest.raises(CorpusError, match="no searchable word"):
        build_index(passages, tmp_path / "index")
    assert not (tmp_path / "index").exists()


def test_search_missing_index_tells_the_cure(tmp_path):
    with pytest.raises(ConfigError, match="build_index"):
        WikiSearch(tmp_path, 200)


def test_search_index_of_another_format_is_refused(tmp_path):
    (tmp_path / "meta.json").write_text('{"format": 0}')
    with pytest.raises(ConfigError, match="format 0"):
        WikiSearch(tmp_path, 200)


@pytest.mark.parametrize(
    ("url", "title"),
    [
        (WIKI + "Abraham_Lincoln", "Abraham Lincoln"),
        (WIKI + "AC/DC", "AC/DC"),
        (WIKI + "Caf%C3%A9_society#History", "Caf\u00e9 society"),
        ("https://en.wikipedia.org/w/index.php?title=Abraham_Lincoln", "Abraham Lincoln"),
        ("https://example.org/news/a-fine-day/", "a-fine-day"),
        ("https://example.org/", "texts.jsonl"),
        ("http://[broken", "[broken"),
        (None, "texts.jsonl"),
    ],
)
def test_passage_of_document_is_titled_by_its_page(url, title):
    assert passage_of(document(url=url)).title == title


def test_passage_of_document_keeps_its_identity():
    source = document()
    passage = passage_of(source)
    assert (passage.url, passage.document_id, passage.text) == (
        source.url,
        source.document_id,
        source.text,
    )


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (WIKI + "Kentucky", "http://www.en.wikipedia.org/wiki/kentucky", True),
        (WIKI + "Kentucky", WIKI + "Kentucky_River", False),
        (WIKI + "Kentucky", "https://de.wikipedia.org/wiki/Kentucky", False),
        (WIKI + "?curid=1", WIKI + "?curid=2", False),
        ("https://a.org/x/b", "https://a.org/y/b", False),
    ],
)
def test_page_key_is_equal_for_one_page_only(one, other, is_same):
    assert (page_key(one) == page_key(other)) is is_same


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
