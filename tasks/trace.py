"""What a folder knows of a call: the model, its C*, and the calls and texts that taught it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from tasks.output.json_file import read_json, read_origin
from tasks.output.manifests import made_from
from tasks.output.model_folder import MODEL_FILE
from tasks.output.record import read_run
from tasks.tracking.register import registration
from toolformer_core.config.pipeline import DecodeConfig
from toolformer_core.config.runtime import Runtime
from toolformer_core.errors import ConfigError
from toolformer_core.models import ModelRef, folder_digest
from toolformer_core.notation import ParsedCall
from toolformer_core.provenance.model_card import public_name
from toolformer_core.provenance.trace import (
    Records,
    TrainingCall,
    licence_of,
    nearest_calls,
    training_calls,
)
from toolformer_core.records import (
    AugmentedDocument,
    Document,
    EvaluatedItem,
    ExecutedCall,
    FilterDecision,
    ScoredCall,
)
from toolformer_core.shards import read_manifest, read_shard

Facts = dict[str, Any]  # Any: anything JSON can hold
Record = TypeVar("Record")


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentedCorpus:
    """C* behind a manifest, with the folder of the run that made it."""

    manifest: Path
    root: Path
    documents: tuple[AugmentedDocument, ...]

    def manifests(self, stage: str) -> list[Path]:
        """Manifests of a stage that C* was made from."""
        folder = self.manifest.parent.relative_to(self.root).as_posix()
        folders = [name for name in made_from([folder], self.root) if name.startswith(f"{stage}/")]
        paths = (self.root / name / "manifest.json" for name in sorted(folders))
        return [path for path in paths if path.is_file()]

    def licences(self) -> dict[str, str]:
        """The licences of the texts, by source.

        The sources are those that C* was made from; what their licences are, the folder's last
        settings say.
        """
        sources = {
            name
            for path in self.manifests("corpus")
            for name in read_json(path, "run again, which writes it")["config"]["sources"]
        }
        stated = {entry.source: entry.licence for entry in read_run(self.root).config.licences}
        found = {document.source for document in self.documents}
        return {source: licence_of(source, sources, stated) for source in found}

    def rows(self, stage: str, record_type: type[Record]) -> Iterator[Record]:
        """Records of a stage that C* was made from."""
        stages = map(read_manifest, self.manifests(stage))
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
    calls = [asdict(call) for call in _taught(found, corpus)]
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
    known = {one.candidate_id: one for one in _taught(documents, corpus)}
    return {
        "in_augmented": bool(found) and found[0][0] == 1.0,
        "calls": [
            {"similarity": round(similarity, 3), **asdict(known[span.candidate_id])}
            for similarity, _, span in found
        ],
    }


def _taught(documents: Sequence[AugmentedDocument], corpus: AugmentedCorpus) -> list[TrainingCall]:
    """All calls in some documents of C*.

    Raises: ConfigError if a stage that C* was made from cannot be found.
    """
    records = Records(
        documents=corpus.rows("corpus", Document),
        executed=corpus.rows("execute", ExecutedCall),
        scored=corpus.rows("score", ScoredCall),
        decisions=corpus.rows("filter", FilterDecision),
    )
    try:
        return training_calls(documents, records, corpus.licences())
    except KeyError as error:
        raise ConfigError(
            f"{corpus.manifest} leads to no record of {error.args[0]}, which is in it: a stage "
            "that it was made from has gone, or an older version wrote its manifest; annotate "
            "again with the same settings, which takes what is there from the cache"
        ) from error


def _model_and_corpus(root: Path, runtime: Runtime) -> tuple[Facts | None, AugmentedCorpus]:
    """What is known of ROOT/model, None where there is none; and the C* of it, or of the run.

    Raises: ConfigError if the folder holds no run, or C* has gone.
    """
    manifests = read_run(root).manifests
    described = root / "model" / MODEL_FILE
    if not described.is_file():
        made = [path for path in manifests if path.relative_to(root).parts[0] == "augment"]
        if not made:
            raise ConfigError(f"{root} has no C* yet; run toolformer annotate to its end")
        return None, _augmented_corpus(made[0])
    about = read_json(described, "run again, which writes it")
    corpus = _augmented_corpus(root / read_origin(described, "augmented"))
    folder = (root / "model").resolve()
    reference = ModelRef(
        path=str(folder), digest=folder_digest(folder, about["dtype"]), dtype=about["dtype"]
    )
    facts = {
        "folder": str(folder),
        "digest": reference.digest,
        "base_model": about.get("base_name") or public_name(about["base_model"]),
        "settings": about["fingerprint"],
        "call_top_k": DecodeConfig.model_validate(about["decode"]).top_k,
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
