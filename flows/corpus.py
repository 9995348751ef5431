"""Corpus: plain text C into shards of documents."""

from pathlib import Path

from prefect import flow

from tasks.corpus import corpus_is_intact, corpus_shards, earlier_documents
from tasks.output.manifests import publish_stage
from tasks.report.artifacts import report_stage
from tasks.running.assets import as_asset
from tasks.running.policies import TOOL_RUNNER, Location, run_one
from toolformer_core.config.pipeline import CorpusConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.corpus import corpus_digest
from toolformer_core.shards import shard_folder


@flow(name="corpus", flow_run_name="corpus", task_runner=TOOL_RUNNER)
def corpus(config: CorpusConfig, runtime: Runtime, *, add: bool = False) -> list[Path]:
    """Manifests of the documents and of the quarantined rows.

    With `add` the documents of the folder's last run come first, as they are.
    """
    earlier = earlier_documents(config, runtime) if add else []
    identity = corpus_digest(config, earlier)
    folder = shard_folder(runtime.shard_root, "corpus", "all", identity)
    shards, is_cached = run_one(
        corpus_shards,
        {
            "config": config,
            "content_digest": identity,
            "earlier": earlier,
            "location": Location(folder=folder, runtime=runtime),
        },
        runtime=runtime,
        name="corpus-all-00000",
        is_intact=corpus_is_intact,
    )
    kept = {ref.path for ref in earlier}
    parts = {"corpus": shards.documents, "quarantine": (shards.quarantine,)}
    manifests = [
        as_asset(publish_stage, stage, runtime.root)(
            stage,
            "all",
            identity,
            refs,
            len(refs) if is_cached else sum(ref.path in kept for ref in refs),
            {"config": config, "inputs": []},
            runtime.root,
        )
        for stage, refs in parts.items()
    ]
    report_stage("corpus", manifests)
    return manifests
