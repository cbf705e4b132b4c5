"""Ops of grey levels: posterize, autocontrast, equalize; and the 3x3 sharpness filter, with their functions.

They follow torchvision's uint8 kernels, whose rounding is part of the definition. What needs 256 levels, posterize and
equalize, rounds floats to them; the others leave floats as fine as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Code, Column
from manyview.views.ops.op import (
    Params,
    ViewParams,
    as_range,
    check_probability,
    coin_difference,
    draw,
    on_levels,
    over_span,
    per_image,
    where_applied,
)


@dataclass(frozen=True)
class Posterize:
    """Keeps the highest `bits` of the eight of each grey level, with probability p.

    bits: 0…8, or a pair (low, high) to draw a whole number from, both included. Parameters: `bits` int64 [B],
    `applied` [B].
    """

    anti: ClassVar = ("bits", "applied")
    bits: int | tuple[int, int] = 4
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        self.ends()

    def ends(self) -> tuple[int, int]:
        """The fewest and the most bits. Raises ValueError for what is not a number of bits."""
        low, high = pair = (
            self.bits if isinstance(self.bits, (tuple, list)) and len(self.bits) == 2 else (self.bits,) * 2
        )
        if not all(type(end) is int for end in pair) or not 0 <= low <= high <= 8:
            raise ValueError(f"bits must be a whole number in [0, 8] or a pair (low, high) of them, got {self.bits!r}")
        return low, high

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        low, high = self.ends()
        bits = low + draws.integers("bits", high - low + 1)[:, 0]
        return {"bits": bits, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        changed = on_levels(lambda levels: posterize(levels, params["bits"]), images)
        return where_applied(params["applied"], changed, images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.POSTERIZE, params["bits"][:, None], params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Bits of a minus those of b [B, 1], over 8 minus the fewest; 8 stands for "not applied"."""
        return over_span(a, b, "bits", self.ends(), neutral=8)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Sharpness:
    """Blends with a smoothed copy: 0 smooths, 1 changes nothing, 2 sharpens; with probability p.

    factor: a number, or a pair (low, high) to draw from (PIL's and torchvision's `sharpness_factor`). The outermost
    pixels stay. Parameters: `factor` [B], `applied` [B].
    """

    anti: ClassVar = ("factor", "applied")
    factor: float | tuple[float, float] = (0.1, 1.9)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        as_range("factor", self.factor, 0, 1e3)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        factor = draw(draws, "factor", as_range("factor", self.factor, 0, 1e3))
        return {"factor": factor, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return where_applied(params["applied"], sharpness(images, params["factor"]), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.SHARPEN, params["factor"][:, None], params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Factor of a minus that of b [B, 1], over the span of factors and 1; 1 stands for "not applied"."""
        return over_span(a, b, "factor", as_range("factor", self.factor, 0, 1e3), neutral=1.0)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Autocontrast:
    """Stretches each channel to the whole range, with probability p (torchvision: 0.5). Parameter: `applied` [B]."""

    anti: ClassVar = ("applied",)
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.p)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return where_applied(params["applied"], autocontrast(images), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.AUTOCONTRAST, applied=params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Applied in a minus applied in b [B, 1]."""
        return coin_difference(a, b)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Equalize:
    """Spreads each channel's grey levels evenly, with probability p (torchvision: 0.5). Parameter: `applied` [B]."""

    anti: ClassVar = ("applied",)
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.p)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return where_applied(params["applied"], on_levels(equalize, images), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.EQUALIZE, applied=params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Applied in a minus applied in b [B, 1]."""
        return coin_difference(a, b)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


def posterize(images: Tensor, bits: Tensor) -> Tensor:
    """Keeps the highest `bits` [B] of the eight of each level. images: uint8."""
    mask = 256 - 2 ** (8 - bits.to(images.device).long())
    return images & mask.to(torch.uint8).view(-1, 1, 1, 1)


def autocontrast(images: Tensor) -> Tensor:
    """Stretches each channel so that its darkest pixel becomes 0 and its brightest 1 (255); flat channels stay.

    images: uint8 or float [B, C, H, W]; the dtype is kept.
    """
    top = 1 if images.is_floating_point() else 255
    low, high = images.amin(dim=(2, 3), keepdim=True), images.amax(dim=(2, 3), keepdim=True)
    flat = low == high
    spread = torch.where(flat, top, high - low) * (1 / top)
    stretched = (images - low) / spread
    return torch.where(flat, images, stretched.clamp(0, top).to(images.dtype))


def equalize(images: Tensor) -> Tensor:
    """Spreads each channel's levels evenly over 0…255 by its cumulative histogram, with Pillow's integer arithmetic.

    images: uint8 [B, C, H, W]. Channels with too few pixels beside their brightest level stay, as there.
    """
    flat = images.flatten(2).long()
    counts = torch.zeros(*flat.shape[:2], 256, dtype=torch.long, device=images.device)
    counts.scatter_add_(2, flat, torch.ones_like(flat))
    brightest = flat.amax(dim=2, keepdim=True)
    step = (flat.shape[2] - counts.gather(2, brightest)) // 255
    safe = step.clamp_min(1)
    table = (counts.cumsum(dim=2) - counts + safe // 2) // safe
    equalized = table.clamp(0, 255).gather(2, flat)
    return torch.where(step == 0, flat, equalized).to(torch.uint8).view_as(images)


def sharpness(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with a smoothed copy: 0 smooths, 1 keeps, 2 sharpens. factor: [B]. The outermost pixels stay.

    images: uint8 or float [B, C, H, W]; the dtype is kept. The kernel is 1 everywhere and 5 in its middle, over 13.
    """
    if min(images.shape[-2:]) <= 2:
        return images
    fine = images.is_floating_point()
    levels = images.clone() if fine else images.float()
    inner = levels[..., 1:-1, 1:-1]
    rows = levels[..., :-2, :] + levels[..., 1:-1, :] + levels[..., 2:, :]
    smooth = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:] + 4 * inner) / 13
    smooth = smooth if fine else smooth.round()
    levels[..., 1:-1, 1:-1] = inner + per_image(1 - factor, levels) * (smooth - inner)
    return levels.clamp(0, 1 if fine else 255).to(images.dtype)
