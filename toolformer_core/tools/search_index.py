"""Passages on disk, found by their words: what WikiSearch and QA search (paper, section 3).

    score(query, passage) = sum over the distinct words that both have of
        ln(1 + (N - n + 0.5) / (n + 0.5)) * 2.2 f / (f + 1.2 (0.25 + 0.75 length / mean length))

N passages, n of them with the word, f times in this one; title and text count as one text.

Source: BM25 (section 3); its settings are not in the paper.
Choice: k1 = 1.2 and b = 0.75 are tantivy's; it keeps a length in one byte, above 40 words rounded
down by up to an eighth. Words are in lower case, without accents, English stop words or the s of a
possessive; they are not stemmed, because no measurement says that it helps.

The index is a folder: meta.json, and what tantivy keeps below `tantivy`. It is memory-mapped, so
that processes share it. Results are the same however it was built: at once, in parts, in any order.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit
from urllib.parse import unquote as percent_decode

import tantivy
from tantivy import Filter, Occur, Query

from toolformer_core.errors import ConfigError, CorpusError, TransientStorageError
from toolformer_core.fingerprint import fingerprint
from toolformer_core.readers.rows import clean_text
from toolformer_core.records import Document, digest
from toolformer_core.tools.base import CallContext

INDEX_FORMAT = 2

MAX_QUERY_WORDS = 64
"""Distinct words of a query that count; what follows does not."""

_META, _TANTIVY = "meta.json", "tantivy"
_VERSION = version("tantivy")
_HEAP_BYTES = 64_000_000
_MAX_WORD_BYTES = 100
_SUM_MODULUS = 1 << 128

_SPARE_HITS = 8

_WORDS, _ORIGIN, _KEY, _ORDER, _CONTENT = "words", "origin", "key", "order", "content"
_ANALYZER = (
    tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.regex(r"[\w--_]+"))
    .filter(Filter.ascii_fold())
    .filter(Filter.lowercase())
    .filter(Filter.stopword("english"))
    .filter(Filter.custom_stopword(["s"]))
    .filter(Filter.remove_long(_MAX_WORD_BYTES))
    .build()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One text that can be found; the title may be empty."""

    title: str
    url: str | None
    document_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexSummary:
    """What an index holds after a build, and how many passages the build added."""

    num_passages: int
    num_added: int
    num_bytes: int


def passage_of(document: Document) -> Passage:
    """The document as a passage; its title is the page that its url names, or nothing."""
    return Passage(
        title=_page_name(_split(document.url)) if document.url else "",
        url=document.url,
        document_id=document.document_id,
        text=document.text,
    )


def page_key(url: str) -> str:
    """What is equal for two addresses of one page.

    Scheme, "www.", fragment and query do not count (but for a query that names the page), nor
    percent-coding, underscores against spaces, or the case of the first letter.
    """
    parts = _split(url)
    name = _page_name(parts)
    host = parts.netloc.lower().removeprefix("www.")
    folder = _plain(parts.path).rstrip("/").removesuffix(name)
    return f"{host}{folder}{name[:1].upper()}{name[1:]}"


def _page_name(parts: SplitResult) -> str:
    """The last part of the path; all that follows /wiki/; or the page that the query names."""
    query = parse_qs(parts.query)
    for key in ("title", "curid"):  # MediaWiki: index.php?title=NAME, wiki?curid=NUMBER
        if key in query:
            return _plain(query[key][0])
    path = _plain(parts.path).rstrip("/")
    _, is_wiki, page = path.partition("/wiki/")
    return page if is_wiki else path.rpartition("/")[2]


def _split(url: str) -> SplitResult:
    """The parts of an address; one that is not well-formed is all path."""
    try:
        return urlsplit(url)
    except ValueError:
        return SplitResult(scheme="", netloc="", path=url, query="", fragment="")


def _plain(address: str) -> str:
    return percent_decode(address).replace("_", " ")


def words_of(text: str) -> list[str]:
    """The searchable words of a text, in order."""
    return _ANALYZER.analyze(_normal(text))


def _normal(text: str) -> str:
    """The text with every letter in one piece with its accents, and nothing but valid Unicode."""
    return unicodedata.normalize("NFKC", clean_text(text))


def build_index(passages: Iterable[Passage], folder: Path) -> IndexSummary:
    """Add to the index in `folder`, which may not exist yet, the passages that it does not have.

    All of them or, if anything goes wrong or the process dies, none. They are streamed: what is in
    memory is tantivy's buffer of 64 MB and one number per new passage.

    Raises: CorpusError if an index comes out that has no searchable word; ConfigError if the folder
        holds something else, or an index that cannot be read; TransientStorageError if another
        process is writing it, or storage fails.
    """
    if (folder / _META).is_file():
        return _add_passages(passages, folder)
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} holds no search index but something else; expected no folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as parent:
        unfinished = Path(parent) / folder.name
        (unfinished / _TANTIVY).mkdir(parents=True)
        tantivy.Index(_schema(), path=str(unfinished / _TANTIVY))
        _write_meta(unfinished, _VERSION, {0: 0})
        summary = _add_passages(passages, unfinished)
        if not _open(unfinished).searcher().terms_with_prefix(_WORDS, "", limit=1):
            raise CorpusError(f"no searchable word in {summary.num_passages} passages")
        with _storage(folder):
            unfinished.rename(folder)
    return summary


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field(_WORDS, tokenizer_name=_WORDS, index_option="freq")
    builder.add_text_field(_ORIGIN, tokenizer_name="raw", index_option="basic")
    builder.add_text_field(_KEY, tokenizer_name="raw", index_option="basic")
    builder.add_unsigned_field(_ORDER, fast=True)
    builder.add_bytes_field(_CONTENT, stored=True)
    return builder.build()


def _add_passages(passages: Iterable[Passage], folder: Path) -> IndexSummary:
    """Add the new ones to an index that is there.

    meta.json is written right before the commit and tells what the index holds without and with it,
    so that it is right wherever the process dies.
    """
    index = _open(folder)
    index.register_tokenizer(_WORDS, _ANALYZER)
    with _writing(index, folder) as writer:
        index.reload()  # what another process committed before the lock was ours
        num_passages, meta = index.searcher().num_docs, _read_meta(folder)
        total = _sum_of_keys(meta, num_passages, folder)
        keys = _add_new(passages, index, writer, folder)
        if keys:
            states = {num_passages: total, num_passages + len(keys): total + sum(keys)}
            _write_meta(folder, meta["tantivy"], states)
            with _storage(folder):
                writer.commit()
    return IndexSummary(
        num_passages=num_passages + len(keys),
        num_added=len(keys),
        num_bytes=sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()),
    )


@contextlib.contextmanager
def _writing(index: tantivy.Index, folder: Path) -> Iterator[tantivy.IndexWriter]:
    """The one writer of an index; what is not committed is gone afterwards."""
    with _storage(folder):
        writer = index.writer(_HEAP_BYTES, num_threads=1)
    try:
        yield writer
    finally:
        with _storage(folder):
            writer.wait_merging_threads()  # frees the lock too, which a traceback would keep


