"""What a folder knows of a call: the model, its C*, and the calls and texts that taught it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from tasks.publish import MODEL_FILE, made_from, read_json, read_run
from tasks.register import registration
from toolformer_core.config import PipelineConfig, Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.model_card import public_name
from toolformer_core.models import ModelRef, folder_digest
from toolformer_core.notation import ParsedCall
from toolformer_core.overrides import parse_config
from toolformer_core.records import (
    AugmentedDocument,
    Document,
    EvaluatedItem,
    ExecutedCall,
    FilterDecision,
    ScoredCall,
)
from toolformer_core.shards import read_manifest, read_shard
from toolformer_core.trace import Records, nearest_calls, training_calls

Facts = dict[str, Any]  # Any: anything JSON can hold
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentedCorpus:
    """C* behind a manifest, with the folder and the settings of the run that made it."""

    manifest: Path
    root: Path
    config: PipelineConfig
    documents: tuple[AugmentedDocument, ...]

    def rows(self, stage: str, record_type: type[Record]) -> Iterator[Record]:
        """Records of a stage that C* was made from."""
        folder = self.manifest.parent.relative_to(self.root).as_posix()
        folders = [name for name in made_from([folder], self.root) if name.startswith(f"{stage}/")]
        manifests = (self.root / name / "manifest.json" for name in sorted(folders))
        stages = [read_manifest(path) for path in manifests if path.is_file()]
        # Of documents that came night by night, later manifests name the earlier shards again.
        for shard in {shard.path: shard for ref in stages for shard in ref.shards}.values():
            yield from read_shard(shard, record_type)


def trace_call(root: Path, call: ParsedCall, limit: int, runtime: Runtime) -> Facts:
    """Model and C* of a folder, and the calls in C* that are most like this one."""
    asked = {"tool": call.tool, "argument": call.argument}
    return _traced(*_model_and_corpus(root, runtime), [asked], limit)


def trace_item(root: Path, benchmark: str, item_id: str, limit: int, runtime: Runtime) -> Facts:
    """As trace_call, for all calls that the tuned model made on an item of a benchmark.

    Raises: ConfigError if the folder has no tuned model, or that was not asked.
    """
    found = _model_and_corpus(root, runtime)
    if found[0] is None:
        raise ConfigError(f"--item {benchmark}:{item_id}: {root} has no tuned model; pass --call")
    item = _evaluated(root, benchmark, item_id, found[0])
    shown = ("benchmark", "item_id", "prompt", "completion", "gold", "score")
    facts = {name: getattr(item, name) for name in shown}
    return {"item": facts, **_traced(*found, [asdict(call) for call in item.calls], limit)}


def trace_document(root: Path, document_id: str, runtime: Runtime) -> Facts:
    """Model and C* of a folder, and the calls in C* that stand in a document.

    Raises: ConfigError if the folder's corpus has no such document.
    """
    model, corpus = _model_and_corpus(root, runtime)
    found = [one for one in corpus.documents if one.document_id == document_id]
    texts = (one for one in corpus.rows("corpus", Document) if one.document_id == document_id)
    text = next(texts, None)
    if text is None:
        raise ConfigError(
            f"--document {document_id}: not in the corpus of {corpus.root}; expected a document_id "
            f"as in toolformer calls --out {corpus.root} --sql 'SELECT document_id FROM documents'"
        )
    calls = [asdict(call) for call in training_calls(found, _records(corpus), corpus.config)]
    traced = {"document": document_id, "in_augmented": bool(found), "calls": calls}
    return {"model": model, "augmented": _facts_of_corpus(corpus), "traces": [traced]}


def _traced(
    model: Facts | None, corpus: AugmentedCorpus, asked: Sequence[Facts], limit: int
) -> Facts:
    traces = [{**call, **_nearest(call, corpus, limit)} for call in asked]
    return {"model": model, "augmented": _facts_of_corpus(corpus), "traces": traces}


def _nearest(call: Mapping[str, Any], corpus: AugmentedCorpus, limit: int) -> Facts:
    found = nearest_calls(call["tool"], call["argument"], corpus.documents, limit)
    documents = list({document.document_id: document for _, document, _ in found}.values())
    known = {
        one.candidate_id: one for one in training_calls(documents, _records(corpus), corpus.config)
    }
    return {
        "in_augmented": bool(found) and found[0][0] == 1.0,
        "calls": [
            {"similarity": round(similarity, 3), **asdict(known[span.candidate_id])}
            for similarity, _, span in found
        ],
    }


def _records(corpus: AugmentedCorpus) -> Records:
    return Records(
        documents=corpus.rows("corpus", Document),
        executed=corpus.rows("execute", ExecutedCall),
        scored=corpus.rows("score", ScoredCall),
        decisions=corpus.rows("filter", FilterDecision),
    )


def _model_and_corpus(root: Path, runtime: Runtime) -> tuple[Facts | None, AugmentedCorpus]:
    """What is known of ROOT/model, None where there is none; and the C* of it, or of the run.

    Raises: ConfigError if the folder holds no run, or C* has gone.
    """
    content, manifests = read_run(root)
    described = root / "model" / MODEL_FILE
    if not described.is_file():
        made = [path for path in manifests if path.relative_to(root).parts[0] == "augment"]
        if not made:
            raise ConfigError(f"{root} has no C* yet; run toolformer annotate to its end")
        return None, _augmented_corpus(made[0])
    about = read_json(described, "run again, which writes it")
    if "augmented" not in about:
        raise ConfigError(
            f"{described} does not say what the model was tuned on: an older version wrote it; run "
            "again, which writes it anew"
        )
    corpus = _augmented_corpus(root / about["augmented"])
    folder = (root / "model").resolve()
    reference = ModelRef(
        path=str(folder), digest=folder_digest(folder, about["dtype"]), dtype=about["dtype"]
    )
    facts = {
        "folder": str(folder),
        "digest": reference.digest,
        "base_model": public_name(parse_config(content).model.name_or_path),
        "settings": about["fingerprint"],
        "call_top_k": about["decode"]["call_top_k"],
        **registration(reference, runtime),
    }
    return facts, corpus


def _augmented_corpus(manifest: Path) -> AugmentedCorpus:
    manifest = manifest.resolve()
    root = manifest.parents[3]  # it lies in ROOT/augment/all/FINGERPRINT
    if not manifest.is_file():
        raise ConfigError(
            f"C* has gone: no {manifest}; restore it, or annotate with the same settings again"
        )
    shards = read_manifest(manifest).shards
    return AugmentedCorpus(
        manifest=manifest,
        root=root,
        config=parse_config(read_run(root)[0]),
        documents=tuple(row for shard in shards for row in read_shard(shard, AugmentedDocument)),
    )


def _facts_of_corpus(corpus: AugmentedCorpus) -> Facts:
    return {
        "folder": str(corpus.manifest.parent),
        "digest": read_manifest(corpus.manifest).digest,
        "documents": len(corpus.documents),
        "calls": sum(len(document.calls) for document in corpus.documents),
        "git_commit": read_json(corpus.manifest, "run again").get("git_commit"),
    }


def _evaluated(root: Path, benchmark: str, item_id: str, model: Facts) -> EvaluatedItem:
    """The item as the model answered it with its tools, at its own k if it was asked with several.

    The folder's last run may have been an annotation, whose record names no answers: all that the
    folder holds are looked at, the newest first.
    """
    manifests = sorted(root.glob("evaluate/*/*/manifest.json"), key=lambda m: -m.stat().st_mtime)
    items = [
        item
        for manifest in manifests
        for shard in read_manifest(manifest).shards
        for item in read_shard(shard, EvaluatedItem)
        if (item.benchmark, item.arm, item.model) == (benchmark, "on", model["digest"])
    ]
    found = [item for item in items if item.item_id == item_id]
    if not found:
        ids = ", ".join(item.item_id for item in items[:3])
        known = f"it has {ids} ..." if ids else "arm on has no items of it"
        raise ConfigError(f"--item {benchmark}:{item_id}: not evaluated in {root}; {known}")
    return min(found, key=lambda item: item.call_top_k != model["call_top_k"])
