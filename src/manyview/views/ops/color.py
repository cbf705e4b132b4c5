"""Colour: jitter, its parts as ops of their own, grayscale, orders of channels, and the point functions beneath them.

The point functions take one factor an image and follow torchvision's definitions: brightness multiplies; contrast
blends with the image's mean luma; saturation blends with the luma; hue turns the HSV circle. Floats in [0, 1] stay
floats. uint8 stays uint8, rounded as torchvision and PIL do: luma and blends are cut off to whole levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Code, Column
from manyview.views.ops.op import (
    Params,
    ViewParams,
    as_float,
    as_range,
    beside,
    check_probability,
    check_rgb,
    coin_difference,
    draw,
    over_span,
    per_image,
    where_applied,
)

LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class Jitter:
    """Random brightness, contrast, saturation and hue, in an order of its own for each image.

    brightness, contrast, saturation: b stands for a factor in [max(0, 1 - b), 1 + b]; or a pair (low, high).
    hue: h <= 0.5 stands for a shift in [-h, h] turns; or a pair. p: the chance that an image is jittered at all.
    saturate: "luma", which blends with the luma as torchvision, or "hsv", which scales S of HSV as kornia, with which
    AugSelf's runs were made (0.05 apart on average).
    Parameters: `factors` [B, 4] (three factors and the shift), `order` [B, 4], `applied` [B]. Order and coin are an
    image's own, where torchvision's and AugSelf's code share the order within a batch.
    """

    anti: ClassVar = ("factors", "applied")
    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    p: float = 1.0
    saturate: str = "luma"

    def __post_init__(self) -> None:
        check_probability(self.p)
        if self.saturate not in ("luma", "hsv"):
            raise ValueError(f"saturate must be 'luma' or 'hsv', got {self.saturate!r}")
        self.ranges()

    def ranges(self) -> list[tuple[float, float]]:
        """(low, high) of the three factors and the shift. Raises ValueError for values out of bounds."""
        given = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        ranges = []
        for name, value in given.items():
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                if value < 0:
                    raise ValueError(f"{name} must not be negative, got {value}")
                value = (max(0.0, 1 - value), 1 + value)
            ranges.append(as_range(name, value, 0, 1e3))
        hue = (-self.hue, self.hue) if isinstance(self.hue, (int, float)) else self.hue
        return [*ranges, as_range("hue", hue, -0.5, 0.5)]

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        low, high = np.array(self.ranges()).T
        return {
            "factors": torch.from_numpy(low + (high - low) * draws.uniform("factors", 4).numpy()),
            "order": draws.permutation("order", 4),
            "applied": draws.coin("applied", self.p),
        }

    def render(self, images: Tensor, params: Params) -> Tensor:
        check_rgb("jitter", images)
        out = as_float(images).clone()
        factors = params["factors"].to(images.device)
        active = [
            low != high or low != neutral for (low, high), neutral in zip(self.ranges(), (1, 1, 1, 0), strict=True)
        ]
        own_saturation = saturation_hsv if self.saturate == "hsv" else saturation
        # the CPU makes the chosen rows alone; elsewhere to count these would hold up the device, or break the graph
        choose = images.device.type == "cpu" and not torch.compiler.is_compiling()
        for turn in range(4):
            for kind, function in enumerate((brightness, contrast, own_saturation, hue)):
                chosen = params["applied"] & (params["order"][:, turn] == kind)
                if active[kind] and choose:
                    rows = chosen.nonzero()[:, 0]
                    out[rows] = function(out[rows], factors[rows, kind])
                elif active[kind]:
                    out = where_applied(chosen, function(out, factors[:, kind]), out)
        return out

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        factors, order = params["factors"].numpy(), params["order"].numpy()
        numbers = np.empty((len(factors), 9), np.float32)
        numbers[:, :4], numbers[:, 4:8], numbers[:, 8] = factors, order, factors[:, 2]
        if self.saturate == "hsv":  # which stands behind the order, as the factor of number 8
            numbers[:, 4:8][order == 2] = 8
        return [Column(Code.JITTER, torch.from_numpy(numbers), params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Brightness, contrast, saturation, hue [B, 4], a minus b, each over its range's width (AugSelf).

        1 (for hue 0) stands for "not applied". A range that leaves it out is as wide as up to it, as in `over_span`.
        """
        ends = beside(self.ranges(), a["factors"], torch.float64)
        neutral = beside([1.0, 1.0, 1.0, 0.0], ends, torch.float64)
        low, high = ends.T
        span = torch.maximum(high, neutral) - torch.minimum(low, neutral)
        width = torch.where(span > 0, span, 1.0)
        strength_a, strength_b = ((p["factors"] - neutral) / width * p["applied"][:, None] for p in (a, b))
        return strength_a - strength_b

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Grayscale:
    """All three channels become the luma, with probability p. Parameter: `applied` [B]."""

    anti: ClassVar = ("applied",)
    p: float = 0.1

    def __post_init__(self) -> None:
        check_probability(self.p)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        check_rgb("grayscale", images)
        images = as_float(images)
        return where_applied(params["applied"], luma(images).expand_as(images), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.GRAY, applied=params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Applied in a minus applied in b [B, 1]."""
        return coin_difference(a, b)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Brightness:
    """Multiplies all pixels by a factor, with probability p.

    factor: a number, or a pair (low, high) to draw from; 1 changes nothing, and
    `jitter(brightness=x)` draws from (1 - x, 1 + x).
    Parameters: `factor` [B], `applied` [B].
    """

    anti: ClassVar = ("factor", "applied")
    factor: float | tuple[float, float] = (0.6, 1.4)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        as_range("factor", self.factor, 0, 1e3)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        factor = draw(draws, "factor", as_range("factor", self.factor, 0, 1e3))
        return {"factor": factor, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return where_applied(params["applied"], brightness(images, params["factor"]), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.LEVELS, params["factor"][:, None], params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Factor of a minus that of b [B, 1], over the span of factors and 1; 1 stands for "not applied"."""
        return over_span(a, b, "factor", as_range("factor", self.factor, 0, 1e3), neutral=1.0)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Contrast:
    """Blends with the image's mean luma: 0 makes it flat grey, 2 doubles contrast; with probability p. RGB only.

    factor: a number, or a pair (low, high) to draw from; 1 changes nothing, and
    `jitter(contrast=x)` draws from (1 - x, 1 + x).
    Parameters: `factor` [B], `applied` [B].
    """

    anti: ClassVar = ("factor", "applied")
    factor: float | tuple[float, float] = (0.6, 1.4)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        as_range("factor", self.factor, 0, 1e3)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        factor = draw(draws, "factor", as_range("factor", self.factor, 0, 1e3))
        return {"factor": factor, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        check_rgb("contrast", images)
        return where_applied(params["applied"], contrast(images, params["factor"]), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.CONTRAST, params["factor"][:, None], params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Factor of a minus that of b [B, 1], over the span of factors and 1; 1 stands for "not applied"."""
        return over_span(a, b, "factor", as_range("factor", self.factor, 0, 1e3), neutral=1.0)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Color:
    """Blends with each pixel's luma: 0 makes it grey, 2 doubles saturation; with probability p. RGB only.

    factor: a number, or a pair (low, high) to draw from; 1 changes nothing, and
    `jitter(saturation=x)` draws from (1 - x, 1 + x).
    Parameters: `factor` [B], `applied` [B].
    """

    anti: ClassVar = ("factor", "applied")
    factor: float | tuple[float, float] = (0.6, 1.4)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        as_range("factor", self.factor, 0, 1e3)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        factor = draw(draws, "factor", as_range("factor", self.factor, 0, 1e3))
        return {"factor": factor, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        check_rgb("color", images)
        return where_applied(params["applied"], saturation(images, params["factor"]), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.SATURATE, params["factor"][:, None], params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Factor of a minus that of b [B, 1], over the span of factors and 1; 1 stands for "not applied"."""
        return over_span(a, b, "factor", as_range("factor", self.factor, 0, 1e3), neutral=1.0)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class ChannelPermutation:
    """Shuffles red, green and blue, all six orders alike, with probability p. Parameters: `order` [B, 3], `applied`."""

    anti: ClassVar = ("applied",)
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"order": draws.permutation("order", 3), "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        check_rgb("channel_permutation", images)
        order = params["order"].to(images.device)
        permuted = images[torch.arange(len(images), device=images.device)[:, None], order]
        return where_applied(params["applied"], permuted, images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.PERMUTE, params["order"], params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """The order that makes view a's channels from view b's, int64 [B, 3]."""
        order_a, order_b = (
            torch.where(p["applied"][:, None], p["order"], torch.arange(3, device=p["order"].device)) for p in (a, b)
        )
        return order_b.argsort(dim=1).gather(1, order_a)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


def luma(images: Tensor) -> Tensor:
    """Perceived brightness of RGB images, [B, 3, H, W] -> [B, 1, H, W]."""
    red, green, blue = images.float().unbind(dim=1) if not images.is_floating_point() else images.unbind(dim=1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def brightness(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies. images: uint8 or float [B, C, H, W]; factor: [B]."""
    return blend(images, 0.0, factor)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with the mean luma of each image. images: uint8 or float [B, 3, H, W]; factor: [B]."""
    return blend(images, mean_luma(whole(luma(images), images)), factor)


def mean_luma(luma: Tensor) -> Tensor:
    """Mean over the image, [B, 1, H, W] -> [B, 1, 1, 1], with the same bits in any batch and on any processor.

    The lumas are added up as whole parts of 2**-24: how a sum of floats is split, and so how it rounds, is a matter of
    the batch, the threads and the processor; whole numbers add up to the same in any order.
    """
    total = (luma.double() * 2**24).round().long().sum(dim=(2, 3), keepdim=True)
    return (total.double() / (2**24 * luma.shape[2] * luma.shape[3])).to(luma.dtype)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with the luma of each pixel. images: uint8 or float [B, 3, H, W]; factor: [B]."""
    return blend(images, whole(luma(images), images), factor)


def saturation_hsv(images: Tensor, factor: Tensor) -> Tensor:
    """Multiplies S of HSV by a factor [B], up to 1, at constant hue and value. images: float [B, 3, H, W].

    A channel is v - v s g with a g of the hue alone, so its distance from v grows as s does.
    """
    value, low = images.amax(dim=1, keepdim=True), images.amin(dim=1, keepdim=True)
    chroma = value - low
    most = value / torch.where(chroma > 0, chroma, 1.0)  # at which s is 1
    growth = torch.minimum(per_image(factor, images), most)
    return torch.where(chroma > 0, (value - growth * (value - images)).clamp_min(0), images)


def whole(values: Tensor, images: Tensor) -> Tensor:
    """Values cut off to whole grey levels if the images have such."""
    return values if images.is_floating_point() else values.floor()


def blend(images: Tensor, other: Tensor | float, factor: Tensor) -> Tensor:
    """factor * images + (1 - factor) * other, clamped; factors over 1 lead away from `other`. The dtype is kept."""
    mixed = per_image(factor, images) * images + per_image(1 - factor, images) * other
    return mixed.clamp(0, 1 if images.is_floating_point() else 255).to(images.dtype)


def hue(images: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue by `shift` [B] turns, at constant saturation and value. images: float [B, 3, H, W].

    HSV without branches: channel n of a colour (h, s, v) is v - v s max(0, min(k, 4 - k, 1)), k = (n + 6h) mod 6, for
    n = 5, 3, 1.
    """
    value, low = images.amax(dim=1), images.amin(dim=1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1.0)
    red, green, blue = images.unbind(dim=1)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    turned = sector + 6 * shift.to(images.device, images.dtype)[:, None, None]
    channels = []
    for n in (5, 3, 1):
        k = (n + turned) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels, dim=1)
