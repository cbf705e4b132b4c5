"""The renderer's resizing in torch, of whole batches: the same whole numbers, and so the same grey levels.

See `taps_of` and `resample` of `views.engine.kernels`. Its sums are of whole numbers below 2**32, which float64 holds
exactly in whatever order they are added, so a graph of ONNX has them as two products of matrices.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF = 0.5
WHOLE = 2.0**16
"""What the weights of a mixture add up to; the kernels have the same."""


def resized(levels: Tensor, whole: Tensor, part: tuple[int, int]) -> Tensor:
    """Whole grey levels [B, C, H, W], float32, resized to `whole`, of which the central `part` is made.

    whole: height and width, float64 [2]. part: height and width.
    """
    sides = sides_of(levels)
    firsts = ((whole - sides.new_tensor(part)) / 2).round()
    rows, columns = (
        _weights(levels.shape[axis + 2], sides[axis], whole[axis], firsts[axis], part[axis]) for axis in (0, 1)
    )
    mixed = ((rows.T @ levels.double()) / 2**8 + HALF).floor()  # rows first, to 256 parts of a level
    return ((mixed @ columns) / 2**24 + HALF).floor().float()


def sides_of(levels: Tensor) -> Tensor:
    """Height and width, float64 [2]."""
    return torch.stack([levels.new_full((), levels.shape[axis], dtype=torch.float64) for axis in (2, 3)])


def _weights(count: int, length: Tensor, whole: Tensor, first: Tensor, part: int) -> Tensor:
    """How much of each of `count` pixels every pixel takes that is made, whole numbers [count, part], float64.

    length: `count` as a number of the graph.
    """
    scale = length / whole
    centre = scale * (first + torch.arange(part, dtype=torch.float64) + HALF)
    pixels = torch.arange(count, dtype=torch.float64)[:, None]
    return torch.where(scale > 1, _mixed(pixels, length, centre, scale), _enlarged(pixels, length, centre))


def _enlarged(pixels: Tensor, length: Tensor, centre: Tensor) -> Tensor:
    """Of two pixels, each as much as the centre is near it."""
    at = (centre - HALF).clamp_min(0).minimum(length - 1)
    base = at.floor().minimum((length - 2).clamp_min(0))
    second = ((at - base) * WHOLE + HALF).floor()
    return torch.where(pixels == base, WHOLE - second, torch.where(pixels == base + 1, second, 0.0))


def _mixed(pixels: Tensor, length: Tensor, centre: Tensor, reach: Tensor) -> Tensor:
    """The antialiased triangle filter. Sums of shares are rounded, so that the weights add up."""
    taps = (2 * reach).ceil().minimum(length)
    base = (centre - reach + HALF).floor().clamp_min(0).minimum(length - taps)
    inside = (pixels >= base) & (pixels < base + taps)
    share = torch.where(inside, (reach - (pixels + HALF - centre).abs()).clamp_min(0), 0.0)
    so_far = share.cumsum(dim=0)
    reached = (so_far * (WHOLE / so_far[-1]) + HALF).floor()
    return reached - torch.nn.functional.pad(reached[:-1], (0, 0, 1, 0))


__all__ = ["resized", "sides_of"]
