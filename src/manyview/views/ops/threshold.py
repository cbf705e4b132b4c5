"""Levels turned round: inversion, and solarisation, which inverts those above a threshold."""

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
    check_share,
    coin_difference,
    draw,
    over_span,
    per_image,
    where_applied,
)


@dataclass(frozen=True)
class Invert:
    """The negative, with probability p (0.5, as torchvision's `RandomInvert`). Parameter: `applied` [B]."""

    anti: ClassVar = ("applied",)
    p: float = 0.5

    def __post_init__(self) -> None:
        check_probability(self.p)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return where_applied(params["applied"], invert(images), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.INVERT, applied=params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Applied in a minus applied in b [B, 1]."""
        return coin_difference(a, b)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class SolarizeAdd:
    """Adds `amount` to all pixels under `threshold` and clamps, with probability p (AutoAugment's published code).

    amount: in [-1, 1], or a pair to draw from; there 0 to 110 of 255 levels. uint8 images gain whole levels.
    threshold: in [0, 1]. Parameters: `amount` [B], `applied` [B].
    """

    anti: ClassVar = ("amount", "applied")
    amount: float | tuple[float, float] = (0.0, 110 / 255)
    threshold: float = 0.5
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        as_range("amount", self.amount, -1, 1)
        check_share("threshold", self.threshold)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        amount = draw(draws, "amount", as_range("amount", self.amount, -1, 1))
        return {"amount": amount, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return where_applied(params["applied"], solarize_add(images, params["amount"], self.threshold), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        amount = (255 * params["amount"]).round()
        numbers = torch.stack([amount, torch.full_like(amount, 255 * self.threshold)], dim=1)
        return [Column(Code.SOLARIZE_ADD, numbers, params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Amount of a minus that of b [B, 1], over the span of amounts and 0; 0 stands for "not applied"."""
        return over_span(a, b, "amount", as_range("amount", self.amount, -1, 1), neutral=0.0)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Solarize:
    """Inverts all pixels of at least `threshold`, with probability p (BYOL's second view: 0.5 and 0.2).

    threshold: in [0, 1], or a pair to draw from. Parameters: `threshold` [B], `applied` [B].
    """

    anti: ClassVar = ("threshold", "applied")
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

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.SOLARIZE, 255 * params["threshold"][:, None], params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Threshold of a minus that of b [B, 1]; 1, which changes nothing, stands for "not applied"."""
        threshold_a, threshold_b = (torch.where(p["applied"], p["threshold"], 1.0) for p in (a, b))
        return (threshold_a - threshold_b)[:, None]

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


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


def add_solarize(images: Tensor, amount: Tensor, threshold: int = 128) -> Tensor:
    """Adds `amount` [B] in [-1, 1] to all pixels and clamps, then inverts levels of at least `threshold`; DSSL's code.

    images: uint8 [B, C, H, W].
    """
    levels = (amount * 255).round().to(images.device, torch.int16).view(-1, 1, 1, 1)
    raised = (images + levels).clamp(0, 255).to(torch.uint8)
    return torch.where(raised >= threshold, 255 - raised, raised)


def invert(images: Tensor) -> Tensor:
    """The negative. images: uint8 or float; the dtype is kept."""
    return (1.0 if images.is_floating_point() else 255) - images
