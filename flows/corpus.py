"""Corpus: plain text C into shards of documents."""

from pathlib import Path

from prefect import flow

from tasks._policies import TOOL_RUNNER, run_one
from tasks.corpus import corpus_is_intact, corpus_shards
from tasks.publish import publish_stage
from tasks.report import report_stage
from toolformer_core.config import CorpusConfig, Runtime
from toolformer_core.corpus import corpus_digest
from toolformer_core.shards import stage_folder


@flow(name="corpus", flow_run_name="corpus", task_runner=TOOL_RUNNER)
def corpus(config: CorpusConfig, runtime: Runtime) -> list[Path]:
    """Manifests of the documents and of the quarantined rows."""
    identity = corpus_digest(config)
    folder = stage_folder(runtime.root, "corpus", "all", identity)
    shards, is_cached = run_one(
        corpus_shards,
        {"config": config, "content_digest": identity, "folder": folder},
        root=runtime.root,
        name="corpus-all-00000",
        is_intact=corpus_is_intact,
    )
    parts = {"corpus": shards.documents, "quarantine": (shards.quarantine,)}
    manifests = [
        publish_stage(
            stage,
            "all",
            identity,
            refs,
            len(refs) if is_cached else 0,
            {"config": config},
            runtime.root,
        )
        for stage, refs in parts.items()
    ]
    report_stage("corpus", manifests)
    return manifests