@contextlib.contextmanager
def _storage(folder: Path) -> Iterator[None]:
    """Raises: TransientStorageError for what tantivy and the file system raise."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise TransientStorageError(f"search index in {folder}: {error}; run again") from error


def _add_new(
    passages: Iterable[Passage], index: tantivy.Index, writer: tantivy.IndexWriter, folder: Path
) -> set[int]:
    """Hand the passages that the index does not have to the writer; their keys as numbers."""
    searcher, schema, added = index.searcher(), index.schema, set[int]()
    for passage in passages:
        content = json.dumps(dataclasses.asdict(passage), sort_keys=True).encode()
        key = hashlib.sha256(content).hexdigest()[:32]
        if int(key, 16) in added or searcher.doc_freq(_KEY, key):
            continue
        fields = {
            _WORDS: _normal(f"{passage.title} {passage.text}"),
            _ORIGIN: _origins(passage.document_id, passage.url),
            _KEY: key,
            _ORDER: int(key[:16], 16),
            _CONTENT: content,
        }
        with _storage(folder):
            writer.add_document(tantivy.Document.from_dict(fields, schema))
        added.add(int(key, 16))
    return added


def _origins(document_id: str, url: str | None) -> list[str]:
    """What passages of one document, or of one page, have in common."""
    of_document = [digest("document", document_id)] if document_id else []
    return of_document + ([digest("page", page_key(url))] if url else [])


class SearchIndex:
    """An index opened for reading; builds that come later do not change what it finds.

    `digest` identifies the set of passages, with the format and the versions of tantivy.
    """

    def __init__(self, folder: Path) -> None:
        """Raises: ConfigError if there is no index, or one of another format or damaged."""
        index = _open(folder)
        self._searcher, self._schema = index.searcher(), index.schema
        meta = _read_meta(folder)
        self.num_passages = self._searcher.num_docs
        total = _sum_of_keys(meta, self.num_passages, folder)
        self.digest = fingerprint(
            INDEX_FORMAT, meta["tantivy"], _VERSION, self.num_passages, str(total)
        )

    def search(self, query: str, *, limit: int, context: CallContext) -> list[Passage]:
        """The best passages for the words of the query, at most `limit`, best first.

        Those of the document or page that the context names are left out; those with no word of
        the query too. Equal scores are ordered by the digest of the passage.
        """
        hits = self._hits(self._query(query, context), limit)
        addresses = [address for _, address in hits]
        orders = self._searcher.fast_field_values(_ORDER, addresses)
        scores = [-score for score, _ in hits]
        ranked = sorted(zip(scores, orders, range(len(hits)), strict=True))
        return [self._passage(addresses[place]) for _, _, place in ranked[:limit]]

    def _query(self, text: str, context: CallContext) -> Query:
        """Any of the words, and nothing of where the call stands.

        The words stay in order: tantivy adds up their scores in it, and every sum is rounded.
        """
        words = list(dict.fromkeys(words_of(text)))[:MAX_QUERY_WORDS]
        wanted = [Query.term_query(self._schema, _WORDS, word, "freq") for word in words]
        own = _origins(context.document_id, context.url)
        unwanted = [Query.term_query(self._schema, _ORIGIN, origin, "basic") for origin in own]
        query = Query.boolean_query([(Occur.Should, term) for term in wanted])
        return query.and_must_not_match(*unwanted)

    def _hits(self, query: Query, limit: int) -> list[tuple[float, tantivy.DocAddress]]:
        """At least the best ones, and all that tie with the last of them."""
        num_wanted = limit + _SPARE_HITS
        while True:
            hits = self._searcher.search(query, num_wanted, count=False).hits
            if len(hits) < num_wanted or hits[-1][0] < hits[limit - 1][0]:
                return hits
            num_wanted *= 4

    def _passage(self, address: tantivy.DocAddress) -> Passage:
        """The passage as it was added."""
        return Passage(**json.loads(self._searcher.doc(address)[_CONTENT][0]))


def _open(folder: Path) -> tantivy.Index:
    """The tantivy index in the folder.

    Raises: ConfigError if there is none of this format, or it cannot be opened.
    """
    _read_meta(folder)
    try:
        return tantivy.Index.open(str(folder / _TANTIVY))
    except ValueError as error:
        raise _broken(folder, f"cannot be opened ({error})") from error


def _read_meta(folder: Path) -> dict[str, Any]:  # Any: read from JSON
    """What was written about the index.

    Raises: ConfigError if there is no index, or one of another format.
    """
    path = folder / _META
    if not path.is_file():
        raise ConfigError(f"no search index in {folder}; build it with toolformer index")
    try:
        meta: dict[str, Any] = json.loads(path.read_bytes())  # Any: read from JSON
    except ValueError as error:
        raise _broken(folder, f"has a damaged {_META}") from error
    if meta.get("format") != INDEX_FORMAT:
        raise _broken(folder, f"has format {meta.get('format')}, not {INDEX_FORMAT}")
    return meta


def _sum_of_keys(meta: Mapping[str, Any], num_passages: int, folder: Path) -> int:
    """What meta.json (Any: JSON) says of the index when it has so many passages.

    Raises: ConfigError if it says nothing.
    """
    total = meta["states"].get(str(num_passages))
    if total is None:
        raise _broken(folder, f"has {num_passages} passages, which {_META} does not know")
    return int(total, 16)


def _write_meta(folder: Path, made_by: str, sums: Mapping[int, int]) -> None:
    """Write, atomically, the sum of the keys by number of passages."""
    states = {str(count): f"{total % _SUM_MODULUS:x}" for count, total in sums.items()}
    unfinished = folder / f".{_META}.tmp"
    with _storage(folder), unfinished.open("w", encoding="ascii") as stream:
        json.dump({"format": INDEX_FORMAT, "tantivy": made_by, "states": states}, stream)
        stream.flush()
        os.fsync(stream.fileno())
        unfinished.replace(folder / _META)


def _broken(folder: Path, what: str) -> ConfigError:
    return ConfigError(
        f"search index in {folder} {what}; remove it and build it again with toolformer index"
    )
