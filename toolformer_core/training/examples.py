"""Step 4b, the data: from C* to rows of tokens in the order in which they are trained on.

Texts come in epochs. In each, those of one tool are shuffled by (seed, epoch) and the tools merged
in proportion, so that every batch has its share of each. What is trained on at which step depends
on nothing else: not on the micro-batches, not on the number of processes.

With `packing`, whole texts are put together into rows of up to max_sequence_tokens; each counts its
positions from 0, by which transformers keeps attention within it.

Shape legend: B batch, T tokens.
"""

import heapq
import itertools
import random
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch.nn.utils.rnn import pad_sequence

from toolformer_core.config.finetune import FinetuneConfig
from toolformer_core.errors import ConfigError
from toolformer_core.records import AugmentedDocument, Document, digest
from toolformer_core.training.loss import IGNORED
from toolformer_core.training.places import _tokens_within, call_place
from toolformer_core.transformers_lm.adapter import HFLanguageModel

Row = tuple[int, ...]  # indices of the texts in one row: one, or several that are packed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrainingExample:
    """One text as tokens [T]; labels are IGNORED where the loss does not count.

    A call is (index of the token that starts it, index of the last token of its arrow).
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    calls: tuple[tuple[int, int], ...]


def split_documents(
    augmented: Iterable[AugmentedDocument], config: FinetuneConfig
) -> tuple[list[AugmentedDocument], list[AugmentedDocument]]:
    """Train and dev texts; a document's side depends on its id and the seed alone."""
    train: list[AugmentedDocument] = []
    dev: list[AugmentedDocument] = []
    for document in augmented:
        (dev if _is_held_out(document.document_id, config) else train).append(document)
    return (train, dev) if train else (dev, [])


def _is_held_out(document_id: str, config: FinetuneConfig) -> bool:
    return int(digest(config.seed, "dev", document_id), 16) / 2**64 < config.dev_fraction


def plain_texts(
    augmented: Sequence[AugmentedDocument], documents: Iterable[Document], config: FinetuneConfig
) -> list[AugmentedDocument]:
    """Texts of C without a kept call that make up plain_text_share of the training texts.

    Which ones is drawn by the seed. They come on top of the training side of `split_documents`.

    Raises: ConfigError if C has too few of them.
    """
    share, with_calls = config.plain_text_share, {d.document_id for d in augmented}
    num_train = len(split_documents(augmented, config)[0])
    wanted = round(share / (1 - share) * num_train)
    candidates = (document for document in documents if document.document_id not in with_calls)
    chosen = heapq.nsmallest(
        wanted, candidates, key=lambda d: digest(config.seed, "plain", d.document_id)
    )
    if len(chosen) < wanted:
        raise ConfigError(
            f"finetune.plain_text_share {share}: {num_train} texts with calls need {wanted} "
            f"without, and the corpus has {len(chosen)}; lower it"
        )
    return [_without_calls(document) for document in chosen]


def held_out_plain_texts(
    documents: Iterable[Document], seen: Collection[str], count: int, config: FinetuneConfig
) -> list[AugmentedDocument]:
    """Up to `count` texts of C that lie on the dev side, drawn by the seed.

    `seen` are the ids of documents that are left out: of C*, and of `plain_texts`.
    """
    candidates = (
        document
        for document in documents
        if document.document_id not in seen and _is_held_out(document.document_id, config)
    )
    chosen = heapq.nsmallest(
        count, candidates, key=lambda d: digest(config.seed, "held-out", d.document_id)
    )
    return [_without_calls(document) for document in chosen]


def _without_calls(document: Document) -> AugmentedDocument:
    return AugmentedDocument(
        document_id=document.document_id,
        source=document.source,
        original_text=document.text,
        augmented_text=document.text,
        calls=(),
    )


def training_example(
    document: AugmentedDocument, lm: HFLanguageModel, config: FinetuneConfig
) -> TrainingExample:
    """Tokens and labels of one text between two document-start tokens, cut to the length.

    The first token has no label: nothing comes before it, also where texts are packed.
    """
    with_calls = not config.without_calls
    tokens = lm.tokenize(document.augmented_text if with_calls else document.original_text)
    calls = document.calls if with_calls else ()
    # A token counts as the tool's where any of its characters is: " Today" starts a space early.
    masked = {
        k
        for call in (() if config.train_on_results else calls)
        for k in _tokens_within(tokens, call.result_start, call.result_end)
    }
    ids = [lm.document_start_id, *tokens.token_ids, lm.document_start_id]
    labels = [IGNORED, *ids[1:]]
    for k in masked:
        labels[k + 1] = IGNORED
    length = config.max_sequence_tokens
    places = [call_place(tokens, call) for call in calls]
    return TrainingExample(
        input_ids=torch.tensor(ids[:length], dtype=torch.int32),
        labels=torch.tensor(labels[:length], dtype=torch.int32),
        calls=tuple((start, arrow) for start, arrow in places if arrow < length),
    )


def training_rows(
    documents: Sequence[AugmentedDocument],
    lengths: Sequence[int],
    config: FinetuneConfig,
    num_steps: int,
) -> list[Row]:
    """The rows of all batches, batch_size for each step, as indices of documents.

    Within a batch they are sorted by length, so that micro-batches need little padding.
    """
    order = itertools.chain.from_iterable(
        epoch_order(documents, config.seed, epoch) for epoch in itertools.count()
    )
    rows: Iterator[Row] = ((index,) for index in order)
    if config.packing:
        rows = _packed(order, lengths, config.max_sequence_tokens)

    def length(row: Row) -> int:
        return sum(len(documents[k].original_text) for k in row)

    # By the texts without calls: the control without calls goes through them in the same order.
    batches = (itertools.islice(rows, config.batch_size) for _ in range(num_steps))
    return [row for batch in batches for row in sorted(batch, key=length)]


def epoch_order(documents: Sequence[AugmentedDocument], seed: int, epoch: int) -> list[int]:
    """All documents once, shuffled within their tools and merged in proportion."""
    by_tools: dict[str, list[int]] = {}
    for index, document in enumerate(documents):
        tools = ",".join(sorted({call.tool for call in document.calls}))
        by_tools.setdefault(tools, []).append(index)
    placed: list[tuple[float, str, int]] = []
    for tools, members in by_tools.items():
        random.Random(digest(seed, "epoch", epoch, tools)).shuffle(members)
        placed += [((k + 0.5) / len(members), tools, index) for k, index in enumerate(members)]
    return [index for _, _, index in sorted(placed)]


def _packed(order: Iterator[int], lengths: Sequence[int], max_tokens: int) -> Iterator[Row]:
    """Texts in their order, as many in a row as fit.

    Choice: a row is closed by the first text that does not fit; a search for one that does would
    disturb the order.
    """
    row: list[int] = []
    room = max_tokens
    for index in order:
        if row and lengths[index] > room:
            yield tuple(row)
            row, room = [], max_tokens
        row.append(index)
        room -= lengths[index]


class TrainingRows(torch.utils.data.Dataset[tuple[TrainingExample, ...]]):
    """The rows of all batches as a data set."""

    def __init__(self, examples: Sequence[TrainingExample], rows: Sequence[Row]) -> None:
        self._examples = examples
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[TrainingExample, ...]:
        return tuple(self._examples[k] for k in self._rows[index])


def collate(
    rows: Sequence[Sequence[TrainingExample]], pad_id: int, *, is_packed: bool
) -> dict[str, torch.Tensor]:
    """Rows of examples as a batch, padded on the right [B, T].

    Where rows are packed there are positions in place of an attention mask, which transformers
    would take as a sign that nothing is packed; a padding token is a text of its own.
    """

    def padded(tensors: Iterable[torch.Tensor], value: int) -> torch.Tensor:
        return pad_sequence(list(tensors), batch_first=True, padding_value=value).long()

    batch = {
        "input_ids": padded((torch.cat([e.input_ids for e in row]) for row in rows), pad_id),
        "labels": padded((torch.cat([e.labels for e in row]) for row in rows), IGNORED),
    }
    lengths = [[len(e.input_ids) for e in row] for row in rows]
    if is_packed:
        positions = (torch.cat([torch.arange(n) for n in row]) for row in lengths)
        batch["position_ids"] = padded(positions, 0)
    else:
        batch["attention_mask"] = padded((torch.ones(sum(row)) for row in lengths), 0)
    return batch
