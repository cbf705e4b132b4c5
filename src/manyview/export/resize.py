"""The renderer's resizing in torch, of whole batches: the same float32 numbers in the same order and grey levels.

See `triangle`, `resample` and `enlarge` of `views.engine.kernels`. A graph of ONNX holds it as loops over the taps.
"""

from __future__ import annotations

import torch
from torch import Tensor

HALF = 0.5


def resized(levels: Tensor, whole: Tensor, part: tuple[int, int]) -> Tensor:
    """Whole grey levels [B, C, H, W], float32, resized to `whole`, of which the central `part` is made.

    whole: height and width, float64 [2]. part: height and width.
    """
    sides = sides_of(levels)
    firsts = ((whole - sides.new_tensor(part)) / 2).round()
    enlarges = (sides <= whole).all()
    return torch.where(
        enlarges, _enlarged(levels, sides, whole, firsts, part), _mixed(levels, sides, whole, firsts, part)
    )


def sides_of(levels: Tensor) -> Tensor:
    """Height and width, float64 [2]."""
    return torch.stack([levels.new_full((), levels.shape[axis], dtype=torch.float64) for axis in (2, 3)])


def _fused(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """a * b + c of float32 numbers, rounded once."""
    return (a.double() * b.double() + c.double()).float()


def _enlarged(levels: Tensor, sides: Tensor, whole: Tensor, firsts: Tensor, part: tuple[int, int]) -> Tensor:
    """Two taps each way, columns first."""
    made = levels
    for axis in (1, 0):
        length = sides[axis].float()
        places = firsts[axis].float() + torch.arange(part[axis], dtype=torch.float32)
        at = ((length / whole[axis].float()) * (places + HALF) - HALF).clamp_min(0).minimum(length - 1)
        base = at.floor().minimum((length - 2).clamp_min(0))
        share = (at - base).view(-1, *[1] * (1 - axis))
        here = made.index_select(axis + 2, base.long())
        after = made.index_select(axis + 2, (base + 1).minimum(length - 1).long())
        made = _fused(share, after - here, here)
    return (made + HALF).floor()


def _mixed(levels: Tensor, sides: Tensor, whole: Tensor, firsts: Tensor, part: tuple[int, int]) -> Tensor:
    """The antialiased triangle filter, rows first; one row alone is taken as it is."""
    for axis in (0, 1):
        levels = _sum(levels, axis, *_taps(sides[axis], whole[axis], firsts[axis], part[axis]))
    return levels.floor()


def _taps(length: Tensor, whole: Tensor, first: Tensor, part: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The first tap, how many, the centre and the reach of each pixel that is made, float64 [part]."""
    scale = length / whole
    reach = scale.clamp_min(1.0)
    centre = scale * (first + torch.arange(part, dtype=torch.float64) + HALF)
    begin = (centre - reach + HALF).floor().clamp_min(0)
    end = (centre + reach + HALF).floor().minimum(length)
    return begin, end - begin, centre, reach


def _weight(tap: Tensor, begin: Tensor, count: Tensor, centre: Tensor, reach: Tensor) -> Tensor:
    """Of the tap with that number, 0 of a pixel's first."""
    weight = (1 - (begin + tap + HALF - centre).abs() / reach).clamp_min(0)
    return torch.where((tap >= 0) & (tap < count), weight, 0.0)


def _sum(levels: Tensor, axis: int, begin: Tensor, count: Tensor, centre: Tensor, reach: Tensor) -> Tensor:
    """Rows (axis 0) or columns of the images, weighted; to columns a half is added, to be rounded by."""
    from torch._higher_order_ops.while_loop import while_loop  # torch's own for graphs, which is not public yet

    pixels = torch.arange(levels.shape[axis + 2], dtype=torch.float64)[:, None]
    share = (1 / _weight(pixels - begin, begin, count, centre, reach).sum(dim=0)).float()  # so that weights sum to 1

    def goes_on(tap: Tensor, made: Tensor) -> Tensor:
        return tap < count.max()

    def add(tap: Tensor, made: Tensor) -> tuple[Tensor, Tensor]:
        weight = _weight(tap, begin, count, centre, reach).float() * share
        if axis == 0:
            weight = torch.where(count == 1, (tap == 0).float(), weight)
        at = (begin + tap).clamp_max(levels.shape[axis + 2] - 1).long()
        return tap + 1, _fused(weight.view(-1, *[1] * (1 - axis)), levels.index_select(axis + 2, at), made)

    shape = [*levels.shape]
    shape[axis + 2] = len(begin)
    made = levels.new_full(shape, HALF if axis else 0.0)
    return while_loop(goes_on, add, (begin.new_zeros(()), made))[1]


__all__ = ["resized", "sides_of"]
