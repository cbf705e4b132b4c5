"""Where a pixel of the output lies in its source, and what is read there: for maps, policies and perspective.

The compiled kernels `warp`, `project` and `gather` compute the same numbers in the same steps, so that a place right
between two pixels falls to the same one in both. Each step is one float32 operation, rounded once; products are taken
in float64, which holds them exactly, so that no matrix library, and no compiler that fuses them with sums, rounds them
otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor

Places = tuple[Tensor, Tensor]  # y and x in pixels of the source, float32 [B, H, W]


def affine_places(matrices: Tensor, images: Tensor) -> Places:
    """Places in images [B, C, H, W] under maps from output to source (x, y), in pixels from the centre [B, 2, 3].

    By way of torchvision's grid in [-1, 1] and its steps, since ties fall as the rounding of these steps has it.
    """
    height, width, device = images.shape[-2], images.shape[-1], images.device
    matrices = matrices.to(device, torch.float32)
    x = torch.arange(width, device=device, dtype=torch.float32) + (1 - width) / 2
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None] + (1 - height) / 2
    places = []
    for row, side in ((1, height), (0, width)):
        by_x, by_y, shift = (matrices[:, row] / _number(side / 2, device)).view(-1, 3, 1, 1).unbind(dim=1)
        along = (by_y.double() * y.double() + _product(by_x, x).double()).float()
        places.append(_from_grid(along + shift, side))
    return places[0], places[1]


def projective_places(maps: Tensor, images: Tensor) -> Places:
    """Places in images [B, C, H, W] under maps from output to source (x, y, 1), in pixels from the corner [B, 3, 3]."""
    height, width, device = images.shape[-2], images.shape[-1], images.device
    maps = maps.to(device, torch.float32)[..., None, None]
    x = torch.arange(width, device=device, dtype=torch.float32) + 0.5
    y = torch.arange(height, device=device, dtype=torch.float32)[:, None] + 0.5
    along_x, along_y, depth = (
        _product(maps[:, row, 0], x) + _product(maps[:, row, 1], y) + maps[:, row, 2] for row in range(3)
    )
    grid_y, grid_x = (
        along / _number(side / 2, device) / depth - 1 for along, side in ((along_y, height), (along_x, width))
    )
    return _from_grid(grid_y, height), _from_grid(grid_x, width)


def sample(images: Tensor, places: Places, mode: str, fill: float, twice: bool = True) -> Tensor:
    """Images read at places, with `fill`, in their own units, outside; places that are no numbers lie outside.

    images: float [B, C, H, W]. mode: "nearest", halves to the even pixel, or "bilinear". Between the outermost pixels
    and the outside, bilinear sampling mixes by shares. twice: the fill's share counts twice there, as torchvision has
    it where a fill is given: once since it takes the outside for black, and once for the fill.
    """
    height, width = images.shape[-2:]
    y, x = places
    flat = images.flatten(2)

    def read(row: Tensor, column: Tensor) -> Tensor:
        at = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
        return flat.gather(2, at.flatten(1)[:, None].expand(-1, flat.shape[1], -1)).view(*flat.shape[:2], *y.shape[1:])

    if mode == "nearest":
        y, x = y.round(), x.round()
        inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
        y, x = (torch.where(inside, place, 0.0) for place in (y, x))
        return torch.where(inside[:, None], read(y, x), fill)

    touched = (y > -1) & (y < height) & (x > -1) & (x < width)
    y, x = (torch.where(touched, place, -1.0) for place in (y, x))
    top, left = (y + 1).floor() - 1, (x + 1).floor() - 1
    upper, lower = _shares(y - top, top, height)
    west, east = _shares(x - left, left, width)
    above = west * read(top, left) + east * read(top, left + 1)
    below = west * read(top + 1, left) + east * read(top + 1, left + 1)
    mixed = upper * above + lower * below
    whole = (upper + lower) * (west + east)
    return (mixed - fill) * whole + fill if twice else mixed + (1 - whole) * fill


def _shares(part: Tensor, first: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Shares [B, 1, H, W] of pixel `first` and of the next one; 0 for one that lies outside."""
    one = torch.where((first >= 0) & (first < side), 1 - part, 0.0)
    other = torch.where(first < side - 1, part, 0.0)
    return one[:, None], other[:, None]


def _from_grid(grid: Tensor, side: int) -> Tensor:
    """Pixels from a grid in [-1, 1] over `side` of them."""
    return (_product(grid + 1, _number(side, grid.device)) - 1) / 2


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Of float32 numbers, rounded once, whatever it is added to."""
    return (one.double() * other.double()).float()


def _number(value: float, device: torch.device) -> Tensor:
    """A divisor that devices divide by; a bare number they multiply by its reciprocal."""
    return torch.full((), value, dtype=torch.float32, device=device)
