"""Corpus: sources in, shards of documents and one of quarantined rows out."""

from tasks.output.record import read_run
from tasks.running.policies import Location, shard_task
from toolformer_core.config.pipeline import CorpusConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.corpus import STAGE_VERSION, CorpusShards, write_corpus
from toolformer_core.errors import ConfigError
from toolformer_core.shards import ShardRef, is_intact, read_manifest, relocated


@shard_task("corpus", STAGE_VERSION)
def corpus_shards(
    config: CorpusConfig, content_digest: str, earlier: list[ShardRef], location: Location
) -> CorpusShards:
    """Read all sources; `content_digest` stands for what they hold."""
    return write_corpus(config, location.folder, earlier)


def earlier_documents(config: CorpusConfig, runtime: Runtime) -> list[ShardRef]:
    """The shards of documents of the run in the root; none before its first run is through.

    Raises: ConfigError if that run cut its texts otherwise, so that they would come twice, or if
        one of its shards has gone: documents are never lost in silence.
    """
    run = read_run(runtime.root)
    stages = [read_manifest(manifest) for manifest in run.manifests]
    shards = [shard for ref in stages if ref.stage == "corpus" for shard in ref.shards]
    cut = run.settings["corpus"]["max_document_chars"]
    if shards and cut != config.max_document_chars:
        raise ConfigError(
            f"corpus.max_document_chars was {cut} in {runtime.root}, now "
            f"{config.max_document_chars}: its texts would be annotated again in other pieces; set "
            f"it to {cut}, or pass another --out"
        )
    found = [relocated(shard, runtime.shard_root) for shard in shards]
    for shard in found:
        if not is_intact(shard):
            raise ConfigError(
                f"documents of earlier nights are gone: no shard of {shard.num_rows} rows at "
                f"{shard.path}, nor below {runtime.shard_root}; restore it, or annotate without "
                "--add what the sources hold now"
            )
    return found


def corpus_is_intact(shards: CorpusShards) -> bool:
    """Whether all files of the corpus are there."""
    return all(is_intact(ref) for ref in (*shards.documents, shards.quarantine))
