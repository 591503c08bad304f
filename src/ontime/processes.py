"""Several processes, one training: what torchrun starts, and how they stay one model.

    torchrun --nproc-per-node=2 -m pipelines.train --as-of 2013-05-01

On several machines the command line is the same, with ``--nnodes`` and ``--rdzv-endpoint`` as
torchrun documents them. Every process holds the whole table (100 MB), draws the same batch and the
same masks from the same seed, and computes its share of the rows; the gradients are averaged. So
they do what one process does, up to the order in which floats are added.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

Made = TypeVar("Made")


@contextmanager
def process_group(on_cuda: bool) -> Iterator[None]:
    """Join the processes that torchrun started; alone without it. One GPU a process."""
    if "LOCAL_RANK" not in os.environ:
        yield
        return
    if on_cuda:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def rank_and_size() -> tuple[int, int]:
    """Which process this is, and of how many."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average_gradients(network: nn.Module) -> None:
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    together = average(torch.cat([gradient.flatten() for gradient in gradients]))  # one message
    parts = together.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def average(values: Tensor) -> Tensor:
    """The mean over the processes, in place."""
    dist.all_reduce(values)
    return values.div_(dist.get_world_size())


def from_first(make: Callable[[], Made]) -> Made:
    """What the first process makes, for all of them; who is alone makes it."""
    rank, size = rank_and_size()
    if size == 1:
        return make()
    box = [make() if rank == 0 else None]
    dist.broadcast_object_list(box, src=0)
    return cast(Made, box[0])
