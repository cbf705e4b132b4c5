"""BatchNorm whose moments are those of all processes' images: torch's own on GPUs, and one of ours on CPUs.

torch's SyncBatchNorm refuses CPUs. Ours joins each process's mean m_p, sum of squares about it s_p and count n_p

    m = sum n_p m_p / n            v = sum (s_p + n_p (m_p - m)^2) / n            n = sum n_p

(Chan, Golub, LeVeque, 1979: nothing cancels), by one gather that gradients flow back through (`distributed.gather`), so
that they are exactly those of BatchNorm on the joined batch.
"""

from __future__ import annotations

from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from manyview.foundation.distributed import gather
from manyview.foundation.group import alone


def sync_batchnorm(step: nn.Module, processes: int, device: torch.device) -> None:
    """Makes every BatchNorm inside the step take its moments over the images of all processes, in place.

    Parameters, buffers and their names stay the same. One process has nothing to synchronise, and nothing is changed.
    """
    from timm.layers import convert_sync_batchnorm

    if processes == 1:
        return
    if device.type != "cpu":
        convert_sync_batchnorm(step)
        return
    for norm in (module for module in step.modules() if isinstance(module, _BatchNorm)):
        # DistributedDataParallel refuses torch's class on CPUs whatever it does, so theirs stay; a copy's is its own
        norm.forward = MethodType(_forward, norm)  # type: ignore[method-assign]


def is_synchronised(norm: nn.Module) -> bool:
    """Whether `sync_batchnorm` was here."""
    return isinstance(norm, nn.SyncBatchNorm) or "forward" in vars(norm)


def alone_again(step: nn.Module) -> None:
    """Takes back, in place, what `sync_batchnorm` did, for a copy that one process alone looks with."""
    from timm.layers import BatchNormAct2d

    for norm in step.modules():
        if isinstance(norm, _BatchNorm):
            vars(norm).pop("forward", None)
        if isinstance(norm, nn.SyncBatchNorm):
            alike: type[nn.Module] = BatchNormAct2d if hasattr(norm, "act") else _OfAnyShape
            norm.__class__ = alike  # type: ignore[assignment]


class _OfAnyShape(_BatchNorm):
    """Of vectors, images or volumes, as what SyncBatchNorm took the place of."""

    def _check_input_dim(self, input: Tensor) -> None: ...


def _forward(norm: _BatchNorm, images: Tensor) -> Tensor:
    if not norm.training or alone():
        return type(norm).forward(norm, images)
    made = normalised(norm, images)
    for after in ("drop", "act"):  # of timm's BatchNormAct2d
        made = getattr(norm, after)(made) if hasattr(norm, after) else made
    return made


def normalised(norm: _BatchNorm, images: Tensor) -> Tensor:
    """Images [B, C, …], normalised by the moments of all processes', which enter the running statistics."""
    wide = images.float() if images.dtype in (torch.float16, torch.bfloat16) else images
    others = [0, *range(2, wide.ndim)]
    mean = wide.mean(others)
    shape = [-1, *(1 for _ in others[1:])]
    squares = (wide - mean.view(shape)).square().sum(others)
    count = torch.full_like(mean, wide.numel() / wide.shape[1])
    means, sums, counts = gather(torch.stack([mean, squares, count])[None]).unbind(1)  # [processes, C] each
    total = counts.sum(0)
    mean = (counts * means).sum(0) / total
    variance = (sums + counts * (means - mean).square()).sum(0) / total
    if norm.track_running_stats and norm.running_mean is not None:
        _follow(norm, mean.detach(), (variance * total / (total - 1)).detach())
    made = (wide - mean.view(shape)) * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        made = made * norm.weight.view(shape) + norm.bias.view(shape)
    return made.to(images.dtype)


@torch.no_grad()
def _follow(norm: _BatchNorm, mean: Tensor, variance: Tensor) -> None:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    share = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    norm.running_mean += share * (mean - norm.running_mean)
    norm.running_var += share * (variance - norm.running_var)


__all__ = ["alone_again", "is_synchronised", "normalised", "sync_batchnorm"]
