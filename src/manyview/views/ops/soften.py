"""A softer target where less of the image is seen: Soft Augmentation (Liu, Yan, Leal-Taixé, Hays, Ramanan, CVPR 2023).

Of an image of which a crop shows the share v, the target is to be as sure as people are of what they see in part:

    p = 1 - (1 - p_min) (1 - v)^k                    (arXiv 2211.04625, section 3; p_min: chance, 1 / classes)

The label gets p and each other class (1 - p) / (classes - 1). k = 1 is linear, larger k forgive small losses; the
authors' code takes 2. Its crops lie normally about the centre, over black; here any crop may stand before it. The paper
also weighs a row's loss by p: `cross_entropy(…, reweigh=True)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Column
from manyview.views.ops.mix import MIXING, one_hot
from manyview.views.ops.op import Made, Op, Params, ViewParams, beside, check_share
from manyview.views.ops.sight import hides, visible


def confidence(share: Tensor, classes: int, k: float = 2.0, floor: float | None = None) -> Tensor:
    """How sure a target is, 1 - (1 - floor)(1 - share)^k [B], of an image of which that share [B] is seen.

    floor: the confidence in what is not seen at all, by default that of chance, 1 / classes.
    """
    least = 1 / classes if floor is None else floor
    return 1 - (1 - least) * (1 - share.clamp(0, 1)) ** k


def soften(target: Tensor, share: Tensor, classes: int, k: float = 2.0, floor: float | None = None) -> Tensor:
    """Soft targets [B, classes]: the label with that confidence, all other classes with equal parts of the rest.

    target: labels [B], or soft targets [B, classes], each of whose classes is softened so. share: seen of each image,
    [B], 0 to 1. Raises ValueError for fewer than two classes and labels outside [0, classes).
    """
    if classes < 2:
        raise ValueError(f"a target is softened between two classes or more, got {classes}")
    sure = confidence(share, classes, k, floor).to(torch.float32)[:, None]
    other = (1 - sure) / (classes - 1)
    return other + (sure - other) * one_hot(target, classes)


@dataclass(frozen=True)
class Soften:
    """`soften(k=2)`: the less of its image a view shows, the less sure is its target; the image stays as it is.

    The label's share is p = 1 - (1 - floor)(1 - v)^k, that of each other class (1 - p) / (classes - 1). v is the part
    of the image's area that is seen after the ops before this one, of this view and of those it derives from: `crop`,
    `pad_crop`, `center_crop` and `translate` take away (what they pad is no part of the image), `cutout` and `erase`
    hide. What slants, turns by degrees, perspective and policies move out of the frame is not counted. k: above 0, 1 is
    linear. floor: the confidence in nothing, by default chance, 1 / classes. `mixup` and `cutmix` come after it, and
    mix what it softened. In `cross_entropy`, `reweigh=True` weighs rows by p, too. Parameter: `visible` [B], v.
    """

    k: float = 2.0
    floor: float | None = None

    def __post_init__(self) -> None:
        if type(self.k) not in (int, float) or not 0 < self.k < math.inf:
            raise ValueError(f"k must be a number above 0, got {self.k!r}")
        if self.floor is not None:
            check_share("floor", self.floor)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"visible": torch.ones(len(sizes), dtype=torch.float64)}

    def look(self, way: Sequence[Made]) -> Params:
        return {"visible": visible(way)}

    def check_way(self, before: Sequence[Op]) -> None:
        """Raises ValueError where it cannot stand behind these ops."""
        if any(isinstance(op, MIXING) for op in before):
            raise ValueError(
                "put it before mixup and cutmix, which mix targets that are softened, each by its own view"
            )
        if any(isinstance(op, Soften) for op in before):
            raise ValueError("the target is softened already; once is enough, behind all that hides")
        if not any(map(hides, before)):
            raise ValueError(
                "nothing before it hides a part of the image; put it behind crop, pad_crop, center_crop, translate, "
                "cutout or erase"
            )

    def retarget(self, target: Tensor | None, params: Params, classes: int | None) -> Tensor | None:
        """Soft targets [B, classes] of labels or of soft targets; None stays None."""
        if target is None:
            return None
        if classes is None:
            raise ValueError("softening labels needs the number of classes: pass classes")
        return soften(target, beside(params["visible"], target), classes, self.k, self.floor)

    def confidence(self, params: Params, classes: int) -> Tensor:
        """The label's share p of a target with one label, float64 [B]."""
        return confidence(params["visible"], classes, self.k, self.floor)

    def render(self, images: Tensor, params: Params) -> Tensor:
        return images

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return []

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Share seen in a minus that in b [B, 1]; the same in every frame."""
        return (a["visible"] - b["visible"])[:, None]

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes
