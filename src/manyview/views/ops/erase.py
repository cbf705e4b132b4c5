"""Parts of the image are hidden: Cutout (DeVries & Taylor, 2017), Random Erasing (Zhong et al., AAAI 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Code, Column
from manyview.views.ops.crop import ATTEMPTS, fractions
from manyview.views.ops.op import (
    PIXELS,
    Params,
    ViewParams,
    as_range,
    beside,
    check_probability,
    check_rgb,
    check_share,
    check_whole,
    where_applied,
)
from manyview.views.ops.sight import Sight

NOISE = "noise"


@dataclass(frozen=True)
class Cutout:
    """Fills a square of `size` pixels, centred anywhere in the image and cut at its edges, with probability p.

    fill: in [0, 1]. The authors mask after normalisation, where 0 is the mean colour, so the default is mid-grey.
    Parameters: `centre` [B, 2] (y, x as fractions of the frame), `applied` [B].
    """

    anti: ClassVar = ("centre", "applied")
    size: int
    p: float = 1.0
    fill: float = 0.5

    def __post_init__(self) -> None:
        check_whole("size", self.size, most=PIXELS)
        check_probability(self.p)
        check_share("fill", self.fill)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        centre = draws.integers("centre", sizes, 2) / sizes
        return {"centre": centre, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        hidden = square(params["centre"], torch.full_like(params["centre"][:, 0], self.size), images)
        fill = self.fill if images.is_floating_point() else round(self.fill * 255)
        return where_applied(params["applied"], images.masked_fill(hidden, fill), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        corner = (params["centre"] * sizes).round() - self.size // 2
        fill = torch.full((len(corner), 3), float(round(self.fill * 255)))
        return [Column(Code.FILL, torch.cat([corner, corner + self.size, fill], dim=1), params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Centre y and x of a minus those of b [B, 2], each in its own view's frame; 0 stands for "not applied"."""
        at_a, at_b = (p["centre"] * p["applied"][:, None] for p in (a, b))
        return at_a - at_b

    def shows(self, sight: Sight, params: Params, sizes: Tensor) -> Sight:
        corner = (params["centre"] * sizes).round() - self.size // 2
        return sight.hide(
            torch.cat([corner, torch.full_like(corner, self.size)], dim=1) / sizes.repeat(1, 2), params["applied"]
        )

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Erase:
    """Random Erasing: a box of random area and shape is filled, with probability p.

    scale: the box's share of the area, uniform. ratio: height / width, log-uniform. As in torchvision and timm, up to
    ten boxes are drawn until one is smaller than the image; if none is, nothing is erased and `applied` is false.
    value: in [0, 1], three such numbers for RGB, or "noise": uniform grey levels, one for each pixel and channel, as in
    the paper. (timm and torchvision, which erase after normalising, take normal noise, and 0 is the mean colour there.)
    Parameters: `box` [B, 4] (top, left, height, width as fractions of the frame), `applied` [B]; with noise also
    `seed` int64 [B], of which the noise is a pure function.
    """

    anti: ClassVar = ("top", "left", "applied")
    p: float = 0.5
    scale: tuple[float, float] = (0.02, 0.33)
    ratio: tuple[float, float] = (0.3, 3.3)
    value: float | tuple[float, float, float] | str = 0.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        as_range("scale", self.scale, 0, 1)
        as_range("ratio", self.ratio, 1e-3, 1e3)
        if self.value != NOISE:
            parts: tuple[Any, ...] = tuple(self.value) if isinstance(self.value, (tuple, list)) else (self.value,)
            if len(parts) not in (1, 3) or not all(type(v) in (int, float) and 0 <= v <= 1 for v in parts):
                raise ValueError(f"value must be a number in [0, 1], three of them or 'noise', got {self.value!r}")

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        height, width = sizes.double().T[:, :, None]  # [B, 1]
        area = height * width * draws.uniform("scale", ATTEMPTS, *as_range("scale", self.scale, 0, 1))
        low, high = as_range("ratio", self.ratio, 1e-3, 1e3)
        ratio = draws.uniform("ratio", ATTEMPTS, math.log(low), math.log(high)).exp()
        boxes_h, boxes_w = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (boxes_h > 0) & (boxes_h < height) & (boxes_w > 0) & (boxes_w < width)
        first = fits.int().argmax(dim=1, keepdim=True)
        box_h, box_w = boxes_h.gather(1, first), boxes_w.gather(1, first)
        top = draws.integers("top", height - box_h + 1)
        left = draws.integers("left", width - box_w + 1)
        found = fits.any(dim=1)
        box = fractions(torch.cat([top, left, box_h, box_w], dim=1), sizes)
        params = {
            "box": torch.where(found[:, None], box, 0.0),
            "applied": draws.coin("applied", self.p) & found,
        }
        if self.value == NOISE:
            params["seed"] = draws.integers("seed", 2**32)[:, 0]
        return params

    def render(self, images: Tensor, params: Params) -> Tensor:
        sides = beside(images.shape[-2:], params["box"])
        first, length = ((params["box"][:, part] * sides).round().long() for part in (slice(0, 2), slice(2, 4)))
        erased = torch.where(inside(first, length, images), self._filling(images, params), images)
        return where_applied(params["applied"], erased, images)

    def _filling(self, images: Tensor, params: Params) -> Tensor:
        """What stands in the box, for all pixels or one that broadcasts to them, in the images' dtype."""
        if self.value == NOISE:
            levels = noise(params["seed"].to(images.device), images.shape[1:])
            return levels.to(images.dtype) / 255 if images.is_floating_point() else levels.to(images.dtype)
        if isinstance(self.value, (tuple, list)):
            check_rgb("erase with three values", images)
        value = beside(self.value, images, torch.float64).view(1, -1, 1, 1)
        return (value if images.is_floating_point() else (value * 255).round()).to(images.dtype)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        first, length = (params["box"][:, part] * sizes for part in (slice(0, 2), slice(2, 4)))
        corners = [first.round(), (first.round() + length.round())]
        if self.value == NOISE:
            halves = torch.stack([params["seed"] >> 16, params["seed"] & 0xFFFF], dim=1)  # floats hold 24 bits
            return [Column(Code.NOISE, torch.cat([*corners, halves], dim=1), params["applied"])]
        levels = (255 * torch.tensor(self.value, dtype=torch.float64)).round().expand(len(first), 3)
        rgb = isinstance(self.value, (tuple, list))
        return [Column(Code.FILL, torch.cat([*corners, levels], dim=1), params["applied"], rgb=rgb)]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Centre y, centre x, height, width of a minus those of b [B, 4], each in its own view's frame.

        Zeros stand for "not applied".
        """
        at_a, at_b = (
            torch.cat([p["box"][:, :2] + p["box"][:, 2:] / 2, p["box"][:, 2:]], dim=1) * p["applied"][:, None]
            for p in (a, b)
        )
        return at_a - at_b

    def shows(self, sight: Sight, params: Params, sizes: Tensor) -> Sight:
        return sight.hide(params["box"], params["applied"])

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


def square(centre: Tensor, sides: Tensor, images: Tensor) -> Tensor:
    """Which pixels a square of `sides` [B] whole pixels around `centre` [B, 2] (fractions) hides; bool [B, 1, H, W]."""
    extents = beside(images.shape[-2:], centre)
    length = sides.long()[:, None].expand(-1, 2)
    return inside((centre * extents).round().long() - length // 2, length, images)


def inside(first: Tensor, length: Tensor, images: Tensor) -> Tensor:
    """Which pixels lie in boxes of `length` [B, 2] from `first` [B, 2] (y, x, whole pixels) on; bool [B, 1, H, W]."""
    first, length = first.to(images.device), length.to(images.device)
    rows, columns = (
        (position >= first[:, axis, None]) & (position < (first + length)[:, axis, None])
        for axis, position in enumerate(torch.arange(side, device=images.device) for side in images.shape[-2:])
    )
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def noise(seed: Tensor, shape: torch.Size) -> Tensor:
    """Uniform grey levels 0…255, int64 [B, *shape], a pure function of each image's seed [B] in [0, 2**32).

    The level of position n (of the flattened image) is the highest byte of mix(mix(n) + seed).
    """
    position = torch.arange(math.prod(shape), device=seed.device)
    return (mix(mix(position) + seed[:, None]) >> 24).view(len(seed), *shape)


def mix(values: Tensor) -> Tensor:
    """A bijection of 32-bit words, held in int64, whose output bits each depend on all input bits.

    Constants: "lowbias32" of Chris Wellons's hash prospector (2018, public domain).
    """
    word = values & 0xFFFFFFFF
    word = ((word ^ (word >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    word = ((word ^ (word >> 15)) * 0x846CA68B) & 0xFFFFFFFF
    return word ^ (word >> 16)
