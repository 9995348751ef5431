"""Calibrate: a sample of the corpus, and the settings of each tool from it."""

import heapq
import logging
from collections import Counter
from pathlib import Path

from tasks.loaded_models import AnnotatorRef, get_annotator
from tasks.loaded_tools import ToolRef, get_caller
from tasks.running.policies import effect_task
from toolformer_core.calibration.calibrate import NotCalibrated, ToolCalibration, calibrate_tool
from toolformer_core.calibration.trials import Annotator
from toolformer_core.config.pipeline import CorpusConfig, PipelineConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.corpus import read_corpus
from toolformer_core.fingerprint import fingerprint
from toolformer_core.models import ModelRef
from toolformer_core.progress import tracked
from toolformer_core.records import Document, digest
from toolformer_core.shards import ShardRef, read_shard, write_shard

logger = logging.getLogger(__name__)


@effect_task
def draw_documents(
    config: CorpusConfig, num_documents: int, seed: int, folder: Path
) -> tuple[ShardRef, int]:
    """A uniform sample of the corpus in random order, and how many documents the corpus has."""
    counts = Counter[str]()
    documents = (row for row in read_corpus(config, counts) if isinstance(row, Document))
    drawn = heapq.nsmallest(
        num_documents, documents, key=lambda document: digest(seed, document.document_id)
    )
    path = folder / f"{fingerprint(config, num_documents, seed)}.parquet"
    return write_shard(drawn, Document, path, shard_index=0, counts={}), counts["documents"]


@effect_task
def calibrate_documents(
    documents: ShardRef,
    tool: ToolRef,
    model: ModelRef,
    config: PipelineConfig,
    target: float,
    runtime: Runtime,
) -> ToolCalibration | NotCalibrated:
    """Settings of one tool, from the documents."""
    own = config.of_tool(tool.name)
    annotator = Annotator(
        lm=get_annotator(AnnotatorRef(model=model, proposer=config.proposer), runtime),
        caller=get_caller(tool, config.execute, runtime.tool_calls),
        sample=own.sample,
        score=own.score,
        documents_per_shard=config.corpus.documents_per_shard,
        progress=lambda items, what: tracked(items, f"calibrate-{tool.name}-{what}", unit="shard"),
    )
    texts = read_shard(documents, Document)
    logger.info("calibrate-%-10s %d documents, of which half decide", tool.name, len(texts))
    return calibrate_tool(texts, annotator, target=target, lowest_threshold=own.prune_below)
