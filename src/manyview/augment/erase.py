"""Cutout: a square of the image is hidden (DeVries & Taylor, 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.augment.op import Params, ViewParams, as_range, check_probability, check_whole, where_applied
from manyview.draws import Draws


@dataclass(frozen=True)
class Cutout:
    """Fills a square of `size` pixels, centred anywhere in the image and cut at its edges, with probability p.

    fill: in [0, 1]. The authors mask after normalisation, where 0 is the mean colour, so the default is mid-grey.
    Parameters: `centre` [B, 2] (y, x as fractions of the frame), `applied` [B].
    """

    size: int
    p: float = 1.0
    fill: float = 0.5

    def __post_init__(self) -> None:
        check_whole("size", self.size)
        check_probability(self.p)
        as_range("fill", self.fill, 0, 1)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        centre = (draws.uniform("centre", 2) * sizes).floor() / sizes
        return {"centre": centre, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        hidden = torch.ones(len(images), 1, *images.shape[-2:], dtype=torch.bool, device=images.device)
        for axis, side in enumerate(images.shape[-2:]):
            first = (params["centre"][:, axis] * side).round().long().to(images.device)[:, None] - self.size // 2
            position = torch.arange(side, device=images.device)
            inside = (position >= first) & (position < first + self.size)
            hidden &= inside[:, None, :, None] if axis == 0 else inside[:, None, None, :]
        fill = self.fill if images.is_floating_point() else round(self.fill * 255)
        return where_applied(params["applied"], images.masked_fill(hidden, fill), images)

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Centre y and x of a minus those of b [B, 2], each in its own view's frame; 0 stands for "not applied"."""
        at_a, at_b = (p["centre"] * p["applied"][:, None] for p in (a, b))
        return at_a - at_b

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes
