"""Stage 0: the corpus C as documents (paper, section 4.1: a subset of CCNet).

Rows of all sources are cut into passages; each passage is a document unless it is too short or
was seen before. Counts, which add up exactly:

    rows = texts + quarantined:REASON (summed), where every text gives one passage or more
    passages = documents + too_short + duplicate + not_sampled

not_sampled is there only with a sample seed: without one, reading stops at max_documents and what
follows is neither read nor counted. Texts are not counted: rows less quarantined ones. A damaged
file counts as one quarantined row more.

A corpus may grow: documents that earlier shards hold stay in them, also those that are no longer in
the sources, and only new ones are written, so that nothing is annotated twice. max_documents then
bounds the new ones of each source, and the counts are

    passages = new + earlier + too_short + duplicate + not_sampled

where earlier are documents read that stay where they are; the shards' documents are those of all
times. A pattern of files that matches none, or a source without documents, is then no error.

Left out: language identification, quality filters, near duplicates; the paper takes the CCNet text,
where they are done.
"""

import heapq
import logging
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from toolformer_core.config.pipeline import CorpusConfig
from toolformer_core.errors import ConfigError, CorpusError, NoFileMatchesError
from toolformer_core.fingerprint import fingerprint
from toolformer_core.readers.passages import cut_passages
from toolformer_core.readers.rows import TextRow
from toolformer_core.readers.source import Source, open_source
from toolformer_core.records import Document, QuarantinedRow, digest
from toolformer_core.shards import ShardRef, read_shard, write_shard

STAGE_VERSION = 2

# Choice: more bad rows than this are counted but not stored, so that a corpus of nothing but bad
# rows cannot fill the memory.
MAX_STORED_QUARANTINED = 10_000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class CorpusShards:
    """The written corpus; `quarantine` carries all counts but "documents"."""

    documents: tuple[ShardRef, ...]
    quarantine: ShardRef


def read_corpus(
    config: CorpusConfig, counts: Counter[str] | None = None, known: Set[str] | None = None
) -> Iterator[Document | QuarantinedRow]:
    """Documents and quarantined rows of all sources, streamed; counts are added while reading.

    The sources are looked up at once, before anything is read. `known`: the document ids of a
    corpus that grows; they are counted, and left out. None: a corpus begins.

    Raises: ConfigError if a source names nothing; CorpusError, at the end, if no document came to
        a corpus that begins.
    """
    tally: Counter[str] = Counter() if counts is None else counts
    sources = _open_sources(config, grows=known is not None)
    return _read_sources(sources, config, tally, known)


def write_corpus(
    config: CorpusConfig, folder: Path | str, earlier: Sequence[ShardRef] = ()
) -> CorpusShards:
    """Write part-00000.parquet and so on, then quarantine.parquet, one shard in memory at a time.

    Earlier shards come first, as they are; behind them shards of the documents that none of them
    holds, numbered on.

    Raises: ConfigError and CorpusError as read_corpus, before any file is written;
        ShardIntegrityError if an earlier shard cannot be read.
    """
    counts: Counter[str] = Counter()
    batch: list[Document] = []
    quarantined: list[QuarantinedRow] = []
    shards = list(earlier)
    known = {d.document_id for ref in earlier for d in read_shard(ref, Document)}
    for item in read_corpus(config, counts, known if earlier else None):
        if isinstance(item, QuarantinedRow):
            if len(quarantined) < MAX_STORED_QUARANTINED:
                quarantined.append(item)
        else:
            batch.append(item)
        if len(batch) == config.documents_per_shard:
            shards.append(_write_documents(batch, folder, len(shards)))
            batch = []
    if batch:
        shards.append(_write_documents(batch, folder, len(shards)))
    logger.info("corpus: %s", dict(counts))
    num_new = counts.pop("documents", 0)  # counted on the shards of documents
    if earlier:
        counts["new"] = num_new
    quarantine = write_shard(
        quarantined, QuarantinedRow, f"{folder}/quarantine.parquet", shard_index=0, counts=counts
    )
    return CorpusShards(documents=tuple(shards), quarantine=quarantine)


def corpus_digest(config: CorpusConfig, earlier: Sequence[ShardRef] = ()) -> str:
    """Identity of the settings, of what the sources hold now and of the earlier shards.

    16 hexadecimal characters.

    Raises: ConfigError if a source names nothing.
    """
    sources = [source.identity() for source in _open_sources(config, grows=bool(earlier))]
    return fingerprint(config, sources, *([list(earlier)] if earlier else []))


