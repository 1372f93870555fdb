"""Several processes that train one network: each takes its share of every global batch.

Batch size, learning rate, order of the images and their augmentation mean the same whatever the number of
processes: gradients and the statistics of batch norms are those of the global batch. So results differ by
rounding alone, and not at all between two runs with the same number.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

Value = TypeVar("Value")


@dataclass(frozen=True)
class World:
    """The processes of a run, `size` of them, this one being number `rank`. By default this one alone."""

    rank: int = 0
    size: int = 1

    def shard_indices(self, steps: int, batch_size: int, before: bool = False) -> Tensor:
        """Return where this process's images are in an epoch's order: (steps, batch_size / size) int64.

        `before`: with a first column for the image before its first one in the global batch, in a circle.
        """
        batches = torch.arange(steps * batch_size).view(steps, batch_size)
        count = batch_size // self.size
        first = self.rank * count
        own = batches[:, first : first + count]
        return torch.cat([batches[:, [first - 1]], own], 1) if before else own

    def shard(self, batch: Tensor) -> Tensor:
        """Return this process's part of a batch of any size; the parts together are the batch."""
        return batch.tensor_split(self.size)[self.rank]

    def all_reduce_sum(self, values: Tensor) -> Tensor:
        """Add up `values` over the processes, in place; they are the same everywhere then, to the bit."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def all_reduce_max(self, number: int) -> int:
        """Return the highest `number` of any process. Waits for the processes, but not for their GPUs."""
        if self.size == 1:
            return number
        numbers = torch.tensor(number)
        dist.all_reduce(numbers, dist.ReduceOp.MAX)
        return int(numbers)

    def broadcast(self, value: Value) -> Value:
        """Return what process 0 has; tensors in it lie on the CPU."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, device=torch.device("cpu"))
        return values[0]


SINGLE_PROCESS = World()


@contextmanager
def join(processes: int, device: torch.device) -> Iterator[World]:
    """Meet the other processes that torchrun started, through NCCL for tensors on a GPU, else through Gloo.

    When another process ends early, the next exchange raises what NCCL or Gloo raises.
    """
    if processes == 1:
        yield SINGLE_PROCESS
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo")
    healthy = True
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    except Exception:
        healthy = False
        raise
    finally:
        if healthy:  # else NCCL can wait here for what the others no longer send; the process ends anyway
            dist.destroy_process_group()


def wrap_ddp(module: nn.Module, *inputs: Any) -> DistributedDataParallel:
    """Return `module`, whose first output is a loss, such that a backward pass leaves the mean gradients.

    `inputs` are for one forward and backward pass that leaves no trace: only after it does PyTorch settle the
    order in which it adds gradients up, and a resumed run has to add in the order of an unbroken one.
    """
    # The later name in PyTorch 2.15. Buffers are equal without it.
    known = signature(DistributedDataParallel).parameters
    sync = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"
    settings: dict[str, Any] = {sync: False}
    replicated = DistributedDataParallel(module, **settings)
    buffers = [buffer.clone() for buffer in module.buffers()]
    replicated(*inputs)[0].backward()
    replicated.zero_grad()
    for buffer, before in zip(module.buffers(), buffers, strict=True):
        buffer.copy_(before)
    return replicated
