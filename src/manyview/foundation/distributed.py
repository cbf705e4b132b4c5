"""Several processes: the whole batch, with its gradients, for losses that look at it; numbers all have to agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

if TYPE_CHECKING:
    from accelerate import Accelerator


def gather(tensor: Tensor) -> Tensor:
    """Rows of all processes in rank order, [B, …] -> [world*B, …]; the tensor itself on a single process.

    Gradients flow back to the rows' owners. Every process then holds the same loss of the joined batch, the
    backward pass sums its `world` copies, and DistributedDataParallel's mean over processes divides by `world`:
    parameters receive the gradient of a single process on the joined batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    return _Gathered.apply(tensor.contiguous())


class _Gathered(torch.autograd.Function):
    """What `torch.distributed.nn.functional.all_gather` did, which torch now calls deprecated, joined."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """What each process's loss says of these rows, added in the order of the processes, so that it is one sum."""
        told = torch.empty_like(gradient, memory_format=torch.contiguous_format)
        dist.all_to_all_single(told, gradient.contiguous())
        return torch.stack(told.chunk(dist.get_world_size())).sum(0)


def largest(number: int, accelerator: Accelerator) -> int:
    """The largest of all processes' numbers, the same on all of them."""
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())


def union(lines: Iterable[str], accelerator: Accelerator) -> list[str]:
    """The lines of all processes, sorted, each once; the same on all of them."""
    from accelerate.utils import gather_object

    return sorted({*(gather_object([*lines]) if accelerator.num_processes > 1 else lines)})


def mean_of(measures: Mapping[str, float], accelerator: Accelerator) -> dict[str, float]:
    """Each measure's mean over the processes, the same on all of them."""
    values = torch.tensor(list(measures.values()), dtype=torch.float64, device=accelerator.device)
    return dict(zip(measures, accelerator.reduce(values, "mean").tolist(), strict=True))
