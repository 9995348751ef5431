"""Corpus: sources in, shards of documents and one of quarantined rows out."""

from dataclasses import replace
from pathlib import Path

from tasks._policies import shard_task
from tasks.publish import read_run
from toolformer_core.config import CorpusConfig
from toolformer_core.corpus import STAGE_VERSION, CorpusShards, write_corpus
from toolformer_core.errors import ConfigError
from toolformer_core.shards import ShardRef, is_intact, read_manifest, stage_folder


@shard_task("corpus", STAGE_VERSION)
def corpus_shards(
    config: CorpusConfig, content_digest: str, earlier: list[ShardRef], folder: Path
) -> CorpusShards:
    """Read all sources; `content_digest` stands for what they hold."""
    return write_corpus(config, folder, earlier)


def earlier_documents(config: CorpusConfig, root: Path) -> list[ShardRef]:
    """The shards of documents of the run that a folder holds; none before its first run is through.

    Raises: ConfigError if that run cut its texts otherwise, so that they would come twice, or if
        one of its shards has gone: documents are never lost in silence.
    """
    content, manifests = read_run(root)
    stages = [read_manifest(manifest) for manifest in manifests]
    shards = [shard for ref in stages if ref.stage == "corpus" for shard in ref.shards]
    cut = content["corpus"]["max_document_chars"]
    if shards and cut != config.max_document_chars:
        raise ConfigError(
            f"corpus.max_document_chars was {cut} in {root}, now {config.max_document_chars}: its "
            f"texts would be annotated again in other pieces; set it to {cut}, or pass another "
            "--out"
        )
    return [_found(shard, root) for shard in shards]


def _found(shard: ShardRef, root: Path) -> ShardRef:
    """The shard where it lies now: its path is absolute, and the folder may have been moved.

    Raises: ConfigError if it lies nowhere, or is not whole.
    """
    fingerprint, name = Path(shard.path).parts[-2:]
    moved = stage_folder(root, "corpus", "all", fingerprint) / name
    for place in (shard, replace(shard, path=str(moved))):
        if is_intact(place):
            return place
    raise ConfigError(
        f"documents of earlier nights are gone: no shard of {shard.num_rows} rows at {moved}; "
        "restore it, or annotate without --add what the sources hold now"
    )


def corpus_is_intact(shards: CorpusShards) -> bool:
    """Whether all files of the corpus are there."""
    return all(is_intact(ref) for ref in (*shards.documents, shards.quarantine))
