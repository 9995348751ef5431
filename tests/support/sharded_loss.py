"""The loss of a model that FSDP shards over processes; run by torch.distributed.run.

Prints the loss of the whole batch and the largest difference of a gradient from those of one model
that is not sharded.
"""

import json
import sys

import torch
from torch import distributed
from torch.distributed.fsdp import fully_shard

from tests.support.tiny_model import tiny_llama
from toolformer_core.training.loss import give_own_loss


def own_model() -> torch.nn.Module:
    model = tiny_llama().train()
    give_own_loss(model, [7], has_plain_head=True)
    return model


def main() -> None:
    distributed.init_process_group("gloo")
    rank, size = distributed.get_rank(), distributed.get_world_size()
    ids_BT = torch.randint(0, 400, (4, 40), generator=torch.Generator().manual_seed(9))
    count = 4 * 39
    whole = own_model()
    expected = whole(input_ids=ids_BT, labels=ids_BT, num_items_in_batch=count)["loss"]
    expected.backward()

    sharded = own_model()
    mesh = distributed.init_device_mesh("cpu", (size,))
    for layer in sharded.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    sharded.activation_checkpointing_enable()
    part_BT = ids_BT.chunk(size)[rank]
    loss = sharded(input_ids=part_BT, labels=part_BT, num_items_in_batch=count)["loss"]
    (loss * size).backward()  # FSDP takes the mean over processes
    found = loss.detach().clone()
    distributed.all_reduce(found)
    pairs = zip(sharded.parameters(), whole.parameters(), strict=True)
    differences = [float((p.grad.full_tensor() - q.grad).abs().max()) for p, q in pairs]
    if rank == 0:
        figures = {"loss": float(found), "expected": float(expected.detach())}
        sys.stdout.write(json.dumps({**figures, "difference": max(differences)}))
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