def _open_sources(config: CorpusConfig, *, grows: bool) -> list[Source]:
    """The sources; of a corpus that grows, patterns that match no file today are left out."""
    if not config.sources:
        raise ConfigError(
            "corpus.sources is empty; expected at least one path, glob, URL, hf:NAME/CONFIG:SPLIT, "
            "package://PACKAGE/FILE, reasoning-gym:TASK or one-step:"
        )
    sources = []
    for name in config.sources:
        try:
            sources.append(open_source(name))
        except NoFileMatchesError:
            if not grows:
                raise
    return sources


def _read_sources(
    sources: list[Source], config: CorpusConfig, counts: Counter[str], known: Set[str] | None
) -> Iterator[Document | QuarantinedRow]:
    seen: set[str] = set()
    for source in sources:
        items = _new_documents(source, config, counts, seen, known or frozenset())
        if config.max_documents is not None and config.sample_seed is not None:
            items = _sample(items, config.max_documents, config.sample_seed, counts)
        else:
            items = _first(items, config.max_documents)
        for item in items:
            counts["documents"] += isinstance(item, Document)
            yield item
    if not counts["documents"] and known is None:
        raise CorpusError(_diagnosis(config, counts))


def _new_documents(
    source: Source,
    config: CorpusConfig,
    counts: Counter[str],
    seen: set[str],
    known: Set[str],
) -> Iterator[Document | QuarantinedRow]:
    """The quarantined rows and the passages long enough, not `seen` before and not `known`."""
    for row in source.rows(config.max_row_bytes):
        counts["rows"] += 1
        if isinstance(row, QuarantinedRow):
            counts[f"quarantined:{row.reason}"] += 1
            yield row
            continue
        for passage in cut_passages(row.text, config.max_document_chars):
            document = _document(passage, row)
            counts["passages"] += 1
            if len(passage) < config.min_document_chars:
                counts["too_short"] += 1
            elif document.document_id in seen:
                counts["duplicate"] += 1
            else:
                seen.add(document.document_id)
                if document.document_id in known:
                    counts["earlier"] += 1
                else:
                    yield document


def _document(passage: str, row: TextRow) -> Document:
    return Document(
        document_id=digest(passage, row.url, row.date),
        text=passage,
        url=row.url,
        date=row.date,
        source=row.source,
    )


def _first(
    items: Iterator[Document | QuarantinedRow], max_documents: int | None
) -> Iterator[Document | QuarantinedRow]:
    """The items up to the document of that number; none: all."""
    num_documents = 0
    for item in items:
        yield item
        num_documents += isinstance(item, Document)
        if num_documents == max_documents:
            return


def _sample(
    items: Iterator[Document | QuarantinedRow],
    max_documents: int,
    seed: int,
    counts: Counter[str],
) -> Iterator[Document | QuarantinedRow]:
    """All quarantined rows, then a uniform sample of the documents in their original order.

    The sample is the documents with the smallest digest(seed, document_id), so it does not depend
    on their order.
    """
    kept: list[tuple[int, int, Document]] = []  # a heap, largest digest first
    for order, item in enumerate(items):
        if isinstance(item, QuarantinedRow):
            yield item
            continue
        entry = (-int(digest(seed, item.document_id), 16), order, item)
        if len(kept) < max_documents:
            heapq.heappush(kept, entry)
        else:
            heapq.heappushpop(kept, entry)
            counts["not_sampled"] += 1
    for _, _, document in sorted(kept, key=lambda entry: entry[1]):
        yield document


def _write_documents(batch: list[Document], folder: Path | str, shard_index: int) -> ShardRef:
    return write_shard(
        batch,
        Document,
        f"{folder}/part-{shard_index:05d}.parquet",
        shard_index=shard_index,
        counts={"documents": len(batch)},
    )


def _diagnosis(config: CorpusConfig, counts: Counter[str]) -> str:
    """Why there is no document, and what to do."""
    prefix = "quarantined:"
    reasons = {k.removeprefix(prefix): n for k, n in counts.items() if k.startswith(prefix)}
    listed = ", ".join(f"{reason} {count}" for reason, count in sorted(reasons.items()))
    found = [f"{sum(reasons.values())} rows quarantined ({listed})"] if reasons else []
    if counts["too_short"]:
        found.append(
            f"{counts['too_short']} passages shorter than min_document_chars "
            f"{config.min_document_chars} (lower it to use them)"
        )
    return (
        f"corpus {', '.join(config.sources)} holds no usable document: "
        f"{'; '.join(found) or 'no rows'}; expected rows with a field 'text'"
    )
