"""AutoAugment (Cubuk, Zoph, Mane, Vasudevan, Le, CVPR 2019): pairs of ops that a search has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Column
from manyview.views.ops.op import Params, ViewParams
from manyview.views.ops.policy import (
    CODES,
    NOTHING,
    apply_policy_ops,
    check_choice,
    check_resampling,
    lower_policy_ops,
    magnitudes_of,
    summed,
    torchvision_space,
)

BINS = 10
SPACE = {**torchvision_space(share=150 / 331), "invert": NOTHING}
del SPACE["identity"]
# the paper's tables: 25 pairs each of (op, probability, bin of its magnitude)
POLICIES: dict[str, tuple[tuple[tuple[str, float, int], tuple[str, float, int]], ...]] = {
    "cifar10": (
        (("invert", 0.1, 0), ("contrast", 0.2, 6)),
        (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
        (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
        (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
        (("autocontrast", 0.5, 0), ("equalize", 0.9, 0)),
        (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
        (("color", 0.4, 3), ("brightness", 0.6, 7)),
        (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
        (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
        (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
        (("color", 0.7, 7), ("translate_x", 0.5, 8)),
        (("equalize", 0.3, 0), ("autocontrast", 0.4, 0)),
        (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
        (("brightness", 0.9, 6), ("color", 0.2, 8)),
        (("solarize", 0.5, 2), ("invert", 0.0, 0)),
        (("equalize", 0.2, 0), ("autocontrast", 0.6, 0)),
        (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
        (("color", 0.9, 9), ("equalize", 0.6, 0)),
        (("autocontrast", 0.8, 0), ("solarize", 0.2, 8)),
        (("brightness", 0.1, 3), ("color", 0.7, 0)),
        (("solarize", 0.4, 5), ("autocontrast", 0.9, 0)),
        (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
        (("autocontrast", 0.9, 0), ("solarize", 0.8, 3)),
        (("equalize", 0.8, 0), ("invert", 0.1, 0)),
        (("translate_y", 0.7, 9), ("autocontrast", 0.9, 0)),
    ),
    "imagenet": (
        (("posterize", 0.4, 8), ("rotate", 0.6, 9)),
        (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
        (("posterize", 0.6, 7), ("posterize", 0.6, 6)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
        (("equalize", 0.4, 0), ("rotate", 0.8, 8)),
        (("solarize", 0.6, 3), ("equalize", 0.6, 0)),
        (("posterize", 0.8, 5), ("equalize", 1.0, 0)),
        (("rotate", 0.2, 3), ("solarize", 0.6, 8)),
        (("equalize", 0.6, 0), ("posterize", 0.4, 6)),
        (("rotate", 0.8, 8), ("color", 0.4, 0)),
        (("rotate", 0.4, 9), ("equalize", 0.6, 0)),
        (("equalize", 0.0, 0), ("equalize", 0.8, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("rotate", 0.8, 8), ("color", 1.0, 2)),
        (("color", 0.8, 8), ("solarize", 0.8, 7)),
        (("sharpness", 0.4, 7), ("invert", 0.6, 0)),
        (("shear_x", 0.6, 5), ("equalize", 1.0, 0)),
        (("color", 0.4, 0), ("equalize", 0.6, 0)),
        (("equalize", 0.4, 0), ("solarize", 0.2, 4)),
        (("solarize", 0.6, 5), ("autocontrast", 0.6, 0)),
        (("invert", 0.6, 0), ("equalize", 1.0, 0)),
        (("color", 0.6, 4), ("contrast", 1.0, 8)),
        (("equalize", 0.8, 0), ("equalize", 0.6, 0)),
    ),
    "svhn": (
        (("shear_x", 0.9, 4), ("invert", 0.2, 0)),
        (("shear_y", 0.9, 8), ("invert", 0.7, 0)),
        (("equalize", 0.6, 0), ("solarize", 0.6, 6)),
        (("invert", 0.9, 0), ("equalize", 0.6, 0)),
        (("equalize", 0.6, 0), ("rotate", 0.9, 3)),
        (("shear_x", 0.9, 4), ("autocontrast", 0.8, 0)),
        (("shear_y", 0.9, 8), ("invert", 0.4, 0)),
        (("shear_y", 0.9, 5), ("solarize", 0.2, 6)),
        (("invert", 0.9, 0), ("autocontrast", 0.8, 0)),
        (("equalize", 0.6, 0), ("rotate", 0.9, 3)),
        (("shear_x", 0.9, 4), ("solarize", 0.3, 3)),
        (("shear_y", 0.8, 8), ("invert", 0.7, 0)),
        (("equalize", 0.9, 0), ("translate_y", 0.6, 6)),
        (("invert", 0.9, 0), ("equalize", 0.6, 0)),
        (("contrast", 0.3, 3), ("rotate", 0.8, 4)),
        (("invert", 0.8, 0), ("translate_y", 0.0, 2)),
        (("shear_y", 0.7, 6), ("solarize", 0.4, 8)),
        (("invert", 0.6, 0), ("rotate", 0.8, 4)),
        (("shear_y", 0.3, 7), ("translate_x", 0.9, 3)),
        (("shear_x", 0.1, 6), ("invert", 0.6, 0)),
        (("solarize", 0.7, 2), ("translate_y", 0.6, 7)),
        (("shear_y", 0.8, 4), ("invert", 0.8, 0)),
        (("shear_x", 0.7, 9), ("translate_y", 0.8, 3)),
        (("shear_y", 0.8, 5), ("autocontrast", 0.7, 0)),
        (("shear_x", 0.7, 2), ("invert", 0.1, 0)),
    ),
}


@dataclass(frozen=True)
class AutoAugment:
    """`autoaugment(policy)`: one of the policy's 25 pairs, each as likely; each op of the pair by its probability.

    policy: `cifar10`, `imagenet` or `svhn`. Pairs, probabilities and magnitudes are torchvision's (`AutoAugment`, ten
    bins), which keep the authors' but for the ops' own scales (translations relative to the image, factors of 1 plus or
    minus a change with either sign).
    fill: in [0, 1], black as in torchvision; the authors' code fills with level 128 (0.5). interpolation: `nearest`,
    `bilinear` or `bicubic`.
    Parameters: `policy` int64 [B] (which pair), `op` int64 [B, 2] (codes of `policy.POLICY_OPS`), `magnitude` float64
    [B, 2] with its sign, `applied` bool [B, 2].
    """

    anti: ClassVar = ("sign",)
    policy: str = "imagenet"
    fill: float = 0.0
    interpolation: str = "nearest"

    def __post_init__(self) -> None:
        check_choice("policy", self.policy, POLICIES, "policies")
        check_resampling(self.interpolation, self.fill)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        pairs = POLICIES[self.policy]
        chosen = draws.integers("policy", len(pairs))[:, 0]
        op = torch.tensor([[CODES[name] for name, _, _ in pair] for pair in pairs])[chosen]
        chance, bin_ = torch.tensor(
            [[[chance, bin_] for _, chance, bin_ in pair] for pair in pairs], dtype=torch.float64
        )[chosen].unbind(dim=2)
        return {
            "policy": chosen,
            "op": op,
            "magnitude": magnitudes_of(SPACE, op, bin_ / (BINS - 1), draws.uniform("sign", 2), sizes),
            "applied": draws.uniform("applied", 2) < chance,
        }

    def render(self, images: Tensor, params: Params) -> Tensor:
        codes = torch.where(params["applied"], params["op"], CODES["identity"])
        return apply_policy_ops(images, codes, params["magnitude"], None, self.fill, self.interpolation)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        codes = torch.where(params["applied"], params["op"], CODES["identity"])
        return lower_policy_ops(codes, params["magnitude"], sizes, None, self.fill, self.interpolation)

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """For each of `POLICY_OPS`, its applied magnitudes in a minus those in b [B, 17]; frames are not traced."""
        sum_a, sum_b = (summed(p["op"], p["magnitude"] * p["applied"]) for p in (a, b))
        return sum_a - sum_b

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes
