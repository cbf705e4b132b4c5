"""RandAugment (Cubuk, Zoph, Shlens, Le, NeurIPS 2020): n random ops in a row, all of magnitude m.

The op set, magnitudes and rounding are torchvision's (`RandAugment`, 31 bins, nearest resampling, black outside):
fourteen ops, each as likely, drawn with replacement. Works on grey levels: uint8 in, uint8 out after every op, as PIL
does in the papers' pipelines; floats are rounded first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.augment import affine, color, histogram
from manyview.augment.op import Params, ViewParams, as_uint8, check_whole, per_image
from manyview.draws import Draws

BINS = 31


@dataclass(frozen=True)
class RandAugment:
    """`randaugment(n, m)`: n ops an image, magnitude m of 0…30.

    Parameters: `op` int64 [B, n] (position in `POLICY`) and `magnitude` float64 [B, n], with its sign: a slope, pixels,
    degrees, a change of factor, bits or a threshold, as the op takes it.
    """

    n: int = 2
    m: int = 9

    def __post_init__(self) -> None:
        check_whole("n", self.n)
        check_whole("m", self.m, least=0)
        if self.m >= BINS:
            raise ValueError(f"m must be at most {BINS - 1}, got {self.m}")

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        chosen = draws.integers("op", len(POLICY), self.n)
        sign = torch.where(draws.uniform("sign", self.n) < 0.5, -1.0, 1.0)
        magnitude = torch.zeros(len(sizes), self.n, dtype=torch.float64)
        for number, (strength, signed, _) in enumerate(POLICY.values()):
            value = strength(self.m / (BINS - 1), sizes.double())[:, None].expand_as(magnitude)
            magnitude = torch.where(chosen == number, value * sign if signed else value, magnitude)
        return {"op": chosen, "magnitude": magnitude}

    def render(self, images: Tensor, params: Params) -> Tensor:
        out = as_uint8(images).clone()
        for turn in range(self.n):
            for number, (_, _, apply) in enumerate(POLICY.values()):
                rows = (params["op"][:, turn] == number).nonzero()[:, 0]
                if len(rows) and apply is not None:
                    magnitude = params["magnitude"][rows, turn]
                    rows = rows.to(images.device)
                    out[rows] = apply(out[rows], magnitude)
        return out

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """For each op of the policy, the sum of its magnitudes in a minus that in b [B, 14]; frames are not traced."""
        return self._summed(a) - self._summed(b)

    def _summed(self, params: Params) -> Tensor:
        total = params["magnitude"].new_zeros(len(params["op"]), len(POLICY))
        return total.scatter_add(1, params["op"], params["magnitude"])

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


def _warp(images: Tensor, matrices: Tensor) -> Tensor:
    return affine.warp(images.float(), matrices).round().to(torch.uint8)


def _levels(images: Tensor, other: Tensor | float, change: Tensor) -> Tensor:
    """Blends grey levels with `other` by the factor 1 + change, cut off (not rounded) to whole levels."""
    factor, rest = per_image(1 + change, images), per_image(-change, images)
    return (images * factor + other * rest).clamp(0, 255).to(torch.uint8)


def _contrast(images: Tensor, change: Tensor) -> Tensor:
    return _levels(images, color.mean_luma(color.luma(images).floor()), change)


def _shift(strength: float, extent: Tensor) -> Tensor:
    # torchvision computes in float32, where products that are whole in decimals do not fall below themselves
    return (150 / 331 * strength * extent + 1e-6).trunc()


def _constant(value: Callable[[float], float]) -> Callable[[float, Tensor], Tensor]:
    return lambda strength, sizes: torch.full((len(sizes),), value(strength), dtype=torch.float64)


# name -> (magnitude from strength in [0, 1] and sizes [B, 2], does it take a sign, kernel on uint8 and magnitude [B])
POLICY: dict[str, tuple[Callable[[float, Tensor], Tensor], bool, Callable[[Tensor, Tensor], Tensor] | None]] = {
    "identity": (_constant(lambda s: 0.0), False, None),
    "shear_x": (_constant(lambda s: 0.3 * s), True, lambda x, v: _warp(x, affine.shear(v, 0, x.shape[-2]))),
    "shear_y": (_constant(lambda s: 0.3 * s), True, lambda x, v: _warp(x, affine.shear(v, 1, x.shape[-1]))),
    "translate_x": (
        lambda s, size: _shift(s, size[:, 1]),
        True,
        lambda x, v: _warp(x, affine.translate(v, 0)),
    ),
    "translate_y": (
        lambda s, size: _shift(s, size[:, 0]),
        True,
        lambda x, v: _warp(x, affine.translate(v, 1)),
    ),
    "rotate": (_constant(lambda s: 30 * s), True, lambda x, v: _warp(x, affine.rotate(v))),
    "brightness": (_constant(lambda s: 0.9 * s), True, lambda x, v: _levels(x, 0.0, v)),
    "color": (_constant(lambda s: 0.9 * s), True, lambda x, v: _levels(x, color.luma(x).floor(), v)),
    "contrast": (_constant(lambda s: 0.9 * s), True, _contrast),
    "sharpness": (_constant(lambda s: 0.9 * s), True, lambda x, v: histogram.sharpness(x, 1 + v)),
    "posterize": (_constant(lambda s: 8.0 - round(4 * s)), False, lambda x, v: histogram.posterize(x, v)),
    "solarize": (_constant(lambda s: 1 - s), False, lambda x, v: color.solarize(x, v)),
    "autocontrast": (_constant(lambda s: 0.0), False, lambda x, v: histogram.autocontrast(x)),
    "equalize": (_constant(lambda s: 0.0), False, lambda x, v: histogram.equalize(x)),
}
