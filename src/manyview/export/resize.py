"""The renderer's resizing in torch, of whole batches: the same whole weights, sums and grey levels.

See `taps_of` and `resample` of `views.engine.kernels`. Weights that are whole numbers make exact sums in any order, so
that a product with a matrix, most of which is zero, gives what the renderer adds up tap by tap.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF = 0.5
WHOLE = 65536.0  # what the weights of a pixel add up to
PART, LEVEL = 256.0, 16777216.0  # what the sums of rows, and then of columns, are divided by


def resized(levels: Tensor, whole: Tensor, part: tuple[int, int]) -> Tensor:
    """Whole grey levels [B, C, H, W], float32, resized to `whole`, of which the central `part` is made.

    whole: height and width, float64 [2]. part: height and width.
    """
    sides = sides_of(levels)
    firsts = ((whole - sides.new_tensor(part)) / 2).round()
    rows, columns = (
        _weights(sides[axis], levels.shape[axis + 2], whole[axis], firsts[axis], part[axis]) for axis in (0, 1)
    )
    # no sum passes 2^32: float64 has them exactly; a GPU's float32 products may round what goes in (TF32)
    mixed = ((rows @ levels.double() + PART / 2) / PART).floor()
    return ((mixed @ columns.T + LEVEL / 2) / LEVEL).floor().float()


def sides_of(levels: Tensor) -> Tensor:
    """Height and width, float64 [2]."""
    return torch.stack([levels.new_full((), levels.shape[axis], dtype=torch.float64) for axis in (2, 3)])


def _weights(length: Tensor, pixels: int, whole: Tensor, first: Tensor, part: int) -> Tensor:
    """What a pixel takes of each of the source, whole numbers that add up to `WHOLE`. [part, pixels]."""
    scale = length / whole
    reach = scale.clamp_min(1.0)
    count = (2 * reach).ceil().minimum(length)
    places = torch.arange(pixels, dtype=torch.float64)
    centre = (scale * (first + torch.arange(part, dtype=torch.float64) + HALF))[:, None]

    at = (centre - HALF).clamp_min(0).minimum(length - 1)
    base = at.floor().minimum(length - count)
    second = ((at - base) * WHOLE + HALF).floor()
    two = torch.where(places == base, WHOLE - second, torch.where(places == base + 1, second, 0.0))

    base = (centre - reach + HALF).floor().clamp_min(0).minimum(length - count)
    share = (reach - (places + HALF - centre).abs()).clamp_min(0)
    so_far = torch.where((places >= base) & (places < base + count), share, 0.0).cumsum(dim=1)
    reached = (so_far * (WHOLE / so_far[:, -1:]) + HALF).floor()
    many = reached - torch.nn.functional.pad(reached[:, :-1], (1, 0))
    return torch.where(scale <= 1, two, many)


__all__ = ["resized", "sides_of"]
