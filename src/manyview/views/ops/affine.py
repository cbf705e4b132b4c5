"""Affine resampling of a batch with a matrix an image, and its ops: shear, translate, rotate, affine.

Sizes stay, and what comes from outside is filled. Magnitudes are an image's own; a number n stands for a draw from
(-n, n), as in torchvision's `RandomRotation` and `RandomAffine`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from manyview.views.draws import Draws
from manyview.views.engine.program import Code, Column
from manyview.views.ops.op import (
    Params,
    ViewParams,
    as_range,
    as_symmetric,
    check_probability,
    check_share,
    draw,
    over_span,
    where_applied,
)
from manyview.views.ops.sampling import Places, affine_places, sample
from manyview.views.ops.sight import Sight

Ends = tuple[float, float]


@dataclass(frozen=True)
class Shear:
    """Slants along x, y or both, with the top left corner held still, with probability p (RandAugment's shear).

    x, y: the tangent; n stands for a draw from (-n, n), or a pair. interpolation: "nearest" or "bilinear". fill: in
    [0, 1]. Both together are torchvision's `affine` about that corner. Parameters: `tangent` [B, 2] (y, x), `applied`.
    """

    anti: ClassVar = ("y", "x", "applied")
    x: float | Ends = 0.3
    y: float | Ends = 0.0
    p: float = 1.0
    interpolation: str = "nearest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_resampling(self.p, self.interpolation, self.fill)
        self.ranges()

    def ranges(self) -> tuple[Ends, Ends]:
        """(low, high) along y and x."""
        return as_symmetric("y", self.y, 10), as_symmetric("x", self.x, 10)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        ends_y, ends_x = self.ranges()
        tangent = torch.stack([draw(draws, "y", ends_y), draw(draws, "x", ends_x)], dim=1)
        return {"tangent": tangent, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        matrices = self.matrices(params, *images.shape[-2:])
        return where_applied(params["applied"], moved(images, matrices, self.interpolation, self.fill), images)

    def matrices(self, params: Params, height: int, width: int) -> Tensor:
        """The maps that `moved` takes [B, 2, 3], for frames of height x width."""
        y, x = params["tangent"].unbind(dim=1)
        return compose(shear(x, 0, height), shear(y, 1, width))

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        matrices = self.matrices(params, *sizes[0].tolist())
        return [warp_column(matrices, self.interpolation, self.fill, params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Tangents along y and x of a minus those of b [B, 2], each in its own view's frame, over their spans.

        0 stands for "not applied".
        """
        return pair_difference(a, b, "tangent", self.ranges())

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Translate:
    """Moves the content by whole pixels along x and y, with probability p.

    x, y: shares of the image's width and height; n stands for a draw from (-n, n), or a pair. Positive is right and
    down. fill: in [0, 1]. Parameters: `shift` [B, 2] (y, x as shares of the frame), `applied` [B].
    """

    anti: ClassVar = ("y", "x", "applied")
    x: float | Ends = 0.1
    y: float | Ends = 0.1
    p: float = 1.0
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_resampling(self.p, "nearest", self.fill)
        self.ranges()

    def ranges(self) -> tuple[Ends, Ends]:
        """(low, high) along y and x."""
        return as_symmetric("y", self.y, 1), as_symmetric("x", self.x, 1)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        return {"shift": draw_shift(draws, self.ranges(), sizes), "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        matrices = self.matrices(params, *images.shape[-2:])
        return where_applied(params["applied"], moved(images, matrices, "nearest", self.fill), images)

    def matrices(self, params: Params, height: int, width: int) -> Tensor:
        """The maps that `moved` takes [B, 2, 3], for frames of height x width."""
        y, x = shift_pixels(params["shift"], height, width)
        return compose(translate(x, 0), translate(y, 1))

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [warp_column(self.matrices(params, *sizes[0].tolist()), "nearest", self.fill, params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Shares moved along y and x, a minus b [B, 2], each in its own view's frame, over their spans.

        0 stands for "not applied".
        """
        return pair_difference(a, b, "shift", self.ranges())

    def shows(self, sight: Sight, params: Params, sizes: Tensor) -> Sight:
        shift = torch.where(params["applied"][:, None], params["shift"], 0.0)
        return sight.cut(torch.cat([-shift, torch.ones_like(shift)], dim=1))

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Rotate:
    """Turns the content anticlockwise about the centre, with probability p (torchvision's `RandomRotation`).

    degrees: n stands for a draw from (-n, n), or a pair. interpolation: "nearest" or "bilinear". fill: in [0, 1].
    Parameters: `degrees` [B], `applied` [B].
    """

    anti: ClassVar = ("degrees", "applied")
    degrees: float | Ends = 30.0
    p: float = 1.0
    interpolation: str = "nearest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_resampling(self.p, self.interpolation, self.fill)
        as_symmetric("degrees", self.degrees, 360)

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        degrees = draw(draws, "degrees", as_symmetric("degrees", self.degrees, 360))
        return {"degrees": degrees, "applied": draws.coin("applied", self.p)}

    def render(self, images: Tensor, params: Params) -> Tensor:
        turned = moved(images, rotate(params["degrees"]), self.interpolation, self.fill)
        return where_applied(params["applied"], turned, images)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        return [warp_column(rotate(params["degrees"]), self.interpolation, self.fill, params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Degrees of a minus those of b [B, 1], each in its own view's frame, over their span.

        0 stands for "not applied".
        """
        return over_span(a, b, "degrees", as_symmetric("degrees", self.degrees, 360), neutral=0.0)

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


@dataclass(frozen=True)
class Affine:
    """Shears, scales, turns, then moves the content about the centre, with probability p (`RandomAffine`).

    All as in torchvision. degrees: clockwise (`rotate` turns the other way); n stands for a draw from (-n, n), or a
    pair. translate: the largest shares (x, y) of width and height, whole pixels being drawn either way. scale: a
    number or a pair. shear: degrees; n along x from (-n, n), a pair along x, or four numbers (x low, x high, y low,
    y high). interpolation: "nearest" or "bilinear". fill: in [0, 1]. Parameters: `degrees` [B], `shift` [B, 2] (y, x
    as shares of the frame), `scale` [B], `shear` [B, 2] (y, x in degrees), `applied` [B].
    """

    anti: ClassVar = ("degrees", "y", "x", "scale", "shear_y", "shear_x", "applied")
    degrees: float | Ends = 0.0
    translate: Ends = (0.0, 0.0)
    scale: float | Ends = 1.0
    shear: float | Ends | tuple[float, float, float, float] = 0.0
    p: float = 1.0
    interpolation: str = "nearest"
    fill: float = 0.0

    def __post_init__(self) -> None:
        check_resampling(self.p, self.interpolation, self.fill)
        self.ranges()

    def ranges(self) -> tuple[Ends, Ends, Ends, Ends, Ends, Ends]:
        """(low, high) of degrees, shift along y and x, scale, shear along y and x."""
        degrees = as_symmetric("degrees", self.degrees, 360)
        pair = self.translate
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or any(type(end) not in (int, float) for end in pair):
            raise ValueError(f"translate must be a pair of shares (x, y), got {pair!r}")
        shift_x, shift_y = (as_symmetric("translate", end, 1) for end in pair)
        scale = as_range("scale", self.scale, 1e-3, 1e3)
        four = self.shear if isinstance(self.shear, (tuple, list)) and len(self.shear) == 4 else None
        if four is None:
            shear_x, shear_y = as_symmetric("shear", self.shear, 89), (0.0, 0.0)  # type: ignore[arg-type]
        else:
            shear_x, shear_y = (as_range("shear", tuple(part), -89, 89) for part in (four[:2], four[2:]))  # type: ignore[arg-type]
        return degrees, shift_y, shift_x, scale, shear_y, shear_x

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        degrees, shift_y, shift_x, scale, shear_y, shear_x = self.ranges()
        return {
            "degrees": draw(draws, "degrees", degrees),
            "shift": draw_shift(draws, (shift_y, shift_x), sizes),
            "scale": draw(draws, "scale", scale),
            "shear": torch.stack([draw(draws, "shear_y", shear_y), draw(draws, "shear_x", shear_x)], dim=1),
            "applied": draws.coin("applied", self.p),
        }

    def render(self, images: Tensor, params: Params) -> Tensor:
        matrices = self.matrices(params, *images.shape[-2:])
        return where_applied(params["applied"], moved(images, matrices, self.interpolation, self.fill), images)

    def matrices(self, params: Params, height: int, width: int) -> Tensor:
        """The maps that `moved` takes [B, 2, 3], for frames of height x width."""
        shift_y, shift_x = shift_pixels(params["shift"], height, width)
        tangent_y, tangent_x = params["shear"].deg2rad().tan().unbind(dim=1)
        # from output to source: back, turned back, shrunk back, and the columns' and the rows' shear undone
        matrices = compose(translate(shift_x, 0), translate(shift_y, 1))
        matrices = compose(rotate(-params["degrees"]), matrices)
        matrices = compose(shear(tangent_y, 1, 0), matrices / params["scale"].double().view(-1, 1, 1))
        return compose(shear(tangent_x, 0, 0), matrices)

    def lower(self, params: Params, sizes: Tensor) -> list[Column]:
        matrices = self.matrices(params, *sizes[0].tolist())
        return [warp_column(matrices, self.interpolation, self.fill, params["applied"])]

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """Degrees, shift y, shift x, scale, shear y, shear x: a minus b [B, 6], in their own frames, over their spans.

        0, and a scale of 1, stand for "not applied".
        """
        degrees, shift_y, shift_x, scale, shear_y, shear_x = self.ranges()
        return torch.cat(
            [
                over_span(a, b, "degrees", degrees, neutral=0.0),
                pair_difference(a, b, "shift", (shift_y, shift_x)),
                over_span(a, b, "scale", scale, neutral=1.0),
                pair_difference(a, b, "shear", (shear_y, shear_x)),
            ],
            dim=1,
        )

    def output_size(self, sizes: Tensor) -> Tensor:
        return sizes


def check_resampling(p: float, interpolation: str, fill: float) -> None:
    """Raises ValueError unless these are a probability, "nearest" or "bilinear", and a number in [0, 1]."""
    check_probability(p)
    if interpolation not in ("nearest", "bilinear"):
        raise ValueError(f"interpolation must be 'nearest' or 'bilinear', got {interpolation!r}")
    check_share("fill", fill)


def draw_shift(draws: Draws, ranges: tuple[Ends, Ends], sizes: Tensor) -> Tensor:
    """Shares along y and x that are whole pixels of frames [B, 2]; float64 [B, 2]."""
    shares = torch.stack([draw(draws, name, ends) for name, ends in zip(("y", "x"), ranges, strict=True)], dim=1)
    return (shares * sizes).round() / sizes


def shift_pixels(shift: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Shares of the frame [B, 2] as whole pixels along y and x, each [B]."""
    return (shift[:, 0] * height).round(), (shift[:, 1] * width).round()


def pair_difference(a: Params, b: Params, name: str, ranges: tuple[Ends, Ends]) -> Tensor:
    """`over_span` for a parameter [B, 2] whose columns have ranges of their own and do nothing at 0."""
    columns = []
    for column, ends in enumerate(ranges):
        one_a, one_b = ({name: p[name][:, column], "applied": p["applied"]} for p in (a, b))
        columns.append(over_span(one_a, one_b, name, ends, neutral=0.0))
    return torch.cat(columns, dim=1)


def warp_column(matrices: Tensor, interpolation: str, fill: float, applied: Tensor | None = None) -> Column:
    """`moved` as an instruction. matrices: [B, 2, 3]; fill: in [0, 1]."""
    numbers = [matrices.flatten(1), *resampling_numbers(len(matrices), interpolation, fill)]
    return Column(Code.WARP, torch.cat(numbers, dim=1), applied)


def resampling_numbers(count: int, interpolation: str, fill: float) -> list[Tensor]:
    """What instructions that resample take after their map: 1 for bilinear, else 0, and the fill's level for RGB."""
    bilinear = torch.full((count, 1), float(interpolation == "bilinear"))
    return [bilinear, torch.full((count, 3), float(round(fill * 255)))]


def moved(images: Tensor, matrices: Tensor, interpolation: str, fill: float) -> Tensor:
    """Resamples by inverse affine maps, for images of either kind: uint8 [B, C, H, W] is rounded back to grey levels.

    matrices: [B, 2, 3] from output to source (x, y), in pixels from the image's centre. fill: in [0, 1], of what lies
    outside.
    """
    return resampled(images, affine_places(matrices, images), interpolation, fill)


def resampled(images: Tensor, places: Places, interpolation: str, fill: float) -> Tensor:
    """`sampling.sample` for images of either kind, as `moved`."""
    if images.is_floating_point():
        return sample(images, places, interpolation, fill).clamp(0, 1)  # weights may sum to more by a rounding
    return sample(images.float(), places, interpolation, round(fill * 255)).round().to(images.dtype)


def identity(count: int, device: torch.device | None = None) -> Tensor:
    """The map that changes nothing, float64 [count, 2, 3]."""
    return torch.eye(2, 3, dtype=torch.float64, device=device).repeat(count, 1, 1)


def shear(amount: Tensor, axis: int, extent: int) -> Tensor:
    """Shears along x (axis 0) or y (axis 1) by `amount` [B] (the tangent), with the top or left edge held still.

    extent: the image's size in pixels along the other axis.
    """
    matrices = identity(len(amount), amount.device)
    matrices[:, axis, 1 - axis] = amount
    matrices[:, axis, 2] = amount * extent / 2
    return matrices


def translate(pixels: Tensor, axis: int) -> Tensor:
    """Moves the content by `pixels` [B] along x (axis 0) or y (axis 1)."""
    matrices = identity(len(pixels), pixels.device)
    matrices[:, axis, 2] = -pixels
    return matrices


def rotate(degrees: Tensor) -> Tensor:
    """Turns the content anticlockwise by `degrees` [B] about the centre."""
    angle = degrees.double().deg2rad()
    matrices = identity(len(degrees), degrees.device)
    matrices[:, 0, 0] = matrices[:, 1, 1] = angle.cos()
    matrices[:, 0, 1], matrices[:, 1, 0] = -angle.sin(), angle.sin()
    return matrices


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The map that applies `inner`, then `outer`; all [B, 2, 3]. Written out, so that every batch size rounds alike."""
    a, b, c = outer.unbind(dim=2)  # columns [B, 2]
    x, y = inner[:, 0], inner[:, 1]  # rows [B, 3]
    out = a[:, :, None] * x[:, None] + b[:, :, None] * y[:, None]
    out[:, :, 2] += c
    return out
