"""Rows of tokens that grow one by one, join and leave at any time, and go back to where they were.

Each row's keys and values lie in a slot of common buffers, from its first column on. No row is
padded, none is copied when another joins or leaves, and going back is forgetting columns. One pass
feeds each row as many tokens as it has: a prompt, the result of a call, or the last token.

Rows that get one token lie side by side in the first slots, so that their attention is one
product; slots change places for that. Where the model takes packed attention all tokens of a pass
form one row; else rows of one token form a batch, and longer feeds go through alone. A model that
takes no mask of ours has a cache of transformers for every row.

Shape legend: R slots, N fed tokens, B fed rows, S rows fed one token, G heads of keys, H heads,
Q queries, C columns, D head size, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from transformers import DynamicCache

from toolformer_core.transformers_lm.attention import causal_attention, masked_attention
from toolformer_core.transformers_lm.memory import release_memory
from toolformer_core.transformers_lm.model import HFModel
from toolformer_core.transformers_lm.packing import packed_logits
from toolformer_core.transformers_lm.probe import Way

_SPARE_COLUMNS = 64  # more would be looked past in vain, fewer cost copies

Feed = Mapping[int, Sequence[int]]
"""Tokens by row; a row that is new joins."""


class Rows(Protocol):
    """Rows by number, as many as are fed."""

    def feed(self, tokens: Feed) -> torch.Tensor:
        """Append to each row its tokens; the logits after its last one [B, V], in order of feed."""

    def fork(self, row: int, other: int, num_tokens: int) -> None:
        """Let a new row begin with the first tokens that another has been fed."""

    def rewind(self, row: int, num_tokens: int) -> None:
        """Forget all but the first tokens of a row."""

    def leave(self, row: int) -> None:
        """Forget a row, if it has been fed."""


def open_rows(lm: HFModel) -> Rows:
    """No rows yet, in the fastest way that the model takes."""
    if lm.way in (Way.PACKED, Way.MASKED):
        return SlotRows(lm.model, is_packed=lm.way is Way.PACKED)
    return SeparateRows(lm.model, has_cache=lm.way is Way.COPIED)


class SlotRows:
    """Rows in the slots of common buffers; see the module docstring."""

    def __init__(self, model: Any, *, is_packed: bool) -> None:  # Any: no common typed base
        self._model = model
        self._is_packed = is_packed
        self._buffers = _Buffers()
        self._row_at: list[int | None] = []  # by slot
        self._num_tokens: dict[int, int] = {}  # by row

    @torch.inference_mode()
    def feed(self, tokens: Feed) -> torch.Tensor:
        """As in `Rows`."""
        for row in tokens:
            if row not in self._num_tokens:
                self._join(row)
        longest = max(count + len(tokens.get(row, ())) for row, count in self._num_tokens.items())
        self._buffers.reserve(len(self._row_at), longest)
        singles = [row for row, fed in tokens.items() if len(fed) == 1]
        self._bring_to_front(singles)
        fed_rows = [*sorted(singles, key=self._row_at.index), *(tokens.keys() - set(singles))]
        slots = [self._row_at.index(row) for row in fed_rows]
        before = [self._num_tokens[row] for row in fed_rows]
        fed = [tokens[row] for row in fed_rows]
        logits_BV = (self._packed if self._is_packed else self._batched)(slots, before, fed)
        for row in fed_rows:
            self._num_tokens[row] += len(tokens[row])
        order = [fed_rows.index(row) for row in tokens]
        return logits_BV if order == list(range(len(order))) else logits_BV[order]

    @torch.inference_mode()
    def fork(self, row: int, other: int, num_tokens: int) -> None:
        """As in `Rows`; its keys and values are copied."""
        self._join(row)
        self._num_tokens[row] = num_tokens
        self._buffers.reserve(len(self._row_at), max(self._num_tokens.values()))
        self._buffers.copy(self._row_at.index(other), self._row_at.index(row), num_tokens)

    def rewind(self, row: int, num_tokens: int) -> None:
        """As in `Rows`."""
        self._num_tokens[row] = num_tokens

    def leave(self, row: int) -> None:
        """As in `Rows`."""
        if self._num_tokens.pop(row, None) is None:
            return
        self._row_at[self._row_at.index(row)] = None
        while self._row_at and self._row_at[-1] is None:
            self._row_at.pop()
        if not self._row_at:
            self._buffers = _Buffers()
            release_memory()

    def _join(self, row: int) -> None:
        self._num_tokens[row] = 0
        if None in self._row_at:
            self._row_at[self._row_at.index(None)] = row
        else:
            self._row_at.append(row)

    def _bring_to_front(self, rows: Sequence[int]) -> None:
        """Let these rows have the first slots, in any order."""
        wanted = set(rows)
        outside = [row for row in self._row_at[len(rows) :] if row in wanted]
        for slot, row in enumerate(self._row_at[: len(rows)]):
            if row not in wanted:
                moved = outside.pop()
                other = self._row_at.index(moved)
                self._buffers.swap(slot, other, max(self._num_tokens.values()))
                self._row_at[slot], self._row_at[other] = moved, row

    def _packed(
        self, slots: Sequence[int], before: Sequence[int], fed: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        layout = _Layout(self._buffers, slots, before, [len(ids) for ids in fed], self._model)
        ends = torch.tensor([len(ids) for ids in fed]).cumsum(0) - 1
        flat_ids = [i for ids in fed for i in ids]
        return packed_logits(self._model, layout, flat_ids, layout.positions, ends.tolist())

    def _batched(
        self, slots: Sequence[int], before: Sequence[int], fed: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """The rows of one token together, each other one alone."""
        num_singles = sum(len(ids) == 1 for ids in fed)
        parts = [slice(0, num_singles)] if num_singles else []
        parts += [slice(k, k + 1) for k in range(num_singles, len(fed))]
        logits = [self._batch(slots[part], before[part], fed[part]) for part in parts]
        return torch.cat(logits)

    def _batch(
        self, slots: Sequence[int], before: Sequence[int], fed: Sequence[Sequence[int]]
    ) -> torch.Tensor:
        """Rows in consecutive slots that get equally many tokens; logits after the last ones."""
        device = self._model.device
        where = _Where(slots, before, [len(ids) for ids in fed], device)
        positions_BQ = torch.tensor(where.positions, device=device).view(len(fed), -1)
        output = self._model(
            input_ids=torch.tensor([list(ids) for ids in fed], device=device),
            position_ids=positions_BQ,
            attention_mask=_mask(positions_BQ, self._buffers.num_columns, self._model)[:, None],
            past_key_values=_Written(self._buffers, where, slice(slots[0], slots[-1] + 1)),
            use_cache=True,
            logits_to_keep=1,
        )
        logits_BV: torch.Tensor = output.logits[:, -1]
        return logits_BV


class SeparateRows:
    """Rows with a cache each, or none: then they are read anew for every token."""

    def __init__(self, model: Any, *, has_cache: bool) -> None:  # Any: as above
        self._model = model
        self._has_cache = has_cache
        self._tokens: dict[int, list[int]] = {}
        self._caches: dict[int, DynamicCache] = {}

    @torch.inference_mode()
    def feed(self, tokens: Feed) -> torch.Tensor:
        """As in `Rows`."""
        return torch.cat([self._feed_one(row, ids) for row, ids in tokens.items()])

    def fork(self, row: int, other: int, num_tokens: int) -> None:
        """As in `Rows`; the tokens are read again."""
        self._tokens[row] = self._tokens[other][:num_tokens]

    def rewind(self, row: int, num_tokens: int) -> None:
        """As in `Rows`; what is left is read again, since some caches cannot be cut."""
        del self._tokens[row][num_tokens:]
        self._caches.pop(row, None)

    def leave(self, row: int) -> None:
        """As in `Rows`."""
        self._tokens.pop(row, None)
        self._caches.pop(row, None)

    def _feed_one(self, row: int, ids: Sequence[int]) -> torch.Tensor:
        held = self._tokens.setdefault(row, [])
        held.extend(ids)
        unread = list(ids) if row in self._caches else held
        cache = None
        if self._has_cache:
            cache = self._caches.setdefault(row, DynamicCache(config=self._model.config))
        output = self._model(
            input_ids=torch.tensor([unread], device=self._model.device),
            past_key_values=cache,
            use_cache=cache is not None,
            logits_to_keep=1,
        )
        logits_1V: torch.Tensor = output.logits[:, -1]
        return logits_1V


class _Buffers:
    """Keys and values [R, G, C, D] of every layer."""

    def __init__(self) -> None:
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._num_slots = 0
        self.num_columns = 0

    def reserve(self, num_slots: int, num_columns: int) -> None:
        """Make room for so many slots and columns; give up what a long row has left."""
        if not num_columns <= self.num_columns <= 2 * (num_columns + _SPARE_COLUMNS):
            release_memory()
            self.num_columns, self._num_slots = num_columns + _SPARE_COLUMNS, num_slots
        self._num_slots = max(self._num_slots, num_slots)
        shape = (self._num_slots, self.num_columns)
        for layer, (keys_RGCD, values_RGCD) in self._layers.items():
            if (keys_RGCD.shape[0], keys_RGCD.shape[2]) != shape:
                self._layers[layer] = _resized(keys_RGCD, shape), _resized(values_RGCD, shape)

    def write(
        self, layer: int, where: "_Where", key_NGD: torch.Tensor, value_NGD: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Put keys and values in their places; the whole buffers."""
        if layer not in self._layers:
            keys_RGCD, values_RGCD = (
                x_NGD.new_zeros(self._num_slots, x_NGD.shape[1], self.num_columns, x_NGD.shape[2])
                for x_NGD in (key_NGD, value_NGD)
            )
            self._layers[layer] = keys_RGCD, values_RGCD
        for buffer_RGCD, new_NGD in zip(self._layers[layer], (key_NGD, value_NGD), strict=True):
            buffer_RGCD[where.slots_N, :, where.columns_N] = new_NGD
        return self._layers[layer]

    def copy(self, slot: int, other: int, num_columns: int) -> None:
        """Give another slot the first columns of a slot."""
        for buffers in self._layers.values():
            for buffer_RGCD in buffers:
                buffer_RGCD[other, :, :num_columns] = buffer_RGCD[slot, :, :num_columns]

    def swap(self, slot: int, other: int, num_columns: int) -> None:
        """Let two slots change places."""
        for buffers in self._layers.values():
            for buffer_RGCD in buffers:
                held_GCD = buffer_RGCD[slot, :, :num_columns].clone()
                buffer_RGCD[slot, :, :num_columns] = buffer_RGCD[other, :, :num_columns]
                buffer_RGCD[other, :, :num_columns] = held_GCD


