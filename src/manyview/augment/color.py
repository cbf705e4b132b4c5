"""Colour: jitter, grayscale, solarize, channel permutation, and the point functions that policies share.

The point functions take floats in [0, 1] and one factor an image, and follow torchvision's definitions: brightness
multiplies; contrast blends with the image's mean luma; saturation blends with the luma; hue turns the HSV circle.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.augment.op import (
    Params,
    ViewParams,
    as_float,
    as_range,
    check_probability,
    per_image,
    where_applied,
)
from manyview.draws import Draws

LUMA = (0.2989, 0.587, 0.114)


@dataclass(frozen=True)
class Jitter:
    """Random brightness, contrast, saturation and hue, in an order of its own for each image.

    brightness, contrast, saturation: b stands for a factor in [max(0, 1 - b), 1 + b]; or a pair (low, high).
    hue: h <= 0.5 stands for a shift in [-h, h] turns; or a pair. p: the chance that an image is jittered at all.
    Parameters: `factors` [B, 4] (three factors and the shift), `order` [B, 4], `applied` [B]. Order and coin are an
    image's own, where torchvision's and AugSelf's code share the order within a batch.
    """

    brightness: float | tuple[float, float] = 0.0
    contrast: float | tuple[float, float] = 0.0
    saturation: float | tuple[float, float] = 0.0
    hue: float | tuple[float, float] = 0.0
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        self.ranges()

    def ranges(self) -> list[tuple[float, float]]:
        """(low, high) of the three factors and the shift. Raises ValueError for values out of bounds."""
        given = {"brightness": self.brightness, "contrast": self.contrast, "saturation": self.saturation}
        ranges = []
        for name, value in given.items():
            if isinstance(value, (int, float)):
                if value < 0:
                    raise ValueError(f"{name} must not be negative, got {value}")
                value = (max(0.0, 1 - value), 1 + value)
            ranges.append(as_range(name, value, 0, 1e3))
        hue = (-self.hue, self.hue) if isinstance(self.hue, (int, float)) else self.hue
        return [*ranges, as_range("hue", hue, -0.5, 0.5)]

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        low, high = torch.tensor(self.ranges(), dtype=torch.float64).T
        return {
            "factors": low + (high - low) * draws.uniform("factors", 4),
            "order": draws.permutation("order", 4),
            "applied": draws.coin("applied", self.p),
        }

    def render(self, images: Tensor, params: Params) -> Tensor:
        out = as_float(images).clone()
        factors = params["factors"].to(images.device)
        active = [
            low != high or low != neutral for (low, high), neutral in zip(self.ranges(), (1, 1, 1, 0), strict=True)
        ]
        for turn in range(4):
            for kind, function in enumerate((brightness, contrast, saturation, hue)):
                rows = (params["applied"] & (params["order"][:, turn] == kind)).nonzero()[:, 0].to(images.device)
                if active[kind] and len(rows):
                    out[rows] = function(out[rows], factors[rows, kind])
        return out

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Brightness, contrast, saturation, hue [B, 4], each over its range's width; 0 stands for "not applied"."""
        low, high = torch.tensor(self.ranges(), dtype=torch.float64, device=a["factors"].device).T
        width = torch.where(high > low, high - low, torch.inf)
        neutral = torch.tensor([1.0, 1.0, 1.0, 0.0], dtype=torch.float64, device=width.device)
        strength_a, strength_b = ((p["factors"] - neutral) / width * p["applied"][:, None] for p in (a, b))
        return strength_a - strength_b

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Grayscale:
    """All three channels become the luma, with probability p. Parameter: `applied` [B]."""

    p: float = 0.1

    def __post_init__(self) -> None:
        check_probability(self.p)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        images = as_float(images)
        return where_applied(params["applied"], luma(images).expand_as(images), images)

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Applied in a minus applied in b [B, 1]."""
        return (a["applied"].double() - b["applied"].double())[:, None]

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Solarize:
    """Inverts all pixels of at least `threshold`, with probability p (BYOL's second view: 0.5 and 0.2).

    threshold: in [0, 1], or a pair to draw from. Parameters: `threshold` [B], `applied` [B].
    """

    threshold: float | tuple[float, float] = 0.5
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        as_range("threshold", self.threshold, 0, 1)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        low, high = as_range("threshold", self.threshold, 0, 1)
        return {
            "threshold": draws.uniform("threshold", 1, low, high)[:, 0],
            "applied": draws.coin("applied", self.p),
        }

    def render(self, images: Tensor, params: Params) -> Tensor:
        return where_applied(params["applied"], solarize(images, params["threshold"]), images)

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Threshold of a minus that of b [B, 1]; 1, which changes nothing, stands for "not applied"."""
        threshold_a, threshold_b = (torch.where(p["applied"], p["threshold"], 1.0) for p in (a, b))
        return (threshold_a - threshold_b)[:, None]

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class ChannelPermutation:
    """Shuffles red, green and blue, all six orders alike, with probability p. Parameters: `order` [B, 3], `applied`."""

    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"order": draws.permutation("order", 3), "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        order = params["order"].to(images.device)
        permuted = images[torch.arange(len(images), device=images.device)[:, None], order]
        return where_applied(params["applied"], permuted, images)

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
    """Multiplies. images: float [B, 3, H, W]; factor: [B]."""
    return (images * per_image(factor, images)).clamp(0, 1)


def contrast(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with the mean luma of each image. images: float [B, 3, H, W]; factor: [B]."""
    return blend(images, mean_luma(luma(images)), factor)


def mean_luma(luma: Tensor) -> Tensor:
    """Mean over the image, [B, 1, H, W] -> [B, 1, 1, 1], with the same bits in a batch of one as in any other.

    A single reduction over height and width would be split among threads only where the batch is small.
    """
    return luma.mean(dim=3, keepdim=True).mean(dim=2, keepdim=True)


def saturation(images: Tensor, factor: Tensor) -> Tensor:
    """Blends with the luma of each pixel. images: float [B, 3, H, W]; factor: [B]."""
    return blend(images, luma(images), factor)


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """factor * images + (1 - factor) * other, clamped; factors over 1 lead away from `other`."""
    factor = per_image(factor, images)
    return (factor * images + (1 - factor) * other).clamp(0, 1)


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


def solarize(images: Tensor, threshold: Tensor) -> Tensor:
    """Inverts pixels of at least `threshold` [B] in [0, 1]. images: uint8 or float; the dtype is kept."""
    top = 1.0 if images.is_floating_point() else 255
    return torch.where(images >= per_image(threshold, images) * top, top - images, images)


def solarize_add(images: Tensor, amount: Tensor, threshold: float | Tensor = 0.5) -> Tensor:
    """Adds `amount` [B] in [-1, 1] to pixels under `threshold` in [0, 1] (a number, or one an image [B]), and clamps.

    images: uint8 or float; the dtype is kept, and grey levels gain whole levels: n of them for an amount of n / 255.
    As in AutoAugment's published code, whose threshold of 128 levels is 0.5 here.
    """
    limit = per_image(torch.as_tensor(threshold, dtype=torch.float64), images)
    if images.is_floating_point():
        return torch.where(images < limit, (images + per_image(amount, images)).clamp(0, 1), images)
    levels = (amount * 255).round().to(images.device, torch.int16).view(-1, 1, 1, 1)
    return torch.where(images < limit * 255, (images + levels).clamp(0, 255).to(torch.uint8), images)


def invert(images: Tensor) -> Tensor:
    """The negative. images: uint8 or float; the dtype is kept."""
    return (1.0 if images.is_floating_point() else 255) - images
