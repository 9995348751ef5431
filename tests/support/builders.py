"""Builders of records, stages and settings; every field has a default.

`CallStory` tells what became of one candidate; `call_records` writes it out as the records that
the stages would have left, so that a test states only what matters to it.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from toolformer_core.config.overrides import edit
from toolformer_core.config.pipeline import CorpusConfig, PipelineConfig
from toolformer_core.records import (
    AugmentedDocument,
    CallSpan,
    Document,
    DropReason,
    EvaluatedCall,
    EvaluatedItem,
    ExecutedCall,
    FilterDecision,
    Outcome,
    ProposedCall,
    QuarantinedRow,
    ScoredCall,
)
from toolformer_core.shards import StageRef, shard_folder, write_shard

Record = TypeVar("Record")
Fields = Any  # Any: a field of any type; the record's constructor is what checks them

RECORD_TYPES: dict[str, type] = {
    "corpus": Document,
    "quarantine": QuarantinedRow,
    "sample": ProposedCall,
    "execute": ExecutedCall,
    "score": ScoredCall,
    "filter": FilterDecision,
    "augment": AugmentedDocument,
    "evaluate": EvaluatedItem,
}


def pipeline_config(*assignments: str) -> PipelineConfig:
    """Settings with defaults, edited as by --set."""
    return edit(PipelineConfig(corpus=CorpusConfig(sources=("texts.jsonl",))), assignments)


def build(record_type: type[Record], defaults: Mapping[str, Fields], **fields: Fields) -> Record:
    """A record of the defaults, with some fields replaced."""
    return record_type(**{**defaults, **fields})


def document(**fields: Fields) -> Document:
    """A document about apples."""
    defaults = {
        "document_id": "document-1",
        "text": "She bought 34 apples and 57 pears, 91 pieces of fruit in all.",
        "url": "https://example.org/fruit",
        "date": "2021-03-04",
        "source": "texts.jsonl",
    }
    return build(Document, defaults, **fields)


def quarantined_row(**fields: Fields) -> QuarantinedRow:
    """A row that is not valid JSON."""
    defaults = {"source": "texts.jsonl", "row_number": 7, "reason": "not_json", "excerpt": "{oops"}
    return build(QuarantinedRow, defaults, **fields)


_CALL: dict[str, Fields] = {
    "candidate_id": "candidate-1",
    "document_id": "document-1",
    "tool": "Calculator",
    "char_offset": 35,
    "argument": "34 + 57",
    "loss_without_call": 3.0,
}


_WINDOW: dict[str, Fields] = {"window_start": 0, "window_end": 17}


def proposed_call(**fields: Fields) -> ProposedCall:
    """A call that goes on to execution."""
    defaults = {
        **_CALL,
        "token_index": 9,
        **_WINDOW,
        "start_probability": 0.2,
        "sample_index": 0,
        "token_losses_without_call": (3.0, 3.0, 3.0, 3.0, 3.0),
        "drop_reason": None,
    }
    return build(ProposedCall, defaults, **fields)


def executed_call(**fields: Fields) -> ExecutedCall:
    """A call that was answered."""
    defaults = {
        **_CALL,
        "token_index": 9,
        **_WINDOW,
        "tool_version": "1",
        "outcome": Outcome.OK,
        "outcome_reason": "",
        "result": "91",
        "latency_seconds": 0.01,
    }
    return build(ExecutedCall, defaults, **fields)


def scored_call(**fields: Fields) -> ScoredCall:
    """A call that lowers the loss by one nat and a half."""
    defaults = {
        **_CALL,
        "token_index": 9,
        "result": "91",
        "loss_with_empty_result": 2.5,
        "loss_with_result": 1.0,
        "loss_with_wrong_result": None,
        "loss_with_shuffled_result": None,
        "loss_reduction": 1.5,
        "scored_tokens": (" 9", "1", " pieces", " of", " fruit"),
        "token_losses_with_empty_result": (2.5, 2.5, 2.5, 2.5, 2.5),
        "token_losses_with_result": (1.0, 1.0, 1.0, 1.0, 1.0),
        "is_right": True,
    }
    return build(ScoredCall, defaults, **fields)


def filter_decision(**fields: Fields) -> FilterDecision:
    """A kept call."""
    defaults = {key: value for key, value in _CALL.items() if key != "loss_without_call"}
    defaults |= {
        "result": "91",
        "loss_reduction": 1.5,
        "filtering_threshold": 1.0,
        "kept": True,
        "drop_reason": None,
        "is_right": True,
    }
    return build(FilterDecision, defaults, **fields)


def call_span(**fields: Fields) -> CallSpan:
    """The insertion of the default call in the default augmented document."""
    defaults = {key: value for key, value in _CALL.items() if key in ("candidate_id", "tool")}
    defaults |= {
        "argument": "34 + 57",
        "result": "91",
        "char_offset": 35,
        "start": 35,
        "end": 63,
        "result_start": 59,
        "result_end": 62,
    }
    return build(CallSpan, defaults, **fields)


def augmented_document(**fields: Fields) -> AugmentedDocument:
    """The default document with one call."""
    defaults = {
        "document_id": "document-1",
        "source": "texts.jsonl",
        "original_text": document().text,
        "augmented_text": "She bought 34 apples and 57 pears, "
        "[Calculator(34 + 57) -> 91] 91 pieces of fruit in all.",
        "calls": (call_span(),),
    }
    return build(AugmentedDocument, defaults, **fields)


def evaluated_call(**fields: Fields) -> EvaluatedCall:
    """A call that was answered."""
    defaults = {
        "tool": "Calculator",
        "argument": "3 + 4",
        "result": "7",
        "outcome": Outcome.OK,
        "char_offset": 1,
    }
    return build(EvaluatedCall, defaults, **fields)


def evaluated_item(**fields: Fields) -> EvaluatedItem:
    """A benchmark item answered rightly with one call."""
    defaults = {
        "benchmark": "word_problems",
        "arm": "on",
        "model": "tuned",
        "call_top_k": 10,
        "item_id": "item-1",
        "prompt": "How many are 3 and 4? The answer is",
        "completion": " [Calculator(3 + 4) -> 7] 7.",
        "answer": " 7.",
        "gold": ("7",),
        "score": 1.0,
        "weight": 1,
        "num_calls": 1,
        "num_malformed": 0,
        "calls": (evaluated_call(),),
        "num_prompt_tokens": 12,
        "num_tokens": 15,
        "tool_seconds": 0.01,
        "latency_seconds": 0.2,
    }
    return build(EvaluatedItem, defaults, **fields)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CallStory:
    """What became of one candidate; by default it is kept, with a margin of 1.5 nats.

    `dropped` in sampling ends the story there; an `outcome` other than ok ends it at execution;
    `losses` are (without call, with empty result or None where not measured, with result);
    `controls` those with a wrong and a shuffled result.
    """

    candidate_id: str
    document_id: str = "document-1"
    tool: str = "Calculator"
    char_offset: int = 35
    start_probability: float = 0.2
    argument: str = "34 + 57"
    dropped: DropReason | None = None
    outcome: Outcome = Outcome.OK
    outcome_reason: str = ""
    result: str = "91"
    losses: tuple[float, float | None, float] = (3.0, 2.5, 1.0)
    controls: tuple[float | None, float | None] = (None, None)
    threshold: float = 1.0
    is_right: bool | None = None
    latency_seconds: float = 0.01

    @property
    def loss_reduction(self) -> float:
        """L- minus L+, nats."""
        return min(loss for loss in self.losses[:2] if loss is not None) - self.losses[2]

    @property
    def is_finite(self) -> bool:
        """Whether the filter can compare it with a threshold."""
        return math.isfinite(self.loss_reduction)


def call_records(story: CallStory) -> dict[str, Fields]:
    """The record that each stage leaves of one candidate: stage to record."""
    keys = ("candidate_id", "document_id", "tool", "char_offset", "argument")
    shared = {key: getattr(story, key) for key in keys}
    before = {**shared, "loss_without_call": story.losses[0]}
    records: dict[str, Fields] = {
        "sample": proposed_call(
            **before,
            start_probability=story.start_probability,
            token_losses_without_call=(story.losses[0],) * 5,
            drop_reason=story.dropped,
        )
    }
    if story.dropped is not None:
        return records
    is_ok = story.outcome is Outcome.OK
    result = story.result if is_ok else ""
    records["execute"] = executed_call(
        **before,
        result=result,
        outcome=story.outcome,
        outcome_reason=story.outcome_reason,
        latency_seconds=story.latency_seconds,
    )
    if not is_ok:
        return records
    verdict = {"result": result, "loss_reduction": story.loss_reduction, "is_right": story.is_right}
    records["score"] = scored_call(
        **before,
        **verdict,
        loss_with_empty_result=story.losses[1],
        loss_with_result=story.losses[2],
        loss_with_wrong_result=story.controls[0],
        loss_with_shuffled_result=story.controls[1],
        token_losses_with_empty_result=() if story.losses[1] is None else (story.losses[1],) * 5,
        token_losses_with_result=(story.losses[2],) * 5,
    )
    records["filter"] = _decision(story, {**shared, **verdict})
    return records


def _decision(story: CallStory, fields: Mapping[str, Fields]) -> FilterDecision:
    reason: DropReason | None = None
    if not story.is_finite:
        reason = DropReason.NOT_FINITE
    elif story.loss_reduction < story.threshold:
        reason = DropReason.BELOW_THRESHOLD
    elif story.controls[0] is not None and story.controls[0] <= story.losses[2]:
        reason = DropReason.WRONG_RESULT
    elif story.controls[1] is not None and story.controls[1] <= story.losses[2]:
        reason = DropReason.SHUFFLED_RESULT
    return filter_decision(
        **fields,
        filtering_threshold=story.threshold,
        kept=reason is None,
        drop_reason=reason,
    )


def write_stage(
    root: Path | str,
    stage: str,
    tool: str,
    records: Sequence[Fields],
    counts: Mapping[str, int] | None = None,
) -> StageRef:
    """One stage of two shards (one, where there are fewer than two records)."""
    half = (len(records) + 1) // 2
    parts = [records[:half], records[half:]] if len(records) > 1 else [records]
    folder = shard_folder(str(root), stage, tool, "fingerprint")
    shards = [
        write_shard(
            part,
            RECORD_TYPES[stage],
            f"{folder}/part-{shard_index:05d}.parquet",
            shard_index=shard_index,
            counts=(counts or {}) if shard_index == 0 else {},
        )
        for shard_index, part in enumerate(parts)
    ]
    return StageRef(stage=stage, tool=tool, fingerprint="fingerprint", shards=tuple(shards))


def write_annotation(
    root: Path | str, documents: Sequence[Document], stories: Sequence[CallStory]
) -> list[StageRef]:
    """The stages corpus, sample, execute, score and filter that leave these stories behind."""
    stages = [write_stage(root, "corpus", "all", documents, {"documents": len(documents)})]
    for tool in dict.fromkeys(story.tool for story in stories):
        own = [story for story in stories if story.tool == tool]
        positions = {(story.document_id, story.char_offset) for story in own}
        counts = {"documents": len(documents), "positions": len(positions)}
        records = [call_records(story) for story in own]
        for stage in ("sample", "execute", "score", "filter"):
            rows = [record[stage] for record in records if stage in record]
            stages.append(
                write_stage(root, stage, tool, rows, counts if stage == "sample" else None)
            )
    return stages
