"""Crops and resizing. All of them record a `box`: top, left, height, width as fractions of the frame they saw.

Resampling is bilinear with antialiasing, as torchvision's `resized_crop` and `resize`: the filter is a triangle as
wide as the reduction, applied inside the box only. It is separable: rows are mixed first, then columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from manyview.errors import DataError
from manyview.views.draws import Draws
from manyview.views.engine.boxes import first_fitting, placed
from manyview.views.engine.program import Code, Column
from manyview.views.ops.op import PIXELS, Params, ViewParams, as_float, as_range, beside, check_whole
from manyview.views.ops.sight import Sight

ROWS_FIRST = 8  # times the height that rows may become before columns are mixed
ATTEMPTS = 10  # torchvision's and the Inception crop's number of tries before it falls back to the centre


@dataclass(frozen=True)
class Crop:
    """Random resized crop (Szegedy et al., CVPR 2015): a box of random area and shape, resized to `size`.

    size: output height and width in pixels, or (height, width). scale: the box's share of the area, uniform.
    ratio: width / height, log-uniform. Ten tries, then the largest central box with an allowed ratio; boxes lie on
    whole pixels, all as in torchvision.
    """

    anti: ClassVar = ("top", "left")
    size: int | tuple[int, int]
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        check_size(self.size)
        as_range("scale", self.scale, 0, 1)
        as_range("ratio", self.ratio, 1e-3, 1e3)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        low, high = as_range("ratio", self.ratio, 1e-3, 1e3)
        shares = draws.uniform("scale", ATTEMPTS, *as_range("scale", self.scale, 0, 1))
        ratios = draws.uniform("ratio", ATTEMPTS, math.log(low), math.log(high)).exp()
        seen = np.ascontiguousarray(sizes.numpy())
        boxes = first_fitting(shares.numpy(), ratios.numpy(), seen, low, high)
        room = torch.from_numpy(seen - boxes[:, :2] + 1)
        top, left = (draws.integers(name, room[:, at : at + 1]) for at, name in enumerate(("top", "left")))
        return {"box": torch.from_numpy(placed(boxes, top.numpy(), left.numpy(), seen))}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return resample(images, pixels(params["box"], images), as_pair(self.size))

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [Column(Code.RESAMPLE, box_pixels(params["box"], sizes), size=as_pair(self.size))]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Centre y, centre x, height, width as fractions of the source [B, 4], in view a's frame, after a's flip."""
        return box_difference(a, b, frame)

    def shows(self, sight: Sight, params: Params, sizes: Tensor) -> Sight:
        return sight.cut(params["box"])

    def output_size(self, sizes: Tensor) -> Tensor:
        return alike(self.size, len(sizes))


@dataclass(frozen=True)
class PadCrop:
    """Random crop of the padded image, the standard CIFAR augmentation (He et al., CVPR 2016, section 4.2).

    size: pixels, or (height, width); by default that of the image. padding: pixels added on each side.
    mode: "zeros" or "reflect". Equals torchvision's `RandomCrop(size, padding)`. The box may reach over the frame, so
    its fractions may be negative. Raises DataError for an image that is too small.
    """

    anti: ClassVar = ("top", "left")
    size: int | tuple[int, int] | None = None
    padding: int = 4
    mode: str = "zeros"

    def __post_init__(self) -> None:
        if self.size is not None:
            check_size(self.size)
        check_whole("padding", self.padding, least=0, most=PIXELS)
        if self.mode not in ("zeros", "reflect"):
            raise ValueError(f"mode must be 'zeros' or 'reflect', got {self.mode!r}")

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        out = self.output_size(sizes)
        room = sizes + 2 * self.padding - out
        check_room(room, sizes, f"pad_crop to {out[0, 0]}x{out[0, 1]}" if len(out) else "")
        if self.mode == "reflect":
            check_room(sizes - 1 - self.padding, sizes, f"a reflected border of {self.padding}")
        top = draws.integers("top", room[:, :1] + 1) - self.padding
        left = draws.integers("left", room[:, 1:] + 1) - self.padding
        return {"box": fractions(torch.cat([top, left, out], dim=1).double(), sizes)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        size = images.shape[-2:] if self.size is None else as_pair(self.size)
        return cut(images, pixels(params["box"], images), size, self.mode)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        corner = box_pixels(params["box"], sizes)[:, :2]
        reflect = torch.full((len(corner), 1), float(self.mode == "reflect"))
        return [
            Column(
                Code.WINDOW, torch.cat([corner, reflect], dim=1), size=None if self.size is None else as_pair(self.size)
            )
        ]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """As `crop`: centre y, centre x, height, width [B, 4], in view a's frame, after a's flip."""
        return box_difference(a, b, frame)

    def shows(self, sight: Sight, params: Params, sizes: Tensor) -> Sight:
        return sight.cut(params["box"])

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes if self.size is None else alike(self.size, len(sizes))


@dataclass(frozen=True)
class CenterCrop:
    """The central `size` pixels; nothing is drawn. Raises DataError for an image that is smaller."""

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        check_size(self.size)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        out = self.output_size(sizes)
        room = sizes - out
        check_room(room, sizes, "center_crop to {}x{}".format(*as_pair(self.size)))
        start = (room.double() / 2).round()
        return {"box": fractions(torch.cat([start, out.double()], dim=1), sizes)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return cut(images, pixels(params["box"], images), as_pair(self.size))

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        corner = box_pixels(params["box"], sizes)[:, :2]
        return [Column(Code.WINDOW, torch.cat([corner, torch.zeros(len(corner), 1)], dim=1), size=as_pair(self.size))]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """As `crop` [B, 4]."""
        return box_difference(a, b, frame)

    def shows(self, sight: Sight, params: Params, sizes: Tensor) -> Sight:
        return sight.cut(params["box"])

    def output_size(self, sizes: Tensor) -> Tensor:
        return alike(self.size, len(sizes))


@dataclass(frozen=True)
class Resize:
    """The whole image, resized. size: pixels of the shorter side (the shape is kept), or (height, width).

    Where `center_crop` follows, only what it keeps is made. Otherwise a long, narrow image of which more than 16 times
    its own and `size`² pixels would be made raises DataError.
    """

    size: int | tuple[int, int]

    def __post_init__(self) -> None:
        check_size(self.size)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        whole = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
        return {"box": whole.repeat(len(sizes), 1)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        return resample(images, pixels(params["box"], images), self.whole(images.shape[-2], images.shape[-1]))

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        out = self.output_size(sizes)
        size = (int(out[0, 0]), int(out[0, 1])) if (out == out[0]).all() else None
        return [Column(Code.RESAMPLE, box_pixels(params["box"], sizes), size=size)]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """As `crop`; zero [B, 4]."""
        return box_difference(a, b, frame)

    def output_size(self, sizes: Tensor) -> Tensor:
        if not isinstance(self.size, int):
            return alike(self.size, len(sizes))
        return self.size * sizes // sizes.min(dim=1, keepdim=True).values

    def whole(self, height: int, width: int) -> tuple[int, int]:
        """`output_size` of one image in plain numbers; those of a tensor would break the graph of a compiler."""
        if not isinstance(self.size, int):
            return as_pair(self.size)
        return self.size * height // min(height, width), self.size * width // min(height, width)


def check_size(size: Any) -> None:
    """Raises ValueError unless size is a positive whole number or a pair of them."""
    pair = as_pair(size)
    if len(pair) != 2 or not all(type(side) is int and side > 0 for side in pair):
        raise ValueError(f"size must be a number of pixels or a pair (height, width), got {size!r}")
    if max(pair) > PIXELS:
        raise ValueError(f"size must be at most {PIXELS:,} pixels a side, got {size!r}")


def as_pair(size: Any) -> tuple[int, int]:
    """(height, width) of a size given as a number or as a pair."""
    return tuple(size) if isinstance(size, (tuple, list)) else (size, size)


def alike(size: Any, count: int) -> Tensor:
    """So many frames of one size, int64 [B, 2]."""
    return torch.from_numpy(np.array(as_pair(size), np.int64)).expand(count, 2)


def check_room(room: Tensor, sizes: Tensor, what: str) -> None:
    """Raises DataError where an image is smaller than what is to be cut out of it. room: pixels left over [B, 2]."""
    if (room < 0).any():
        row = int((room < 0).any(dim=1).nonzero()[0])
        height, width = sizes[row].tolist()
        raise DataError(f"image {row} of the batch is {height}x{width}, too small for {what}; resize it first", row)


def fractions(boxes: Tensor, sizes: Tensor) -> Tensor:
    """Boxes in pixels [B, 4] as fractions of frames [B, 2]."""
    return (boxes.unflatten(1, (2, 2)) / sizes[:, None]).flatten(1)


def pixels(box: Tensor, images: Tensor) -> Tensor:
    """Boxes [B, 4] in whole pixels of the images, int64, where the boxes lie."""
    return box_pixels(box.double(), beside([images.shape[-2:]], box)).long()


def box_pixels(box: Tensor, sizes: Tensor) -> Tensor:
    """Boxes [B, 4] in whole pixels of frames [B, 2], float64."""
    return (box.unflatten(1, (2, 2)) * sizes[:, None]).round().flatten(1)


def box_difference(a: Params, b: Params, frame: ViewParams | None) -> Tensor:
    """Centres and sizes of boxes a minus b [B, 4]; x of both mirrored where view a was flipped."""
    centre_a, centre_b = (p["box"][:, :2] + p["box"][:, 2:] / 2 for p in (a, b))
    apart = torch.cat([centre_a - centre_b, a["box"][:, 2:] - b["box"][:, 2:]], dim=1)
    for name, column in (("flip", 1), ("vflip", 0)):
        if frame is not None and name in frame:
            apart[:, column] = torch.where(frame[name]["applied"], -apart[:, column], apart[:, column])
    return apart


def cut(images: Tensor, boxes: Tensor, size: Sequence[int], beyond: str | None = None) -> Tensor:
    """Boxes [B, 4], all of one size (height, width), cut out of the images, pixel for pixel.

    beyond: what boxes that reach over the edges find there, "zeros" or "reflect"; no image is made larger for it.
    """
    boxes = boxes.to(images.device)
    places, inside = [], []
    for axis in (0, 1):
        last = images.shape[axis - 2] - 1
        at = boxes[:, axis : axis + 1] + torch.arange(size[axis], device=images.device)
        inside.append((at >= 0) & (at <= last))
        places.append(last - (last - at.abs()).abs() if beyond == "reflect" else at.clamp(0, last))
    batch = torch.arange(len(images), device=images.device)[:, None, None]
    made = images.permute(0, 2, 3, 1)[batch, places[0][:, :, None], places[1][:, None, :]].permute(0, 3, 1, 2)
    if beyond == "zeros":
        made = made * (inside[0][:, None, :, None] & inside[1][:, None, None, :])
    return made.contiguous()


def resample(
    images: Tensor,
    boxes: Tensor,
    size: tuple[int, int],
    corner: Tensor | None = None,
    part: tuple[int, int] | None = None,
) -> Tensor:
    """Boxes in pixels [B, 4], each resized to (height, width) with an antialiased triangle filter; float [0, 1].

    corner, part: of the resized images only the part of that height and width from there on is made; top, left [B, 2].
    """
    boxes, part = boxes.to(images.device), part or size
    corner = torch.zeros_like(boxes[:, :2]) if corner is None else corner.to(images.device)
    images = as_float(images)
    mixed = images.permute(0, 2, 1, 3)  # [B, H, C, W]
    axes = (0, 1)
    if part[0] > ROWS_FIRST * images.shape[-2]:  # or what lies in between were larger than image and output
        mixed, axes = images.permute(0, 3, 1, 2), (1, 0)
    for axis in axes:
        start, length = boxes[:, axis], boxes[:, axis + 2]
        mixed = mix_rows(mixed, start, length, size[axis], corner[:, axis], part[axis]).transpose(1, 3)
    # rows and columns changed places twice: [B, height, C, width], or [B, width, C, height]
    return (mixed.permute(0, 2, 1, 3) if axes == (0, 1) else mixed.permute(0, 2, 3, 1)).contiguous().clamp(0, 1)


def mix_rows(rows: Tensor, start: Tensor, length: Tensor, whole: int, first_out: Tensor, target: int) -> Tensor:
    """[start, start + length) of each image's rows [B, N, …], with lengths of its own [B], resized to `whole` rows.

    Of these, `target` are made, from the row `first_out` [B] on. The taps of a row are added up one after the other, so
    that nothing but the image bears on how its sums round.
    """
    first, weights = triangle_taps(start, length, rows.shape[1], whole, first_out, target)
    batch = torch.arange(len(rows), device=rows.device)[:, None]
    shape = (len(rows), target, *(1,) * (rows.ndim - 2))
    mixed = rows.new_zeros(())
    for tap, weight in enumerate(weights):
        at = (first + tap).clamp_max(rows.shape[1] - 1)
        mixed = mixed + weight.to(rows.dtype).view(shape) * rows[batch, at]
    return mixed


def triangle_taps(
    start: Tensor, length: Tensor, source: int, whole: int, first_out: Tensor, target: int
) -> tuple[Tensor, list[Tensor]]:
    """The triangle filter that resizes [start, start + length) within `source` pixels to `whole` of them.

    start, length: [B]. Returns, for `target` of them from `first_out` [B] on, the first pixel that each takes, int64
    [B, target], and the weights of that and of the following ones, float64 [B, target] each: as many as the largest
    reduction needs, so that none has to be looked at.
    """
    start, length = start.double()[:, None], length.double()[:, None]
    scale = length / whole
    reach = scale.clamp_min(1.0)
    centre = start + scale * ((first_out[:, None] + torch.arange(target, device=start.device)).double() + 0.5)
    first = torch.maximum((centre - reach + 0.5).floor(), start)
    weights = []
    for tap in range(math.ceil(2 * max(source / whole, 1.0))):
        position = first + (tap + 0.5)
        weight = (1 - (position - centre).abs() / reach).clamp_min(0)
        weights.append(torch.where(position < start + length, weight, 0.0))
    total = weights[0]
    for weight in weights[1:]:
        total = total + weight
    return first.long(), [weight / total for weight in weights]
