"""A resize of which the next op keeps a part: only that part is made.

`resize(256) | center_crop(224)` of an image of 2x60000 pixels would pass through one of 256x7,680,000. An image of N
pixels may become at most `MULTIPLE` times N and the smallest output pixels in between; a resize that would make more
of it is refused, unless a centre crop follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from manyview.errors import DataError
from manyview.views.engine.program import Code, Column
from manyview.views.ops.crop import CenterCrop, Resize, as_pair, box_pixels, pixels, resample
from manyview.views.ops.flip import Flip, VFlip
from manyview.views.ops.op import Op, Params, beside

MULTIPLE = 16


@dataclass(frozen=True)
class ResizedPart:
    """The part of a resized image that a centre crop keeps, to within rounding what the two ops give one by one.

    Its parameters: `box` of the resize, `kept`, the box of the crop, and `x`, `y` bool [B]: whether the part is that of
    the mirrored image, which is itself mirrored afterwards.
    """

    resize: Resize
    crop: CenterCrop

    def render(self, images: Tensor, params: Params) -> Tensor:
        """Float in [0, 1], [B, C, h, w] of the crop's size."""
        whole = self.resize.whole(images.shape[-2], images.shape[-1])
        corner = self._corner(params, beside([whole], images))
        return resample(images, pixels(params["box"], images), whole, corner.long(), as_pair(self.crop.size))

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        """One RESAMPLE with a window."""
        whole = self.resize.output_size(sizes)
        numbers = [box_pixels(params["box"], sizes), torch.zeros(len(sizes), 2), self._corner(params, whole), whole]
        return [Column(Code.RESAMPLE, torch.cat(numbers, dim=1), size=as_pair(self.crop.size))]

    def output_size(self, sizes: Tensor) -> Tensor:
        """That of the crop."""
        return self.crop.output_size(sizes)

    def _corner(self, params: Params, whole: Tensor) -> Tensor:
        """Top and left of what is kept, in pixels of the resized image before any flip, float64 [B, 2]."""
        box = box_pixels(params["kept"].double(), whole)
        mirrored = torch.stack([params["y"], params["x"]], dim=1)
        return torch.where(mirrored, whole - box[:, :2] - box[:, 2:], box[:, :2])


Drawn = tuple[Op | ResizedPart, Params]


def in_parts(drawn: Sequence[tuple[Op, Params]]) -> list[Drawn]:
    """Ops and their parameters; a resize and the centre crop that follows it are one, flips between them come after."""
    made: list[Drawn] = []
    rest = list(drawn)
    while rest:
        op, params = rest.pop(0)
        after = _crop_after([other for other, _ in rest]) if isinstance(op, Resize) else None
        if isinstance(op, Resize) and after is not None:
            crop, kept = rest.pop(after)
            assert isinstance(crop, CenterCrop)
            flips = {axis: torch.zeros(len(kept["box"]), dtype=torch.bool, device=kept["box"].device) for axis in "xy"}
            for flip, coin in rest[:after]:
                axis = "x" if isinstance(flip, Flip) else "y"
                flips[axis] = flips[axis] ^ coin["applied"]
            made.append((ResizedPart(op, crop), {"box": params["box"], "kept": kept["box"], **flips}))
        else:
            made.append((op, params))
    return made


def check_growth(ops: Sequence[Op], sizes: Tensor) -> Tensor:
    """Sizes after all ops [B, 2], of images that have `sizes` before them.

    Raises DataError where an image would become far larger than it is, and than what is to come of it.
    """
    for at, op in enumerate(ops):
        out = op.output_size(sizes)
        if isinstance(op, Resize) and isinstance(op.size, int) and _crop_after(ops[at + 1 :]) is None:
            grown = out.prod(dim=1) > MULTIPLE * (sizes.prod(dim=1) + op.size**2)
            if grown.any():
                row = int(grown.nonzero()[0])
                (height, width), (high, wide) = sizes[row].tolist(), out[row].tolist()
                raise DataError(
                    f"image {row} of the batch is {height}x{width}, and resize({op.size}) would make it {high}x{wide}; "
                    "follow it with center_crop, resize to a pair of numbers, or begin with crop",
                    row,
                )
        sizes = out
    return sizes


def _crop_after(ops: Sequence[Op]) -> int | None:
    """Where the ops go on, after flips, with a centre crop."""
    after = next((at for at, op in enumerate(ops) if not isinstance(op, (Flip, VFlip))), len(ops))
    return after if after < len(ops) and isinstance(ops[after], CenterCrop) else None
