"""Documents with continuations growing from them as trees, several documents at a time.

The keys and values of a document are computed once; no continuation copies them. Each step feeds
one token of every live continuation under a 4-D mask that lets it see the prompt, the document up
to its own position and its own tokens. Where the model takes packed attention, the tokens of all
documents form one row (packing.py); else each tree holds one document and the mask goes to the
model itself.

Shape legend: B rows (documents), Q query tokens of a row, K columns of keys, N tokens of all rows,
H heads, D head size, V vocabulary.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from transformers import DynamicCache

from toolformer_core.transformers_lm.attention import causal_attention, masked_attention
from toolformer_core.transformers_lm.memory import release_memory
from toolformer_core.transformers_lm.packing import Slots, packed_logits

_SPARE_COLUMNS = 128  # more would be looked past in vain, fewer cost copies


class Columns(DynamicCache):
    """Keys and values of B rows in buffers that are filled from the left, layer by layer.

    A pass gets the buffers as a whole, unused columns included: a part of them would be copied by
    every matrix product. Masks are therefore `capacity` columns wide.
    """

    def __init__(self, num_rows: int) -> None:
        super().__init__()
        self.num_rows = num_rows
        self.used = 0
        self.capacity = 0
        self._rows = slice(0, num_rows)
        self._buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def select(self, rows: slice) -> None:
        """The rows that the next pass fills."""
        self._rows = rows

    def reserve(self, num_columns: int) -> None:
        """Make room for so many columns behind the used ones."""
        if self.used + num_columns > self.capacity:
            release_memory()
            self.capacity = self.used + num_columns + _SPARE_COLUMNS

    def rewind(self, used: int) -> None:
        """Forget the columns behind the first `used`."""
        self.used = self.capacity = used

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write behind the used columns; all columns of the selected rows [B, H, K, D]."""
        end = self.used + key_states.shape[2]
        keys, values = self._buffer(layer_idx, (key_states, value_states))
        keys[self._rows, :, self.used : end] = key_states
        values[self._rows, :, self.used : end] = value_states
        return keys[self._rows], values[self._rows]

    def _buffer(
        self, layer: int, like: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        held = self._buffers.get(layer)
        if held is None or held[0].shape[2] != self.capacity:
            keys, values = (
                x_BHQD.new_zeros(self.num_rows, x_BHQD.shape[1], self.capacity, x_BHQD.shape[3])
                for x_BHQD in like
            )
            for old, new in zip(held or (), (keys, values), strict=False):
                # Rows that were read behind the used columns are kept too.
                kept = min(old.shape[2], self.capacity)
                new[:, :, :kept] = old[:, :, :kept]
            self._buffers[layer] = keys, values
        return self._buffers[layer]

    def begin_with(self, head: "Columns") -> None:
        """Start every row with the one row of another cache."""
        self.reserve(head.used)
        for layer, sources in head._buffers.items():
            for buffer, source in zip(self._buffer(layer, sources), sources, strict=True):
                buffer[:, :, : head.used] = source[:, :, : head.used]
        self.used = head.used

    def get_seq_length(self, layer_idx: int = 0, *_: Any, **__: Any) -> int:
        """Number of columns in use."""
        return self.used


class Opening(NamedTuple):
    """The first tokens of a branch, and how many of the last of them are asked for logits."""

    position: int
    token_ids: Sequence[int]
    num_kept: int = 1


class Tree:
    """B documents behind one prompt head, with branches growing from them."""

    def __init__(
        self,
        model: Any,  # Any: transformers has no common typed base
        num_rows: int,
        *,
        is_packed: bool,
        head: "Tree | None" = None,
    ) -> None:
        assert is_packed or num_rows == 1, "one document at a time where nothing is packed"
        self._model = model
        self._is_packed = is_packed
        self.columns = Columns(num_rows)
        if head is not None:
            self.columns.begin_with(head.columns)
        self._blocked = torch.finfo(model.dtype).min

    def read(
        self, rows: slice, texts: Sequence[Sequence[int]], kept: Sequence[Iterable[int]]
    ) -> torch.Tensor:
        """Feed these rows their texts; logits after the `kept` tokens of each [N, V].

        Every pass over rows of one tree begins at the same column; `seal` ends the last.
        """
        used = self.columns.used
        self.columns.reserve(max(map(len, texts)))
        positions = [range(used, used + len(text)) for text in texts]
        starts = itertools.accumulate(map(len, texts), initial=0)
        keep = [start + k for start, row in zip(starts, kept, strict=False) for k in row]
        return self._forward(rows, texts, positions, None, keep)

    def seal(self, num_columns: int) -> None:
        """Take the next columns as the documents'; branches come behind them."""
        self.columns.used += num_columns

    def open(self, openings: Sequence[Sequence[Opening]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Feed each row its openings.

        An opening sees the columns before its position (column and position of a document's token
        are one number) and its own tokens. The logits after the kept tokens of each [N, V], and the
        mask of all fed tokens [B, Q, K], from which the branches inherit.
        """
        used = self.columns.used
        longest = max(sum(len(opening.token_ids) for opening in row) for row in openings)
        self.columns.reserve(longest)
        shape = (len(openings), longest, self.columns.capacity)
        visible_BQK = torch.zeros(shape, dtype=torch.bool)
        keep, num_fed = list[int](), 0
        for visible_QK, row in zip(visible_BQK, openings, strict=True):
            first = 0
            for position, ids, num_kept in row:
                end = first + len(ids)
                visible_QK[first:end, :position] = True
                visible_QK[first:end, used + first : used + end] = True
                visible_QK[first:end, used + first : used + end].tril_()
                first = end
                keep += range(num_fed + end - num_kept, num_fed + end)
            num_fed += first
        mask_BQK = self._mask(visible_BQK)
        logits_NV = self._grow(
            [[i for opening in row for i in opening.token_ids] for row in openings],
            [[o.position + t for o in row for t in range(len(o.token_ids))] for row in openings],
            mask_BQK,
            keep,
        )
        return logits_NV, mask_BQK

    def next_mask(self, mask_BQK: torch.Tensor, parents: Sequence[Sequence[int]]) -> torch.Tensor:
        """The mask of one more token behind each of these tokens of the last pass [B, S, K].

        It sees what its parent sees, and its own column.
        """
        longest = max(map(len, parents))
        self.columns.reserve(longest)
        padded = [[*row, *[0] * (longest - len(row))] for row in parents]
        indices_BS1 = torch.tensor(padded, device=mask_BQK.device)[:, :, None]
        inherited_BSK = mask_BQK.take_along_dim(indices_BS1, 1)
        gap = self.columns.capacity - inherited_BSK.shape[2]
        mask_BSK = torch.nn.functional.pad(inherited_BSK, (0, gap), value=self._blocked)
        slots_S = torch.arange(longest, device=mask_BQK.device)
        mask_BSK[:, slots_S, self.columns.used + slots_S] = 0
        return mask_BSK

    def grow(
        self,
        tokens: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        mask_BSK: torch.Tensor,
    ) -> torch.Tensor:
        """Feed every row one token of each of its live branches; logits after each [N, V]."""
        return self._grow(tokens, positions, mask_BSK, range(sum(map(len, tokens))))

    def _grow(
        self,
        tokens: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        mask_BQK: torch.Tensor,
        keep: Sequence[int],
    ) -> torch.Tensor:
        everything = slice(0, self.columns.num_rows)
        logits_NV = self._forward(everything, tokens, positions, mask_BQK, keep)
        self.columns.used += max(map(len, tokens))
        return logits_NV

    def _mask(self, visible_BQK: torch.Tensor) -> torch.Tensor:
        """The additive mask [B, Q, K]."""
        mask_BQK = torch.zeros(visible_BQK.shape, dtype=self._model.dtype)
        mask_BQK.masked_fill_(~visible_BQK, self._blocked)
        return mask_BQK.to(self._model.device)

    def _forward(
        self,
        rows: slice,
        tokens: Sequence[Sequence[int]],
        positions: Sequence[Sequence[int]],
        mask_BQK: torch.Tensor | None,
        keep: Sequence[int],
    ) -> torch.Tensor:
        """Feed the rows; no mask means that every token sees all before it."""
        self.columns.select(rows)
        flat_ids = [i for row in tokens for i in row]
        flat_positions = [p for row in positions for p in row]
        device = self._model.device
        if self._is_packed:
            layout = _Rows(self.columns, [len(row) for row in tokens], mask_BQK, device)
            return packed_logits(self._model, layout, flat_ids, flat_positions, keep)
        if mask_BQK is None:
            shape = (1, len(flat_ids), self.columns.capacity)
            mask_BQK = self._mask(torch.ones(shape, dtype=torch.bool).tril(self.columns.used))
        first = min(keep, default=len(flat_ids) - 1)
        output = self._model(
            input_ids=torch.tensor([flat_ids], device=device),
            position_ids=torch.tensor([flat_positions], device=device),
            attention_mask=mask_BQK[:, None],
            past_key_values=self.columns,
            use_cache=True,
            logits_to_keep=len(flat_ids) - first,
        )
        wanted_K = torch.tensor([k - first for k in keep], dtype=torch.long, device=device)
        logits_KV: torch.Tensor = output.logits[0, wanted_K]
        return logits_KV


class _Rows:
    """Layout of a pass over a tree: each row's tokens see its columns under a mask."""

    def __init__(
        self,
        columns: Columns,
        lengths: Sequence[int],
        mask_BQK: torch.Tensor | None,
        device: torch.device,
    ) -> None:
        self._columns = columns
        self._slots = Slots(lengths, device)
        self._mask_BQK = mask_BQK

    def attend(
        self,
        layer: int,
        query_NHD: torch.Tensor,
        key_NHD: torch.Tensor,
        value_NHD: torch.Tensor,
        scaling: float | None,
    ) -> torch.Tensor:
        """Attention of the new tokens to their row's columns, their own included."""
        keys_BHKD, values_BHKD = self._columns.update(
            self._slots.spread(key_NHD, "key"), self._slots.spread(value_NHD, "value"), layer
        )
        query_BHQD = self._slots.spread(query_NHD, "query")
        attended_BHQD = (
            causal_attention(query_BHQD, keys_BHKD, values_BHKD, scaling, self._columns.used)
            if self._mask_BQK is None
            else masked_attention(query_BHQD, keys_BHKD, values_BHKD, self._mask_BQK, scaling)
        )
        return self._slots.gather(attended_BHQD)
