"""Call rule: held-out texts and a tuned model in, when its calls start out."""

from collections.abc import Iterator

from tasks.loaded_models import get_model
from tasks.running.policies import Location, shard_task
from toolformer_core.call_rule import STAGE_VERSION, CallChoice, choose_call_rule
from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.models import ModelRef
from toolformer_core.records import AugmentedDocument, Document
from toolformer_core.shards import ShardRef, read_shard
from toolformer_core.training.examples import held_out_plain_texts, plain_texts, split_documents


@shard_task("call_rule", STAGE_VERSION, tag="gpu")
def call_rule_shards(
    augmented: list[ShardRef],
    documents: list[ShardRef],
    model: ModelRef,
    config: FinetuneConfig,
    location: Location,
) -> CallChoice:
    """The rule of a tuned model; `config` are the settings that decide what was held out."""

    def corpus() -> Iterator[Document]:
        return (row for ref in documents for row in read_shard(ref, Document))

    rows = [row for ref in augmented for row in read_shard(ref, AugmentedDocument)]
    _, dev = split_documents(rows, config)
    seen = {text.document_id for text in (*rows, *plain_texts(rows, corpus(), config))}
    plain = held_out_plain_texts(corpus(), seen, len(dev), config)
    lm = get_model(model, location.runtime)
    return choose_call_rule(dev, plain, lm)
