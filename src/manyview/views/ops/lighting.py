"""Lighting: the colour noise of AlexNet (Krizhevsky, Sutskever, Hinton, NeurIPS 2012, section 4.1)."""

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
    as_float,
    as_range,
    check_probability,
    check_rgb,
    where_applied,
)

# principal components of ImageNet's pixels in [0, 1], as published with fb.resnet.torch and used by AgMax's code
VALUES = (0.2175, 0.0188, 0.0045)
VECTORS = (  # red, green, blue of each component
    (-0.5675, -0.5808, -0.5836),
    (0.7192, -0.0045, -0.6948),
    (0.4009, -0.8140, 0.4203),
)


@dataclass(frozen=True)
class Lighting:
    """Adds a random mixture of the three principal components of ImageNet's colours, with probability p. RGB only.

    Component c, of length VALUES[c], is added alpha[c] times, alpha from N(0, std). One colour is added to the whole
    image. Parameters: `alphas` [B, 3], `applied` [B].
    """

    anti: ClassVar = ("alphas", "applied")
    std: float = 0.1
    p: float = 1.0

    def __post_init__(self) -> None:
        check_probability(self.p)
        if isinstance(self.std, (tuple, list)):
            raise ValueError(f"std must be a number, got {self.std!r}")
        as_range("std", self.std, 0, 10)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        from scipy.special import ndtri  # torch has one for each instruction set

        # the quantile function at the middles of 2**32 equal parts: finite at both ends
        normal = torch.from_numpy(ndtri((draws.uniform("alphas", 3) + 2.0**-33).numpy()))
        return {"alphas": self.std * normal, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        check_rgb("lighting", images)
        images = as_float(images)
        color = added_color(params["alphas"]).to(images.device, images.dtype)
        return where_applied(params["applied"], (images + color[:, :, None, None]).clamp(0, 1), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.ADD, 255 * added_color(params["alphas"]), params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Red, green and blue added in a minus those in b [B, 3]; zeros stand for "not applied"."""
        color_a, color_b = (added_color(p["alphas"]) * p["applied"][:, None] for p in (a, b))
        return color_a - color_b

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


def added_color(alphas: Tensor) -> Tensor:
    """Red, green and blue that mixtures alphas [B, 3] add, [B, 3]. Written out, so that every batch rounds alike."""
    channels = []
    for channel in range(3):
        first, second, third = (alphas[:, c] * (VALUES[c] * VECTORS[c][channel]) for c in range(3))
        channels.append(first + second + third)
    return torch.stack(channels, dim=1)
