"""Corpus: sources in, shards of documents and one of quarantined rows out."""

from pathlib import Path

from tasks._policies import shard_task
from toolformer_core.config import CorpusConfig
from toolformer_core.corpus import STAGE_VERSION, CorpusShards, write_corpus
from toolformer_core.shards import is_intact


@shard_task("corpus", STAGE_VERSION)
def corpus_shards(config: CorpusConfig, content_digest: str, folder: Path) -> CorpusShards:
    """Read all sources; `content_digest` stands for what they hold."""
    return write_corpus(config, folder)


def corpus_is_intact(shards: CorpusShards) -> bool:
    """Whether all files of the corpus are there."""
    return all(is_intact(ref) for ref in (*shards.documents, shards.quarantine))
