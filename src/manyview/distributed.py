"""What a loss that looks at the whole batch needs on several processes: the whole batch, with its gradients."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn.functional import all_gather


def gather(tensor: Tensor) -> Tensor:
    """Rows of all processes in rank order, [B, …] -> [world*B, …]; the tensor itself on a single process.

    Gradients flow back to the rows' owners. Every process then holds the same loss of the joined batch, the
    backward pass sums its `world` copies, and DistributedDataParallel's mean over processes divides by `world`:
    parameters receive the gradient of a single process on the joined batch.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    return torch.cat(all_gather(tensor.contiguous()))
