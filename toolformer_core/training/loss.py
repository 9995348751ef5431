"""The loss of fine-tuning, and what an evaluation counts, without the logits of a whole batch.

Position t predicts token t + 1. The tokens that count go through the vocabulary head in chunks: the
float32 logits of 16 x 200 tokens of a small model alone would take gigabytes. `chunked_loss` takes
a chunk's gradients while its logits are there, so nothing is computed twice and nothing of the
vocabulary's size waits for the backward pass.

`give_own_loss` puts this into the forward of a model, where its wrappers (autocast, data-parallel,
sharded, LoRA) have their hooks.

Shape legend: B batch, T tokens, N tokens that count, C tokens of a chunk, H hidden, V vocabulary.
"""

import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn.functional import cross_entropy, linear

IGNORED = -100
_CHUNK = 256  # tokens whose logits are held at a time

Model = Any  # transformers has no common typed base for causal models
ToLogits = Callable[[torch.Tensor], torch.Tensor]


def give_own_loss(model: Model, start_ids: Sequence[int], *, has_plain_head: bool) -> None:
    """Replace the model's forward by one that takes labels and gives no logits.

    In training it gives the loss per label of the whole accumulated batch (num_items_in_batch), in
    evaluation the `token_scores`. Without a plain head (see `has_plain_head`) all logits are held.
    """
    original = model.forward

    def forward(
        self: Model,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int = 1,
        **_: Any,  # Any: what a wrapper passes besides, all of it None
    ) -> dict[str, torch.Tensor]:
        # With a cache transformers would not see that texts are packed.
        inputs: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
        if attention_mask is not None:
            inputs["attention_mask"] = attention_mask
        if position_ids is not None:
            inputs["position_ids"] = position_ids
        if not has_plain_head:
            logits_BTV = original(**inputs).logits
            if self.training:
                loss = _whole_loss(logits_BTV, labels)
                return {"loss": loss / num_items_in_batch}
            return token_scores(logits_BTV, lambda logits_CV: logits_CV, labels, start_ids)
        hidden_BTH = self.base_model(**inputs).last_hidden_state
        head = self.get_output_embeddings()
        if self.training:
            torch.clear_autocast_cache()  # the layers' weights in bfloat16 are no longer needed
            loss = chunked_loss(hidden_BTH, head.weight, head.bias, labels)
            return {"loss": loss / num_items_in_batch}
        return token_scores(hidden_BTH, head, labels, start_ids)

    model.forward = types.MethodType(forward, model)


@torch.no_grad()
def has_plain_head(model: Model, ids_BT: torch.Tensor) -> bool:
    """Whether the logits are the head's product alone; some models scale or cap them."""
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear):
        return False
    hidden_BTH = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    return _are_close(head(hidden_BTH), model(input_ids=ids_BT, use_cache=False).logits)


@torch.no_grad()
def keeps_packed_texts_apart(model: Model, ids_BT: torch.Tensor) -> bool:
    """Whether a text [1, T] reads the same alone and behind another in the same row."""
    packed_BT = torch.cat([ids_BT.flip(1), ids_BT], dim=1)
    positions_BT = torch.arange(ids_BT.shape[1]).repeat(1, 2)
    packed_BTV = model(input_ids=packed_BT, position_ids=positions_BT, use_cache=False).logits
    alone_BTV = model(input_ids=ids_BT, use_cache=False).logits
    return _are_close(packed_BTV[:, ids_BT.shape[1] :], alone_BTV)


