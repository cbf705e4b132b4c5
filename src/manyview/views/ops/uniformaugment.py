"""UniformAugment (LingChen, Khonsari, Lashkari, Nazari, Sambee, Nascimento, 2020): everything is uniform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Column
from manyview.views.ops.op import TURNS, Params, ViewParams, check_whole
from manyview.views.ops.policy import (
    CODES,
    NOTHING,
    Magnitude,
    Space,
    apply_policy_ops,
    centres,
    check_resampling,
    codes_of,
    linear,
    lower_policy_ops,
    magnitudes_of,
    shift,
    summed,
)

SPACE: Space = {
    "shear_x": linear(-0.3, 0.3),
    "shear_y": linear(-0.3, 0.3),
    "translate_x": shift(1, share=0.45),
    "translate_y": shift(0, share=0.45),
    "rotate": linear(-30.0, 30.0),
    "autocontrast": NOTHING,
    "invert": NOTHING,
    "equalize": NOTHING,
    "solarize": linear(0.0, 256 / 255),
    "posterize": Magnitude(lambda s, sizes: 4 + (4 * s).trunc()),
    "contrast": linear(-0.9, 0.9),
    "color": linear(-0.9, 0.9),
    "brightness": linear(-0.9, 0.9),
    "sharpness": linear(-0.9, 0.9),
    "cutout": Magnitude(lambda s, sizes: (0.2 * sizes[..., 1] * s).trunc()),
}


@dataclass(frozen=True)
class UniformAugment:
    """`uniformaugment(n)`: n ops of fifteen, drawn with replacement, each as likely, each applied with probability ½.

    The paper draws each op's probability uniformly and then the coin, which is a fair coin. Magnitudes are uniform over
    the ranges of AutoAugment's ops: shears 0.3, translations 0.45 of the image (whole pixels), 30 degrees, solarize
    from level 0 to 256 on, 4 to 7 bits, factors 0.1 to 1.9, cutout with a side of up to 0.2 of the width.
    fill: in [0, 1], of geometric ops and cutout alike. interpolation: `nearest`, `bilinear` or `bicubic`.
    Parameters: `op` int64 [B, n] (codes of `policy.POLICY_OPS`), `magnitude` float64 [B, n] with its sign, `applied`
    bool [B, n], `centre` [B, n, 2] (y, x as fractions of the frame, for cutout).
    """

    anti: ClassVar = ("strength", "sign")
    n: int = 2
    fill: float = 0.0
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        check_whole("n", self.n, most=TURNS)
        check_resampling(self.interpolation, self.fill)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        op = codes_of(SPACE)[draws.integers("op", len(SPACE), self.n)]
        strength, sign = draws.uniform("strength", self.n), draws.uniform("sign", self.n)
        return {
            "op": op,
            "magnitude": magnitudes_of(SPACE, op, strength, sign, sizes),
            "applied": draws.uniform("applied", self.n) < 0.5,
            "centre": centres(draws, sizes, self.n),
        }

    def render(self, images: Tensor, params: Params) -> Tensor:
        codes = torch.where(params["applied"], params["op"], CODES["identity"])
        return apply_policy_ops(images, codes, params["magnitude"], params["centre"], self.fill, self.interpolation)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        codes = torch.where(params["applied"], params["op"], CODES["identity"])
        return lower_policy_ops(codes, params["magnitude"], sizes, params["centre"], self.fill, self.interpolation)

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """For each of `POLICY_OPS`, its applied magnitudes in a minus those in b [B, 17]; frames are not traced."""
        sum_a, sum_b = (summed(p["op"], p["magnitude"] * p["applied"]) for p in (a, b))
        return sum_a - sum_b

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes
