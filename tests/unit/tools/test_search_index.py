"""The search index: what it finds, against a slow BM25, and how it survives its builds."""

import json
import math
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.builders import document
from toolformer_core.errors import ConfigError, CorpusError, TransientStorageError
from toolformer_core.tools.base import NO_DOCUMENT, CallContext
from toolformer_core.tools.search_index import (
    MAX_QUERY_WORDS,
    Passage,
    SearchIndex,
    build_index,
    page_key,
    passage_of,
    words_of,
)

WIKI = "https://en.wikipedia.org/wiki/"
BEES, NO_WORDS = "Bees make honey in hives.", "This is theirs, or not: isn't it? _ 's"
CAFE = "A caf\u00e9 in \u0130stanbul"
HINDI = "\u0939\u093f\u0928\u094d\u0926\u0940 \u092d\u093e\u0937\u093e"
DECOMPOSED, STREET, POSSESSIVE = "A cafe\u0301teria", "Stra\u00dfe", "Lincoln\u2019s birthplace"
MOSCOW, SNAKE = "\u041c\u043e\u0441\u043a\u0432\u0430", "snake_case"
OTHER_TEXTS = (CAFE, HINDI, DECOMPOSED, STREET, POSSESSIVE, MOSCOW, SNAKE)
VOCABULARY = [f"w{number}" for number in range(40)]


def passage(text, document_id="d", title="", url=None):
    return Passage(title=title, url=url, document_id=document_id, text=text)


def random_passages(count, seed=0):
    """Short texts of few different words, so that many scores are equal; some only at first."""
    draw = random.Random(seed)
    weights = [1 / (rank + 1) for rank in range(len(VOCABULARY))]
    return [
        passage(
            " ".join(draw.choices(VOCABULARY, weights, k=draw.randint(1, 12)))
            + (f" rare{number % 3}" if number < 60 else ""),
            document_id=f"d{number % 17}",
            title=draw.choice(["", "w3", "w5 w8"]),
            url=draw.choice([None, f"{WIKI}Page_{number % 7}"]),
        )
        for number in range(count)
    ]


def random_queries(count, seed=1):
    draw = random.Random(seed)
    words = [*VOCABULARY, "rare0", "rare1", "rare2"]
    return [" ".join(draw.choices(words, k=draw.randint(1, 12))) for _ in range(count)]


def texts(found):
    return [one.text for one in found]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "nested" / "index"


def find(folder, query, limit=5, context=NO_DOCUMENT):
    return SearchIndex(folder).search(query, limit=limit, context=context)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Bees, what is left of them without words, and texts of other languages."""
    folder = tmp_path_factory.mktemp("small") / "index"
    build_index([passage(text) for text in (BEES, NO_WORDS, *OTHER_TEXTS)], folder)
    return SearchIndex(folder)


class SlowBM25:
    """BM25 as the module's docstring has it, word by word."""

    def __init__(self, passages):
        words = [words_of(f"{one.title} {one.text}") for one in passages]
        self.passages, self.counts = passages, [Counter(w) for w in words]
        self.lengths = [len(w) for w in words]
        self.mean_length = sum(self.lengths) / len(words)

    def idf(self, word):
        having = sum(word in counts for counts in self.counts)
        return math.log(1 + (len(self.counts) - having + 0.5) / (having + 0.5))

    def scores(self, query):
        words = dict.fromkeys(words_of(query))
        idf = {word: self.idf(word) for word in words}
        scores = {}
        for one, counts, length in zip(self.passages, self.counts, self.lengths, strict=True):
            norm = 1.2 * (0.25 + 0.75 * length / self.mean_length)
            parts = [idf[w] * 2.2 * counts[w] / (counts[w] + norm) for w in words]
            scores[one] = math.fsum(parts)
        return scores


@pytest.fixture(scope="module")
def passages():
    return list(dict.fromkeys(random_passages(1500)))


@pytest.fixture(scope="module")
def full(passages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("full") / "index"
    build_index(passages, folder)
    return SearchIndex(folder)


def test_search_ranks_as_slow_bm25(full, passages):
    slow = SlowBM25(passages)
    for query in random_queries(40):
        scores = slow.scores(query)
        best = sorted((score for score in scores.values() if score), reverse=True)[:20]
        found = full.search(query, limit=20, context=NO_DOCUMENT)
        assert [scores[one] for one in found] == pytest.approx(best, rel=1e-5)
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("num_parts", [2, 12])
def test_index_built_in_parts_and_another_order_equals_one_built_at_once(
    full, passages, folder, num_parts
):
    shuffled = random.Random(num_parts).sample(passages, len(passages))
    for part in range(num_parts):
        # Each part repeats a passage of the one before.
        build_index([*shuffled[part::num_parts], shuffled[part - 1]], folder)
    parts = SearchIndex(folder)
    assert (parts.digest, parts.num_passages) == (full.digest, full.num_passages)
    context = CallContext(document_id="d3", url=WIKI + "Page_2", date=None)
    for query in random_queries(150):
        for limit in (1, 7):
            for where in (NO_DOCUMENT, context):
                expected = full.search(query, limit=limit, context=where)
                assert parts.search(query, limit=limit, context=where) == expected


def test_search_many_equal_scores_are_ordered_alike_however_built(tmp_path):
    twins = [passage("same words here", document_id=f"d{number}") for number in range(300)]
    build_index(twins, tmp_path / "one")
    for part in (twins[200:], twins[:200]):
        build_index(part, tmp_path / "other")
    one = find(tmp_path / "one", "same words", limit=3)
    assert one == find(tmp_path / "other", "same words", limit=3)
    everything = find(tmp_path / "one", "words", limit=300)
    assert everything[:3] == one
    assert len(set(everything)) == 300


def test_search_word_that_nothing_has_changes_nothing(full):
    expected = full.search("w7 w9", limit=5, context=NO_DOCUMENT)
    assert full.search("w7 zebra w9 w9", limit=5, context=NO_DOCUMENT) == expected


@pytest.mark.parametrize(
    ("document_id", "url"),
    [("d3", None), ("other", WIKI + "Page_2"), ("d3", "http://en.wikipedia.org/wiki/page%202?x=1")],
)
def test_search_own_document_and_page_are_never_found(full, passages, document_id, url):
    context = CallContext(document_id=document_id, url=url, date=None)
    found = full.search("w0 w1 w2", limit=len(passages), context=context)
    own_page = page_key(url) if url else None
    allowed = [
        one
        for one in passages
        if one.document_id != document_id
        and (url is None or one.url is None or page_key(one.url) != own_page)
        and {"w0", "w1", "w2"} & set(one.text.split())
    ]
    assert set(found) == set(allowed)


def test_search_only_own_passages_match_finds_nothing(folder):
    build_index([passage("bees", document_id="own"), passage("wasps")], folder)
    context = CallContext(document_id="own", url=None, date=None)
    assert find(folder, "bees", context=context) == []


@pytest.mark.parametrize(
    "query",
    [
        "AND OR NOT honey",
        'words:honey AND -bees^2 OR "honey hives"~3',
        "*:* honey",
        "honey)))((( [a TO z] {b TO c} /h.*/ \\",
        "+honey -bees NOT IN [x]",
        "ho\0ney",
        "honey \ud800\udfff \udc00",
        "HONEY \u202e\ufeff",
        "\uff48\uff4f\uff4e\uff45\uff59",
        "honey " + "x" * 100_000,
        " ".join(["honey", *(f"x{number}" for number in range(10_000))]),
    ],
)
def test_search_hostile_query_is_only_words(small, query):
    assert texts(small.search(query, limit=1, context=NO_DOCUMENT)) == [BEES]


@pytest.mark.parametrize("query", ["", " ", "?!", "the of and", "\0", "\ud800", "s", "_"])
def test_search_query_without_words_finds_nothing(small, query):
    context = CallContext(document_id="other", url="http://[broken", date=None)
    assert small.search(query, limit=1, context=NO_DOCUMENT) == []
    assert small.search(query, limit=1, context=context) == []


def test_search_words_past_the_limit_do_not_count(folder):
    build_index([passage("bees"), passage("wasps")], folder)
    many = " ".join(f"x{number}" for number in range(MAX_QUERY_WORDS - 1))
    assert texts(find(folder, f"{many} bees wasps")) == ["bees"]


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("CAFE", CAFE),
        ("istanbul", CAFE),
        ("caf\u00e9teria", DECOMPOSED),
        ("STRASSE", STREET),
        ("lincoln", POSSESSIVE),
        (HINDI.split()[0], HINDI),
        (MOSCOW.lower(), MOSCOW),
        ("case", SNAKE),
    ],
)
def test_search_finds_words_in_other_case_and_form(small, query, text):
    assert texts(small.search(query, limit=9, context=NO_DOCUMENT)) == [text]


def test_passage_comes_back_as_it_was(folder):
    odd = passage(
        "A\0B \ud800 caf\u00e9\n\thoney",
        document_id="\udc80",
        title="\u2603",
        url="http://[x\ud800",
    )
    build_index([odd], folder)
    assert find(folder, "honey") == [odd]
    assert find(folder, "honey", context=CallContext(document_id="", url=odd.url, date=None)) == []


def test_build_index_tells_what_it_added(folder):
    first = build_index([passage("bees"), passage("wasps"), passage("bees")], folder)
    again = build_index(iter([passage("wasps")]), folder)
    more = build_index([passage("wasps"), passage("ants")], folder)
    assert [(one.num_passages, one.num_added) for one in (first, again, more)] == [
        (2, 2),
        (2, 0),
        (3, 1),
    ]
    assert first.num_bytes == again.num_bytes < more.num_bytes
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_digest_is_of_the_set_of_passages(tmp_path):
    bees, wasps = passage("bees"), passage("wasps")
    for name, parts in {"a": [[bees, wasps]], "b": [[wasps], [bees]], "c": [[bees]]}.items():
        for part in parts:
            build_index(part, tmp_path / name)
    digests = {name: SearchIndex(tmp_path / name).digest for name in "abc"}
    assert digests["a"] == digests["b"] != digests["c"]


def test_open_index_does_not_see_later_builds(folder):
    build_index([passage("bees")], folder)
    opened = SearchIndex(folder)
    build_index([passage("wasps")], folder)
    assert (opened.num_passages, SearchIndex(folder).num_passages) == (1, 2)
    assert opened.search("wasps", limit=1, context=NO_DOCUMENT) == []
    assert texts(opened.search("bees", limit=1, context=NO_DOCUMENT)) == ["bees"]


def test_search_from_many_threads_finds_the_same(full):
    queries = random_queries(60)

    def best(query):
        return full.search(query, limit=3, context=NO_DOCUMENT)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(best, queries)) == [best(query) for query in queries]


def test_build_index_interrupted_adds_nothing_and_leaves_nothing(folder):
    def broken():
        yield passage("wasps")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(broken(), folder)
    assert list(folder.parent.iterdir()) == []
    build_index([passage("bees")], folder)
    before = SearchIndex(folder).digest
    with pytest.raises(KeyboardInterrupt):
        build_index(broken(), folder)
    assert SearchIndex(folder).digest == before
    assert build_index([passage("wasps")], folder).num_passages == 2


KILLED_BUILD = """
import sys, time
from pathlib import Path
from toolformer_core.tools import search_index
def slow():
    for number in range(int(sys.argv[2])):
        yield search_index.Passage(title="", url=None, document_id="d", text=f"wasps {number}")
    print("ready", flush=True)
    time.sleep(60)
search_index.build_index(slow(), Path(sys.argv[1]))
"""


def kill_a_build(folder, count):
    """Kill a process that adds passages, before it has all of them."""
    command = [sys.executable, "-c", KILLED_BUILD, str(folder), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL


def test_build_index_killed_while_adding_keeps_the_old_state(folder):
    build_index([passage("bees")], folder)
    before = SearchIndex(folder).digest
    kill_a_build(folder, count=20_000)
    assert SearchIndex(folder).digest == before
    assert texts(find(folder, "bees wasps")) == ["bees"]
    assert build_index([passage("wasps")], folder).num_passages == 2


def test_build_index_killed_at_first_leaves_no_index(folder):
    kill_a_build(folder, count=10)
    assert not folder.exists()
    assert build_index([passage("bees")], folder).num_passages == 1


def test_build_index_killed_between_meta_and_commit_is_the_old_state(folder, tmp_path):
    build_index([passage("bees")], folder)
    before = SearchIndex(folder).digest
    shutil.copytree(folder / "tantivy", tmp_path / "uncommitted")
    build_index([passage("wasps")], folder)
    after = SearchIndex(folder).digest
    shutil.rmtree(folder / "tantivy")
    (tmp_path / "uncommitted").rename(folder / "tantivy")  # as if the commit had not come
    assert SearchIndex(folder).digest == before
    build_index([passage("wasps")], folder)
    assert SearchIndex(folder).digest == after


def test_index_of_unknown_state_is_refused(folder):
    build_index([passage("bees")], folder)
    meta = (folder / "meta.json").read_text()
    build_index([passage("wasps")], folder)
    build_index([passage("ants")], folder)
    (folder / "meta.json").write_text(meta)
    for use in (SearchIndex, lambda folder: build_index([passage("flies")], folder)):
        with pytest.raises(ConfigError, match=r"has 3 passages.* toolformer index"):
            use(folder)


BUSY_BUILD = """
import sys
from pathlib import Path
from toolformer_core.tools import search_index
def waiting():
    print("ready", flush=True)
    sys.stdin.readline()
    yield search_index.Passage(title="", url=None, document_id="d", text="wasps")
search_index.build_index(waiting(), Path(sys.argv[1]))
"""


def test_build_index_while_another_process_builds_is_transient(folder):
    build_index([passage("bees")], folder)
    command = [sys.executable, "-c", BUSY_BUILD, str(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        with pytest.raises(TransientStorageError, match="run again"):
            build_index([passage("ants")], folder)
        child.communicate("go\n")
    assert texts(find(folder, "wasps ants")) == ["wasps"]


def test_build_index_overtaken_by_another_first_build_is_transient(folder):
    def overtaken():
        build_index([passage("bees")], folder)
        yield passage("wasps")

    with pytest.raises(TransientStorageError, match="run again"):
        build_index(overtaken(), folder)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]
    assert texts(find(folder, "bees wasps")) == ["bees"]


FULL_DISK = """
import resource, sys
from pathlib import Path
from toolformer_core.errors import TransientStorageError
from toolformer_core.tools.search_index import Passage, build_index
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
passages = (Passage(title="", url=None, document_id="d", text=f"w{n} " * 9) for n in range(20_000))
try:
    build_index(passages, Path(sys.argv[1]))
except TransientStorageError:
    sys.exit(7)
"""


def test_build_index_on_a_full_disk_is_transient(folder):
    build_index([passage("bees")], folder)
    command = [sys.executable, "-c", FULL_DISK, str(folder)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 7
    assert SearchIndex(folder).num_passages == 1
    assert build_index([passage("wasps")], folder).num_passages == 2


@pytest.mark.parametrize("passages", [[], [passage("the ...", title="?")]])
def test_build_index_without_words_raises(folder, passages):
    with pytest.raises(CorpusError, match="no searchable word"):
        build_index(passages, folder)
    assert list(folder.parent.iterdir()) == []


def test_build_index_leaves_what_is_no_index_alone(tmp_path):
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "mine.txt").write_text("dear")
    for path in (tmp_path / "letters", tmp_path / "letters" / "mine.txt"):
        with pytest.raises(ConfigError, match="something else"):
            build_index([passage("bees")], path)
    assert (tmp_path / "letters" / "mine.txt").read_text() == "dear"


def test_search_missing_index_tells_the_cure(tmp_path):
    with pytest.raises(ConfigError, match=rf"{tmp_path}.* toolformer index"):
        SearchIndex(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"format": 1, "digest": "0"}', "format 1"), ("{", "damaged"), ("{}", "format None")],
)
def test_index_of_another_format_is_refused(tmp_path, content, message):
    (tmp_path / "meta.json").write_text(content)
    for use in (SearchIndex, lambda folder: build_index([passage("bees")], folder)):
        with pytest.raises(ConfigError, match=f"{message}.* toolformer index"):
            use(tmp_path)


def test_index_without_its_files_is_refused(folder):
    build_index([passage("bees")], folder)
    for path in (folder / "tantivy").glob("*.idx"):
        path.unlink()
    with pytest.raises(ConfigError, match="cannot be opened"):
        SearchIndex(folder)


def test_digest_names_the_version_that_made_the_index(folder):
    build_index([passage("bees")], folder)
    before = SearchIndex(folder).digest
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | {"tantivy": "0.1"}))
    assert SearchIndex(folder).digest != before
    build_index([passage("wasps")], folder)
    assert json.loads((folder / "meta.json").read_text())["tantivy"] == "0.1"


@pytest.mark.parametrize(
    ("url", "title"),
    [
        (WIKI + "Abraham_Lincoln", "Abraham Lincoln"),
        (WIKI + "AC/DC", "AC/DC"),
        (WIKI + "Caf%C3%A9_society#History", "Caf\u00e9 society"),
        ("https://en.wikipedia.org/w/index.php?title=Abraham_Lincoln", "Abraham Lincoln"),
        ("https://example.org/news/a-fine-day/", "a-fine-day"),
        ("https://example.org/", ""),
        ("http://[broken", "[broken"),
        (None, ""),
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
