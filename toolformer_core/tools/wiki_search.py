"""WikiSearch: the best passage of a collection for a query, as "Title > text" (paper, section 2).

    score(query, passage) = BM25 over title and text, k1 = 1.5, b = 0.75 (Lucene's variant)

Choice: k1, b, the length of the snippet and the number of results (one) are not in the paper.
Departs: a passage of the document that the call stands in is never returned; else the search would
read out the very text that is scored. The query is matched by words, without stemming.

The index is a folder: the arrays of bm25s, passages.jsonl with where each line starts, and
meta.json with the digest of the passages. It is memory-mapped, so that processes share it.
"""

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit
from urllib.parse import unquote as percent_decode

import bm25s
import numpy as np

from toolformer_core.errors import ConfigError, CorpusError
from toolformer_core.notation import unquote
from toolformer_core.records import Document
from toolformer_core.tools.base import CallContext, load_prompt

INDEX_FORMAT = 1

_PASSAGES, _STARTS, _META = "passages.jsonl", "starts.npy", "meta.json"
_STOPWORDS = "english"

_SENTENCE_ENDS = ("", ".", "!", "?", ":", "\n")
_SMALL_WORDS = re.compile(r"[ \t]*(?:(?:the|a|an|of|in|on|at|by|to|from) )*[\"(]?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One text that can be found."""

    title: str
    url: str | None
    document_id: str
    text: str


def passage_of(document: Document) -> Passage:
    """The document as a passage; its title is the page that its url names, else its source."""
    page = _page_name(_split(document.url)) if document.url else ""
    return Passage(
        title=page or document.source,
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


def build_index(passages: Iterable[Passage], folder: Path) -> None:
    """Write the search index of the passages to `folder`, complete or not at all.

    An index that is already there is replaced. The texts are held in memory meanwhile.
    Raises: CorpusError if no passage has a searchable word.
    """
    unfinished = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    replaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        _write_index(passages, unfinished)
        if folder.exists():
            folder.rename(replaced)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.rmtree(replaced, ignore_errors=True)


def _write_index(passages: Iterable[Passage], folder: Path) -> None:
    """Write all files of an index; meta.json is the last one."""
    hasher, starts, texts = hashlib.sha256(), [0], []
    with (folder / _PASSAGES).open("wb") as stream:
        for passage in passages:
            line = json.dumps(dataclasses.asdict(passage), sort_keys=True).encode() + b"\n"
            stream.write(line)
            hasher.update(line)
            starts.append(starts[-1] + len(line))
            texts.append(f"{passage.title} {passage.text}")
    tokens = bm25s.tokenize(texts, stopwords=_STOPWORDS, show_progress=False)
    if not tokens.vocab:
        raise CorpusError(f"no searchable word in {len(texts)} passages for WikiSearch")
    retriever = bm25s.BM25(backend="numpy")
    retriever.index(tokens, show_progress=False)
    retriever.save(folder, show_progress=False)
    np.save(folder / _STARTS, np.array(starts, dtype=np.int64))
    meta = {
        "format": INDEX_FORMAT,
        "digest": hasher.hexdigest()[:16],
        "num_passages": len(texts),
        "bm25s": bm25s.__version__,
    }
    (folder / _META).write_text(json.dumps(meta, sort_keys=True), encoding="utf-8")


class WikiSearch:
    """Looks up the best passage of an index."""

    name = "WikiSearch"
    description = "Searches an encyclopedia; answers with a title and the start of a passage."
    takes_argument = True

    def __init__(self, folder: Path, max_snippet_chars: int) -> None:
        meta = _read_meta(folder)
        self.prompt = load_prompt("wiki_search")
        self.version = f"1-{meta['digest']}-{max_snippet_chars}"
        self._max_snippet_chars = max_snippet_chars
        self._retriever = bm25s.BM25.load(folder, mmap=True)
        self._starts = np.load(folder / _STARTS, mmap_mode="r")
        self._lines = np.memmap(folder / _PASSAGES, dtype=np.uint8, mode="r")

    def call(self, argument: str, context: CallContext) -> str:
        """The best passage of another document as "Title > text", or nothing if no word matches."""
        passage = self._best_passage(unquote(argument), context)
        if passage is None:
            return ""
        return f"{passage.title} > {cut_at_word(passage.text, self._max_snippet_chars)}"

    def _best_passage(self, query: str, context: CallContext) -> Passage | None:
        words = bm25s.tokenize(query, stopwords=_STOPWORDS, return_ids=False, show_progress=False)
        known = self._retriever.get_tokens_ids(words[0])
        if not known:
            return None
        own_page = page_key(context.url) if context.url else None
        scores = self._retriever.get_scores(known)
        while scores[best := int(scores.argmax())] > 0:  # the first of equal ones
            passage = self._passage(best)
            is_own_page = passage.url is not None and page_key(passage.url) == own_page
            if not is_own_page and passage.document_id != context.document_id:
                return passage
            scores[best] = 0
        return None

    def _passage(self, index: int) -> Passage:
        line = self._lines[self._starts[index] : self._starts[index + 1]].tobytes()
        return Passage(**json.loads(line))

    def can_help_at(self, before: str, after: str, context: CallContext) -> bool:
        """Whether a sentence has begun and a name or a number comes next."""
        has_begun = before.rstrip(" \"')")[-1:] not in _SENTENCE_ENDS
        small_words = _SMALL_WORDS.match(after)
        first = after[small_words.end() :][:1] if small_words else ""
        return has_begun and (first.isupper() or first.isdigit())

    def is_right(self, result: str, after: str) -> bool | None:
        """None: no rule tells whether a passage is what the text needs."""
        return None


def cut_at_word(text: str, max_chars: int) -> str:
    """The start of the text on one line, at most max_chars long, ending with a whole word."""
    line = " ".join(text.split())
    if len(line) <= max_chars:
        return line
    head, space, _ = line[: max_chars + 1].rpartition(" ")
    return head if space else line[:max_chars]


def _read_meta(folder: Path) -> dict[str, Any]:  # Any: read from JSON
    """What was written about the index.

    Raises: ConfigError if there is no index, or one of another format.
    """
    cure = f"build it with build_index(passages, {str(folder)!r})"
    path = folder / _META
    if not path.is_file():
        raise ConfigError(f"no search index for WikiSearch in {folder}; {cure}")
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))  # Any: read from JSON
    if meta["format"] != INDEX_FORMAT:
        raise ConfigError(
            f"search index in {folder} has format {meta['format']}, not {INDEX_FORMAT}; {cure}"
        )
    return meta
