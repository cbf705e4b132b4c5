"""Gaussian blur with a sigma of its own for each image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Code, Column
from manyview.views.ops.op import (
    PIXELS,
    Params,
    ViewParams,
    as_float,
    as_range,
    check_probability,
    check_whole,
    where_applied,
)


@dataclass(frozen=True)
class Blur:
    """Gaussian blur with probability p (SimCLR, MoCo v2: sigma in (0.1, 2), p 0.5).

    sigma: pixels, or a pair to draw from uniformly. kernel: odd width in pixels; by default the width that holds three
    sigmas each side, cut to what the image can reflect. AugSelf uses 9 at 96 px and 23 at 224 px. Edges are reflected,
    as in torchvision. Parameters: `sigma` [B], `applied` [B].
    """

    anti: ClassVar = ("sigma", "applied")
    sigma: float | tuple[float, float] = (0.1, 2.0)
    p: float = 0.5
    kernel: int | None = None

    def __post_init__(self) -> None:
        check_probability(self.p)
        self.ends()
        if self.kernel is not None and (type(self.kernel) is not int or self.kernel < 1 or self.kernel % 2 == 0):
            raise ValueError(f"kernel must be an odd number of pixels, got {self.kernel!r}")
        if self.kernel is not None:
            check_whole("kernel", self.kernel, most=PIXELS)

    def ends(self) -> tuple[float, float]:
        """The smallest and the largest sigma. Raises ValueError for values out of bounds."""
        return as_range("sigma", self.sigma, 1e-3, 1e3)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        low, high = self.ends()
        return {"sigma": draws.uniform("sigma", 1, low, high)[:, 0], "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        images = as_float(images)
        reach = self.reach(*images.shape[-2:])
        return where_applied(params["applied"], gaussian_blur(images, params["sigma"], reach).clamp(0, 1), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        reach = torch.full_like(params["sigma"], self.reach(*sizes[0].tolist()))
        return [Column(Code.BLUR, torch.stack([params["sigma"], reach], dim=1), params["applied"])]

    def reach(self, height: int, width: int) -> int:
        """Taps on each side of the centre: what the kernel has and the image can reflect."""
        _, widest = self.ends()
        wanted = math.ceil(3 * widest) if self.kernel is None else self.kernel // 2
        return min(wanted, height - 1, width - 1)

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Sigma of a minus that of b [B, 1], over the largest sigma so that it lies in [-1, 1]; 0 if not applied."""
        _, widest = self.ends()
        return ((a["sigma"] * a["applied"] - b["sigma"] * b["applied"]) / widest)[:, None]

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


def gaussian_blur(images: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Separable blur with `reach` taps on each side. images: float [B, C, H, W]; sigma: [B] pixels."""
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float64, device=sigma.device)
    taps = torch.exp(-0.5 * (offsets / sigma.double()[:, None]).square())
    total = sum(taps.split(1, dim=1))  # one after the other: `Tensor.sum` splits as the processor has it
    taps = (taps / total).to(images.device, images.dtype)
    for dim, pad in ((3, (reach, reach, 0, 0)), (2, (0, 0, reach, reach))):
        padded = F.pad(images, pad, mode="reflect")
        length = images.shape[dim]
        images = sum(taps[:, tap].view(-1, 1, 1, 1) * padded.narrow(dim, tap, length) for tap in range(2 * reach + 1))
    return images
