"""Data-parallel training with several processes, started by torchrun.

    torchrun --nproc-per-node=2 -m pipelines.train

For several machines add ``--nnodes`` and ``--rdzv-endpoint`` as torchrun documents. Every process
holds all rows (100 MB) and draws the same batches and dropout masks from the same seed. It computes
its share of each batch, and the gradients are averaged, so the result is that of one process up to
the order of float additions.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

T = TypeVar("T")


@contextmanager
def process_group(on_cuda: bool) -> Iterator[None]:
    """Join torchrun's process group, with one GPU per process; does nothing without torchrun."""
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
    """This process's rank and the number of processes; (0, 1) without a process group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def average_gradients(network: nn.Module) -> None:
    """Replace each gradient by its mean over the processes, in one message."""
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    flat = average(torch.cat([gradient.flatten() for gradient in gradients]))
    parts = flat.split([gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


def average(values: Tensor) -> Tensor:
    """The mean over the processes, in place."""
    dist.all_reduce(values)
    return values.div_(dist.get_world_size())


def broadcast_from_rank0(make: Callable[[], T]) -> T:
    """The result of ``make``, which is called by rank 0 only and sent to the other processes."""
    rank, size = rank_and_size()
    if size == 1:
        return make()
    objects = [make() if rank == 0 else None]
    dist.broadcast_object_list(objects, src=0)
    return cast(T, objects[0])