def _resized(old_RGCD: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """A buffer of so many slots and columns with what of the old one fits into it."""
    num_slots, num_columns = shape
    new_RGCD = old_RGCD.new_zeros(num_slots, old_RGCD.shape[1], num_columns, old_RGCD.shape[3])
    slots, columns = min(len(old_RGCD), num_slots), min(old_RGCD.shape[2], num_columns)
    new_RGCD[:slots, :, :columns] = old_RGCD[:slots, :, :columns]
    return new_RGCD


class _Where:
    """Slot and column of every fed token; a column is a token's position in its row."""

    def __init__(
        self,
        slots: Sequence[int],
        before: Sequence[int],
        lengths: Sequence[int],
        device: torch.device,
    ) -> None:
        self.positions = [
            start + k for start, length in zip(before, lengths, strict=True) for k in range(length)
        ]
        flat = [slot for slot, length in zip(slots, lengths, strict=True) for _ in range(length)]
        self.slots_N = torch.tensor(flat, device=device)
        self.columns_N = torch.tensor(self.positions, device=device)


class _Layout:
    """Packed attention of a pass: each token looks at its row up to itself."""

    def __init__(
        self,
        buffers: _Buffers,
        slots: Sequence[int],
        before: Sequence[int],
        lengths: Sequence[int],
        model: Any,  # Any: as above
    ) -> None:
        self._buffers = buffers
        self._where = _Where(slots, before, lengths, model.device)
        self.positions = self._where.positions
        self._num_singles = sum(length == 1 for length in lengths)
        self._long = list(zip(slots, before, lengths, strict=True))[self._num_singles :]
        positions_S1 = self._where.columns_N[: self._num_singles, None]
        self._mask_S1C = _mask(positions_S1, buffers.num_columns, model)

    def attend(
        self,
        layer: int,
        query_NHD: torch.Tensor,
        key_NHD: torch.Tensor,
        value_NHD: torch.Tensor,
        scaling: float | None,
    ) -> torch.Tensor:
        """As in `Layout`."""
        keys, values = self._buffers.write(layer, self._where, key_NHD, value_NHD)
        attended = []
        first = self._num_singles
        if first:
            attended_SH1D = masked_attention(
                query_NHD[:first, :, None], keys[:first], values[:first], self._mask_S1C, scaling
            )
            attended.append(attended_SH1D[:, :, 0])
        for slot, before, length in self._long:
            row, end = slice(slot, slot + 1), before + length
            attended_1HQD = causal_attention(
                query_NHD[None, first : first + length].transpose(1, 2),
                keys[row, :, :end],
                values[row, :, :end],
                scaling,
                before,
            )
            attended.append(attended_1HQD[0].transpose(0, 1))
            first += length
        return torch.cat(attended)


class _Written(DynamicCache):
    """Some rows of the buffers as the cache of one pass."""

    def __init__(self, buffers: _Buffers, where: _Where, slots: slice) -> None:
        super().__init__()
        self._buffers = buffers
        self._where = where
        self._slots = slots

    def update(
        self,
        key_states: torch.Tensor,
        value_states: torch.Tensor,
        layer_idx: int,
        *_: Any,
        **__: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the fed tokens; all columns of their rows [B, G, C, D]."""
        key_NGD, value_NGD = (
            x_BGQD.transpose(1, 2).flatten(0, 1) for x_BGQD in (key_states, value_states)
        )
        keys, values = self._buffers.write(layer_idx, self._where, key_NGD, value_NGD)
        return keys[self._slots], values[self._slots]

    def get_seq_length(self, layer_idx: int = 0, *_: Any, **__: Any) -> int:
        """Tokens before the fed ones in the first of the rows."""
        return self._where.positions[0]


def _mask(
    positions_BQ: torch.Tensor,
    num_columns: int,
    model: Any,  # Any: as above
) -> torch.Tensor:
    """Additive mask [B, Q, C]: a token sees the columns up to its own."""
    columns_C = torch.arange(num_columns, device=positions_BQ.device)
    hidden_BQC = columns_C > positions_BQ[..., None]
    mask_BQC = torch.zeros(hidden_BQC.shape, dtype=model.dtype, device=positions_BQ.device)
    return mask_BQC.masked_fill_(hidden_BQC, torch.finfo(model.dtype).min)