def _are_close(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not torch.isfinite(other).all():
        return True  # broken weights: the first step's loss tells
    tolerance = 1e-3 if one.dtype == torch.float32 else 5e-2
    scale = float(other.abs().max())
    return bool((one - other).abs().max() <= tolerance * scale)


def token_scores(
    hidden_BTH: torch.Tensor, head: ToLogits, labels_BT: torch.Tensor, start_ids: Sequence[int]
) -> dict[str, torch.Tensor]:
    """What position t thinks of token t + 1 [B, T - 1], and zeros where it has no label.

    nll in nats; is_best, whether no token is likelier; start_rank, how many tokens are likelier
    than the likeliest <API>.
    """
    labels_BT = labels_BT[:, 1:]
    counts_BT = labels_BT != IGNORED
    names = ("nll", "is_best", "start_rank")
    scores_BT = {name: torch.zeros(labels_BT.shape, device=labels_BT.device) for name in names}
    found: list[tuple[torch.Tensor, ...]] = []
    for hidden_CH, labels_C in _chunks(hidden_BTH[:, :-1][counts_BT], labels_BT[counts_BT]):
        logits_CV = head(hidden_CH).float()
        best_start_C1 = logits_CV[:, list(start_ids)].amax(1, keepdim=True)
        found.append(
            (
                cross_entropy(logits_CV, labels_C, reduction="none"),
                (logits_CV.argmax(1) == labels_C).float(),
                (logits_CV > best_start_C1).sum(1).float(),
            )
        )
    for name, parts in zip(names, zip(*found, strict=True), strict=False):
        scores_BT[name][counts_BT] = torch.cat(parts)
    return scores_BT


def _whole_loss(logits_BTV: torch.Tensor, labels_BT: torch.Tensor) -> torch.Tensor:
    return cross_entropy(
        logits_BTV[:, :-1].flatten(0, 1).float(), labels_BT[:, 1:].flatten(), reduction="sum"
    )


def chunked_loss(
    hidden_BTH: torch.Tensor,
    weight_VH: torch.Tensor,
    bias_V: torch.Tensor | None,
    labels_BT: torch.Tensor,
) -> torch.Tensor:
    """Sum of the negative log-likelihoods of the labels, in nats; IGNORED labels do not count.

    Equal to the full cross-entropy of the logits W h + b, gradients included.
    """
    counts_BT = labels_BT[:, 1:] != IGNORED
    hidden_NH, labels_N = hidden_BTH[:, :-1][counts_BT], labels_BT[:, 1:][counts_BT]
    apply: Callable[..., torch.Tensor] = _ChunkedLoss.apply  # untyped in torch
    return apply(hidden_NH, weight_VH, bias_V, labels_N)


class _ChunkedLoss(torch.autograd.Function):
    """Cross-entropy that finds its gradients in the forward pass and scales them in the backward.

    They are summed in float32 over the chunks, whatever the weight is: a sharded model's is
    bfloat16, and a sum in it would be rounded at every chunk.
    With p the softmax of the logits and y the label as a unit vector, the gradient is p - y at the
    logits, (p - y) W at the hidden state, (p - y)^T h at the weight.
    """

    @staticmethod
    def forward(
        ctx: Any,  # Any: untyped in torch
        hidden_NH: torch.Tensor,
        weight_VH: torch.Tensor,
        bias_V: torch.Tensor | None,
        labels_N: torch.Tensor,
    ) -> torch.Tensor:
        """The sum over all chunks."""
        dtype = _product_dtype(hidden_NH)
        cast_VH, cast_V = weight_VH.to(dtype), None if bias_V is None else bias_V.to(dtype)
        total = torch.zeros((), device=hidden_NH.device)
        of_hidden_NH = torch.empty_like(hidden_NH)
        needs_weight = ctx.needs_input_grad[1]
        of_weight_VH = torch.zeros_like(weight_VH, dtype=torch.float32) if needs_weight else None
        of_bias_V = None if bias_V is None else torch.zeros_like(bias_V, dtype=torch.float32)
        for hidden_CH, labels_C, of_hidden_CH in _chunks(hidden_NH, labels_N, of_hidden_NH):
            cast_CH = hidden_CH.to(dtype)
            error_CV = linear(cast_CH, cast_VH, cast_V).float()
            total += _softmax_error(error_CV, labels_C)
            error_CV = error_CV.to(dtype)
            of_hidden_CH.copy_(error_CV @ cast_VH)
            if of_weight_VH is not None:
                of_weight_VH += error_CV.T @ cast_CH
            if of_bias_V is not None:
                of_bias_V += error_CV.sum(0)
        ctx.gradients = of_hidden_NH, of_weight_VH, of_bias_V
        ctx.dtypes = hidden_NH.dtype, weight_VH.dtype, None if bias_V is None else bias_V.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outer: torch.Tensor) -> Any:  # Any: untyped in torch
        """The stored gradients, times the outer one."""
        gradients, ctx.gradients = ctx.gradients, None
        scaled = [None if g is None else g.mul_(outer[0]) for g in gradients]
        cast = [None if g is None else g.to(d) for g, d in zip(scaled, ctx.dtypes, strict=True)]
        return (*cast, None)


def _softmax_error(logits_CV: torch.Tensor, labels_C: torch.Tensor) -> torch.Tensor:
    """The chunk's loss; turns its logits into p - y in place."""
    logits_CV -= logits_CV.amax(1, keepdim=True)
    at_label_C1 = logits_CV.gather(1, labels_C[:, None])
    sums_C1 = logits_CV.exp_().sum(1, keepdim=True)
    logits_CV /= sums_C1
    logits_CV.scatter_add_(1, labels_C[:, None], -torch.ones_like(at_label_C1))
    return (sums_C1.log() - at_label_C1).sum()


def _product_dtype(hidden_NH: torch.Tensor) -> torch.dtype:
    """That of the model's other products."""
    device = hidden_NH.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return hidden_NH.dtype


def _chunks(*tensors: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
    return zip(*(torch.split(tensor, _CHUNK) for tensor in tensors), strict=True)
