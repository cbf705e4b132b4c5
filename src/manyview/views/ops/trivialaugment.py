"""TrivialAugment (Müller & Hutter, ICCV 2021): one op, uniform, with a magnitude that is uniform too."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Column
from manyview.views.ops.op import Params, ViewParams
from manyview.views.ops.policy import (
    Magnitude,
    Space,
    apply_policy_ops,
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
SPACES: dict[str, Space] = {
    "wide": torchvision_space(slope=0.99, pixels=32, degrees=135, change=0.99, bits=(8, 2)),
    "standard": {
        **torchvision_space(share=10 / 32),
        **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), linear(-0.9, 0.9)),
        "posterize": Magnitude(lambda s, sizes: 8 - (4 * s + 1e-6).trunc()),
        "solarize": Magnitude(lambda s, sizes: (256 - (256 * s).trunc()) / 255),
    },
}


@dataclass(frozen=True)
class TrivialAugment:
    """`trivialaugment(space)`: one of fourteen ops an image, each as likely, with one of 31 magnitudes, each as likely.

    space: `wide`, the paper's best and torchvision's `TrivialAugmentWide`: translations of up to 32 pixels whatever the
    image's size, factors of 1 plus or minus up to 0.99. Or `standard`, the narrower space that the authors' code shares
    with RandAugment: shears of 0.3, 30 degrees, translations of 10/32 of the image (10 pixels on CIFAR and 70 on
    ImageNet there), factors 0.1 to 1.9, four bits at least, solarize from level 256 on, which inverts nothing.
    fill: in [0, 1]. interpolation: `nearest`, `bilinear` or `bicubic`.
    Parameters: `op` int64 [B, 1] (code of `policy.POLICY_OPS`), `magnitude` float64 [B, 1] with its sign.
    """

    anti: ClassVar = ("sign",)
    space: str = "wide"
    fill: float = 0.0
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        check_choice("space", self.space, SPACES, "spaces")
        check_resampling(self.interpolation, self.fill)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        space = SPACES[self.space]
        op = codes_of(space)[draws.integers("op", len(space))]
        strength = draws.integers("bin", BINS).double() / (BINS - 1)
        return {"op": op, "magnitude": magnitudes_of(space, op, strength, draws.uniform("sign"), sizes)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return apply_policy_ops(images, params["op"], params["magnitude"], None, self.fill, self.interpolation)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return lower_policy_ops(params["op"], params["magnitude"], sizes, None, self.fill, self.interpolation)

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """For each of `POLICY_OPS`, its magnitude in a minus that in b [B, 17]; frames are not traced."""
        return summed(a["op"], a["magnitude"]) - summed(b["op"], b["magnitude"])

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes
