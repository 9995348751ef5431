"""A transformers causal model with its tokenizer: how texts become tokens, and rows a batch.

Shape legend: B batch, T tokens, N tokens of all sequences, V vocabulary.
"""

import itertools
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import torch

from toolformer_core.lm import TokenizedText
from toolformer_core.notation import START
from toolformer_core.transformers_lm.drawing import token_texts
from toolformer_core.transformers_lm.probe import Way, context_tokens, find_way, pad_left
from toolformer_core.transformers_lm.tree import Tree

HEAD_CHUNK = 128  # positions whose logits are held in float32 at a time


class HFModel:
    """A causal model and its fast tokenizer; forward passes run in the model's dtype."""

    def __init__(
        self,
        model: Any,  # Any: transformers has no common typed base for causal models
        tokenizer: Any,  # Any: likewise for fast tokenizers
        token_budget: int = 4096,
    ) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.token_budget = token_budget
        self._heads: dict[str, Tree] = {}

    @property
    def context_tokens(self) -> int:
        """Longest sequence that the model takes and attends to as a whole."""
        return context_tokens(self.model.config.get_text_config())

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        device: torch.device = self.model.device
        return device

    @cached_property
    def document_start_id(self) -> int:
        """The token before x_1, so that x_1 has a loss and position 0 a probability.

        Choice: <|endoftext|> where the vocabulary has it, because it parts documents in
        pretraining even where chat tuning has renamed the start token; else bos, else eos.
        """
        vocabulary = self.tokenizer.get_vocab()
        for token in ("<|endoftext|>", self.tokenizer.bos_token, self.tokenizer.eos_token):
            if token in vocabulary:
                return int(vocabulary[token])
        raise ValueError("the tokenizer has no token that can start a document")

    @cached_property
    def start_ids(self) -> tuple[int, ...]:
        """Every token that spells the start of a call, with and without a leading space."""
        texts = token_texts(self.tokenizer)
        return tuple(i for i, text in texts.items() if text.strip(" ") == START)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def tokenize(self, text: str) -> TokenizedText:
        """The text as tokens with the character at which each starts.

        A character that takes several tokens starts at the first; the others start where it
        ends, so that no position lies inside a character.
        """
        encoded = self.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        starts, reached = [], 0
        for start, end in encoded["offset_mapping"]:
            starts.append(max(start, reached))
            reached = max(reached, end)
        return TokenizedText(
            text=text, token_ids=tuple(encoded["input_ids"]), char_offsets=(*starts, len(text))
        )

    @cached_property
    def way(self) -> Way:
        """How sequences go through the model."""
        start = [self.document_start_id, *self.encode("In the morning")]
        first = [*start, *self.encode(" two and three are five, says the miller.")]
        return find_way(self.model, (first, [*start, *self.encode(" the mill is closed")]))

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of rows that go through the model together, within the token budget."""
        for bucket in length_buckets(lengths, self.token_budget):
            if self.way is Way.WHOLE:  # padding would enter the model's state
                groups = itertools.groupby(bucket, key=lambda k: lengths[k])
                yield from (list(equal) for _, equal in groups)
            else:
                yield bucket

    def pad_left(self, rows: Sequence[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids and attention mask [B, T], padded in front."""
        return pad_left(rows, self.document_start_id, self.device)

    def head_tree(self, head: str) -> Tree:
        """The document start and a prompt head, read once."""
        if head not in self._heads:
            ids = [self.document_start_id, *self.encode(head)]
            tree = Tree(self.model, 1, is_packed=self.way is Way.PACKED)
            tree.read(slice(0, 1), [ids], [[len(ids) - 1]])
            tree.seal(len(ids))
            self._heads[head] = tree
        return self._heads[head]


def nll(logits_NV: torch.Tensor, token_ids: Sequence[int]) -> list[float]:
    """Negative log-likelihood of each token, in nats, computed in float32 chunk by chunk."""
    targets_N = torch.tensor(token_ids, device=logits_NV.device)
    chunks = zip(
        torch.split(logits_NV, HEAD_CHUNK), torch.split(targets_N, HEAD_CHUNK), strict=True
    )
    losses = [
        torch.nn.functional.cross_entropy(chunk_NV.float(), chunk_N, reduction="none")
        for chunk_NV, chunk_N in chunks
    ]
    found: list[float] = torch.cat(losses).tolist()
    return found


def length_buckets(lengths: Sequence[int], token_budget: int) -> Iterator[list[int]]:
    """Indices in batches of similar length whose padded size stays within the budget."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        if batch and (len(batch) + 1) * lengths[index] > token_budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
