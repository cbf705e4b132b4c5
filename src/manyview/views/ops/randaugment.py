"""RandAugment (Cubuk, Zoph, Shlens, Le, NeurIPS 2020): n random ops in a row, all of magnitude m."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Column
from manyview.views.ops.op import TURNS, Params, ViewParams, check_whole
from manyview.views.ops.policy import (
    NOTHING,
    USUAL,
    Magnitude,
    Manner,
    Space,
    apply_policy_ops,
    centres,
    check_choice,
    check_resampling,
    codes_of,
    linear,
    lower_policy_ops,
    magnitudes_of,
    summed,
    torchvision_space,
)

BINS = 31
REFERENCE = 224  # the image side for which the TPU list gives its pixels


def _scaled(pixels: float, axis: int | None) -> Magnitude:
    """Whole pixels, so many at strength 1 and a side of 224; of the height, the width, or (None) the shorter side."""

    def of(strength: Tensor, sizes: Tensor) -> Tensor:
        extent = sizes.amin(dim=-1) if axis is None else sizes[..., axis]
        return (pixels / REFERENCE * extent * strength).round()

    return Magnitude(of, signed=axis is not None)


TPU: Space = {
    "autocontrast": NOTHING,
    "equalize": NOTHING,
    "invert": NOTHING,
    "rotate": linear(0.0, 30.0, signed=True),
    "posterize": Magnitude(lambda s, sizes: (4 * s).trunc().clamp_min(1)),
    "solarize": Magnitude(lambda s, sizes: (256 * s).trunc() / 255),
    "solarize_add": Magnitude(lambda s, sizes: (110 * s).trunc() / 255),
    "color": linear(-0.9, 0.9),
    "contrast": linear(-0.9, 0.9),
    "brightness": linear(-0.9, 0.9),
    "sharpness": linear(-0.9, 0.9),
    "shear_x": linear(0.0, 0.3, signed=True),
    "shear_y": linear(0.0, 0.3, signed=True),
    "cutout": _scaled(40, None),
    "translate_x": _scaled(100, 1),
    "translate_y": _scaled(100, 0),
}

# name -> (ops and magnitudes, fill)
SETS: dict[str, tuple[Space, float]] = {
    "dssl": (TPU, 0.0),
    "torchvision": (torchvision_space(share=150 / 331), 0.0),
    "tpu": (TPU, 128 / 255),
}
MANNERS = {"dssl": Manner(hidden=(125, 123, 114), inverts=True)}


@dataclass(frozen=True)
class RandAugment:
    """`randaugment(n, m)`: n ops an image, each of its set's as likely, drawn with replacement; magnitude m of 0…30.

    ops: `torchvision`, the fourteen ops and magnitudes of torchvision's `RandAugment` (31 bins). Or `tpu`, the sixteen
    of EfficientNet's TPU code. Of these some grow weaker with m: posterize keeps 4m/30 bits, one at
    least (as the PyTorch ports, where the TPU code blackens the image), solarize inverts from level 256m/30 on, factors
    of color, contrast, brightness and sharpness are 0.1 + 1.8m/30. Its pixels, 100m/30 of translation and a cutout with
    a side of 40m/30 (the ports' reading; the TPU code goes so far to either side), are for 224 and grow with the
    image. Or `dssl`, the tpu list as DSSL's own code carries it out: solarize_add adds to all pixels and inverts those
    of level 128 and more, what comes from outside is black, cutout's square (125, 123, 114). Kernels are torchvision's.
    fill: in [0, 1]; by default the set's own, black for torchvision, level 128 for tpu, as its code; a given one is
    also cutout's.
    interpolation: `nearest`, `bilinear`, or `bicubic`, which is Pillow's, as in Tied-Augment's runs.
    Parameters: `op` int64 [B, n] (codes of `policy.POLICY_OPS`) and `magnitude` float64 [B, n], with its sign: a slope,
    pixels, degrees, a change of factor, bits or a threshold, as the op takes it; for tpu and dssl also `centre`
    [B, n, 2] (y, x as fractions of the frame, for cutout).
    """

    anti: ClassVar = ("sign",)
    n: int = 2
    m: int = 9
    ops: str = "torchvision"
    fill: float | None = None
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        check_whole("n", self.n, most=TURNS)
        check_whole("m", self.m, least=0, most=BINS - 1)
        check_choice("op set", self.ops, SETS, "op sets")
        check_resampling(self.interpolation, 0.0 if self.fill is None else self.fill)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        space, _ = SETS[self.ops]
        op = codes_of(space)[draws.integers("op", len(space), self.n)]
        strength = torch.tensor(self.m / (BINS - 1), dtype=torch.float64)
        params = {"op": op, "magnitude": magnitudes_of(space, op, strength, draws.uniform("sign", self.n), sizes)}
        if "cutout" in space:
            params["centre"] = centres(draws, sizes, self.n)
        return params

    def render(self, images: Tensor, params: Params) -> Tensor:
        drawn = (params["op"], params["magnitude"], params.get("centre"))
        return apply_policy_ops(images, *drawn, *self._manner())

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return lower_policy_ops(params["op"], params["magnitude"], sizes, params.get("centre"), *self._manner())

    def _manner(self) -> tuple[float, str, Manner]:
        """Fill, interpolation, and how the set's ops are carried out."""
        manner = MANNERS.get(self.ops, USUAL)
        if self.fill is None:
            return SETS[self.ops][1], self.interpolation, manner
        return self.fill, self.interpolation, replace(manner, hidden=None)

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """For each of `POLICY_OPS`, the sum of its magnitudes in a minus that in b [B, 17]; frames are not traced."""
        return summed(a["op"], a["magnitude"]) - summed(b["op"], b["magnitude"])

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes
