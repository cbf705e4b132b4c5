"""Perspective: the image as a tilted plane, its four corners moved inwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Code, Column
from manyview.views.ops.affine import check_resampling, resampled, resampling_numbers
from manyview.views.ops.op import Params, ViewParams, beside, check_share, where_applied
from manyview.views.ops.sampling import projective_places

# top left, top right, bottom right, bottom left: (y, x) of the unit square
CORNERS = ((0, 0), (0, 1), (1, 1), (1, 0))


@dataclass(frozen=True)
class Perspective:
    """Moves each corner inwards by up to distortion_scale of half a side, with probability p (`RandomPerspective`).

    distortion_scale: in [0, 1]; each corner draws its own whole pixels along y and x, uniform, as in torchvision.
    interpolation: "nearest" or "bilinear". fill: in [0, 1]. Near a scale of 1 corners can meet in one line; such an
    image is all fill. Parameters: `corners` [B, 4, 2] (how far top left, top right, bottom right and bottom left move
    inwards along y and x, as fractions of the frame), `applied` [B].
    """

    anti: ClassVar = ("corners", "applied")
    distortion_scale: float = 0.5
    p: float = 0.5
    interpolation: str = "bilinear"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_resampling(self.p, self.interpolation, self.fill)
        check_share("distortion_scale", self.distortion_scale)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        farthest = (self.distortion_scale * (sizes // 2).double()).floor() + 1
        inwards = (draws.uniform("corners", 8).view(-1, 4, 2) * farthest[:, None]).floor()
        return {"corners": inwards / sizes[:, None], "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        height, width = images.shape[-2:]
        places = projective_places(homography(params["corners"], height, width), images)
        return where_applied(params["applied"], resampled(images, places, self.interpolation, self.fill), images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        maps = homography(params["corners"], *sizes[0].tolist()).flatten(1)[:, :8]
        numbers = [maps, *resampling_numbers(len(maps), self.interpolation, self.fill)]
        return [Column(Code.PROJECT, torch.cat(numbers, dim=1), params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Moves of the four corners (y, x) in a minus those in b [B, 8], each in its own view's frame.

        Zeros stand for "not applied".
        """
        moves_a, moves_b = (p["corners"].flatten(1) * p["applied"][:, None] for p in (a, b))
        return moves_a - moves_b

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


def homography(corners: Tensor, height: int, width: int) -> Tensor:
    """Maps from output to source pixels (x, y, 1), float64 [B, 3, 3], for corners moved inwards [B, 4, 2].

    The map of the unit square onto a quadrilateral in closed form (Heckbert, "Fundamentals of texture mapping and image
    warping", 1989, section 2.2.3), inverted by its adjugate, so that no batch is solved otherwise than an image alone.
    """
    unit = beside(CORNERS, corners, torch.float64)
    sides = beside([height, width], corners, torch.float64)
    moved = unit * (sides - 1) + (1 - 2 * unit) * (corners * sides).round()  # [B, 4, 2]
    (y0, x0), (y1, x1), (y2, x2), (y3, x3) = (corner.unbind(dim=1) for corner in moved.unbind(dim=1))

    dx1, dx2, dx = x1 - x2, x3 - x2, x0 - x1 + x2 - x3
    dy1, dy2, dy = y1 - y2, y3 - y2, y0 - y1 + y2 - y3
    det = dx1 * dy2 - dx2 * dy1
    g, h = (dx * dy2 - dx2 * dy) / det, (dx1 * dy - dx * dy1) / det
    a, b, c = x1 - x0 + g * x1, x3 - x0 + h * x3, x0
    d, e, f = y1 - y0 + g * y1, y3 - y0 + h * y3, y0

    scale = a * e - b * d
    onto_x = torch.stack([e - f * h, c * h - b, b * f - c * e], dim=1) * (width - 1)
    onto_y = torch.stack([f * g - d, a - c * g, c * d - a * f], dim=1) * (height - 1)
    depth = torch.stack([d * h - e * g, b * g - a * h, scale], dim=1)
    return torch.stack([onto_x, onto_y, depth], dim=1) / scale[:, None, None]
