"""Bicubic resampling by affine maps, as Pillow's `Image.transform`, which torchvision's policies call on images.

Sixteen pixels around a place are mixed, first along x, then along y, by Keys' cubic with a = -1 (Pillow's; torch's
`grid_sample` has -0.75). The outermost pixels go on beyond the edge for the mixture, but a place outside the image is
the fill. Results are clamped and cut off to whole levels, all as in Pillow. The compiled form is `kernels.warp_cubic`,
the same steps in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def warp_cubic(images: Tensor, matrices: Tensor, level: int) -> Tensor:
    """Images uint8 [B, C, H, W], resampled.

    matrices: [B, 2, 3] from output to source (x, y), in pixels from the centre. level: of what lies outside, 0 to 255.
    """
    height, width = images.shape[-2:]
    # programs hold float32: with the same digits, the same places
    maps = matrices.to(images.device, torch.float32).double()[:, :, :, None, None]
    x = torch.arange(width, device=images.device, dtype=torch.float64) + (0.5 - width / 2)
    y = (torch.arange(height, device=images.device, dtype=torch.float64) + (0.5 - height / 2))[:, None]
    at_x, at_y = (maps[:, axis, 0] * x + maps[:, axis, 1] * y + maps[:, axis, 2] for axis in (0, 1))
    at_x, at_y = at_x + width / 2, at_y + height / 2
    inside = (at_x >= 0) & (at_x < width) & (at_y >= 0) & (at_y < height)
    at_x, at_y = at_x.clamp(0, width) - 0.5, at_y.clamp(0, height) - 0.5
    first_x, first_y = at_x.floor(), at_y.floor()
    part_x, part_y = (at_x - first_x)[:, None], (at_y - first_y)[:, None]
    flat = images.flatten(2)
    rows = []
    for down in range(-1, 3):
        row = (first_y.long() + down).clamp(0, height - 1) * width
        taps = []
        for right in range(-1, 3):
            place = row + (first_x.long() + right).clamp(0, width - 1)
            tap = flat.gather(2, place.flatten(1)[:, None].expand(-1, images.shape[1], -1))
            taps.append(tap.view_as(images).double())
        rows.append(_mixed(taps, part_x))
    levels = _mixed(rows, part_y).clamp(0, 255).to(torch.uint8)  # cut off
    return torch.where(inside[:, None], levels, level)


def _mixed(neighbours: Sequence[Tensor], part: Tensor) -> Tensor:
    """The cubic through four neighbours, at `part` of the way from the second to the third."""
    v0, v1, v2, v3 = neighbours
    linear, square, cube = v2 - v0, 2 * (v0 - v1) + v2 - v3, v1 - v0 - v2 + v3
    return v1 + part * (linear + part * (square + part * cube))
