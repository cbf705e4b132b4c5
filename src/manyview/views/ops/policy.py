"""What all policies share: one table of ops, how magnitudes are made, and how drawn ops are applied.

A policy draws for each turn a code (a place in `POLICY_OPS`) and one number. What the number means depends on the op
alone and never on the policy that drew it, so whoever holds codes and magnitudes can make the pixels.

The ops work on grey levels, uint8 in and uint8 out after every op, as PIL does in the papers' pipelines. They follow
torchvision's kernels: rotations about the centre, shears that hold the top left corner still, nearest resampling
unless asked otherwise, blends cut off to whole levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from manyview.errors import unknown
from manyview.views.draws import Draws
from manyview.views.engine.program import Code, Column
from manyview.views.ops import affine, color, histogram, threshold
from manyview.views.ops.cubic import warp_cubic
from manyview.views.ops.erase import square
from manyview.views.ops.op import as_uint8, beside, check_rgb, check_share
from manyview.views.ops.sampling import affine_places, sample


@dataclass(frozen=True)
class PolicyOp:
    """An op of the table: one of three kinds, or none, which is the identity.

    unit: what its magnitude counts; empty where it is not looked at. levels: makes grey levels [b, C, h, w] from grey
    levels and magnitudes [b]. matrix: from magnitudes [b], height and width, the map [b, 2, 3] that
    `affine.moved` takes. hides: it fills a square around a drawn centre.
    """

    unit: str = ""
    levels: Callable[[Tensor, Tensor], Tensor] | None = None
    matrix: Callable[[Tensor, int, int], Tensor] | None = None
    hides: bool = False
    code: Code = Code.NOTHING
    offset: float = 0.0
    scale: float = 1.0

    @property
    def needs_fill(self) -> bool:
        """Whether pixels come to light, or are hidden, that need a colour."""
        return self.matrix is not None or self.hides


# the order is the numbering of the codes that are recorded: append, never reorder
POLICY_OPS: Mapping[str, PolicyOp] = MappingProxyType(
    {
        "identity": PolicyOp(),
        "shear_x": PolicyOp("slope", matrix=lambda v, h, w: affine.shear(v, 0, h), code=Code.WARP),
        "shear_y": PolicyOp("slope", matrix=lambda v, h, w: affine.shear(v, 1, w), code=Code.WARP),
        "translate_x": PolicyOp(
            "whole pixels to the right", matrix=lambda v, h, w: affine.translate(v, 0), code=Code.WARP
        ),
        "translate_y": PolicyOp("whole pixels down", matrix=lambda v, h, w: affine.translate(v, 1), code=Code.WARP),
        "rotate": PolicyOp("degrees anticlockwise", matrix=lambda v, h, w: affine.rotate(v), code=Code.WARP),
        "brightness": PolicyOp("factor - 1", lambda x, v: color.brightness(x, 1 + v), code=Code.LEVELS, offset=1),
        "color": PolicyOp("factor - 1", lambda x, v: color.saturation(x, 1 + v), code=Code.SATURATE, offset=1),
        "contrast": PolicyOp("factor - 1", lambda x, v: color.contrast(x, 1 + v), code=Code.CONTRAST, offset=1),
        "sharpness": PolicyOp("factor - 1", lambda x, v: histogram.sharpness(x, 1 + v), code=Code.SHARPEN, offset=1),
        "posterize": PolicyOp("bits kept", histogram.posterize, code=Code.POSTERIZE),
        "solarize": PolicyOp("threshold, 1 being 255 levels", threshold.solarize, code=Code.SOLARIZE, scale=255),
        "autocontrast": PolicyOp(levels=lambda x, v: histogram.autocontrast(x), code=Code.AUTOCONTRAST),
        "equalize": PolicyOp(levels=lambda x, v: histogram.equalize(x), code=Code.EQUALIZE),
        "invert": PolicyOp(levels=lambda x, v: threshold.invert(x), code=Code.INVERT),
        "solarize_add": PolicyOp(
            "added to levels under 128, 1 being 255 levels", threshold.solarize_add, code=Code.SOLARIZE_ADD, scale=255
        ),
        "cutout": PolicyOp("whole pixels of the square's side", hides=True, code=Code.FILL),
    }
)
CODES: Mapping[str, int] = MappingProxyType({name: code for code, name in enumerate(POLICY_OPS)})


INTERPOLATIONS = {"nearest": 0, "bilinear": 2, "bicubic": 3}  # with their numbers in a program


@dataclass(frozen=True)
class Manner:
    """How a list of ops is carried out where published codes differ.

    hidden: the colour of cutout's square, three grey levels; None takes the fill. inverts: solarize_add adds to all
    pixels, then inverts those of level 128 and more, as in DSSL's code; else it adds to levels under 128.
    """

    hidden: tuple[int, int, int] | None = None
    inverts: bool = False


USUAL = Manner()


def apply_policy_op(
    images: Tensor,
    codes: Tensor,
    magnitudes: Tensor,
    centres: Tensor | None = None,
    fill: float = 0.0,
    interpolation: str = "nearest",
    manner: Manner = USUAL,
) -> Tensor:
    """Applies to each image the op that was drawn for it.

    images: uint8 [B, C, H, W], left as they are. codes: int64 [B]. magnitudes: float64 [B]. centres: [B, 2] (y, x as
    fractions of the frame), for cutout, which without them hides nothing. fill: in [0, 1], the level of pixels that are
    hidden or come from outside. interpolation: of the geometric ops, one of `INTERPOLATIONS`. Returns uint8
    [B, C, H, W].
    """
    height, width = images.shape[-2:]
    level = round(fill * 255)
    colour = beside(manner.hidden or (level,), images, torch.uint8).view(-1, 1, 1)
    out = images.clone()
    moved, matrices = torch.zeros_like(codes, dtype=torch.bool), affine.identity(len(codes), codes.device)
    for code, op in enumerate(POLICY_OPS.values()):
        chosen = codes == code
        own = torch.where(chosen, magnitudes, 0.0)
        if op.levels is not None:
            kernel = threshold.add_solarize if manner.inverts and op.code == Code.SOLARIZE_ADD else op.levels
            out = _where_chosen(out, images, chosen, kernel, own)
        elif op.matrix is not None:
            moved = moved | chosen
            matrices = torch.where(chosen[:, None, None], op.matrix(own, height, width), matrices)
        elif op.hides and centres is not None:
            out = _where_chosen(
                out, images, chosen, lambda x, at, side: torch.where(square(at, side, x), colour, x), centres, own
            )
    return _where_chosen(out, images, moved, lambda x, maps: _warp(x, maps, level, interpolation), matrices)


def apply_policy_ops(
    images: Tensor,
    codes: Tensor,
    magnitudes: Tensor,
    centres: Tensor | None = None,
    fill: float = 0.0,
    interpolation: str = "nearest",
    manner: Manner = USUAL,
) -> Tensor:
    """Applies T drawn ops in turn: codes and magnitudes [B, T], centres [B, T, 2]; the rest as `apply_policy_op`.

    images: uint8, or float, which are rounded to levels first. Raises ValueError for images that are not RGB.
    """
    check_rgb("a policy", images)
    out = as_uint8(images)
    for turn in range(codes.shape[1]):
        centre = None if centres is None else centres[:, turn]
        out = apply_policy_op(out, codes[:, turn], magnitudes[:, turn], centre, fill, interpolation, manner)
    return out


_INSTRUCTIONS = np.array([op.code for op in POLICY_OPS.values()], np.int64)
_OFFSETS = torch.tensor([op.offset for op in POLICY_OPS.values()], dtype=torch.float64)
_SCALES = torch.tensor([op.scale for op in POLICY_OPS.values()], dtype=torch.float64)


def lower_policy_ops(
    codes: Tensor,
    magnitudes: Tensor,
    sizes: Tensor,
    centres: Tensor | None = None,
    fill: float = 0.0,
    interpolation: str = "nearest",
    manner: Manner = USUAL,
) -> list[Column]:
    """`apply_policy_ops` as instructions, one column for each turn. sizes: of the images, all alike [B, 2]."""
    height, width = sizes[0].tolist() if len(sizes) else (1, 1)
    count, turns = codes.shape
    chosen, magnitude = codes.T.flatten(), magnitudes.T.flatten()  # of all turns, one turn after the other
    numbers = torch.zeros(len(chosen), 10, dtype=torch.float64)
    numbers[:, 0] = _OFFSETS[chosen] + _SCALES[chosen] * magnitude
    numbers[:, 1] = 127.5  # the threshold of solarize_add
    numbers[:, 2] = float(manner.inverts)
    for code, op in enumerate(POLICY_OPS.values()):
        rows = (chosen == code).nonzero()[:, 0] if op.needs_fill else chosen[:0]
        if not len(rows):
            continue
        if op.matrix is not None:
            own = torch.full((len(rows), 10), float(round(fill * 255)), dtype=torch.float64)
            own[:, :6] = op.matrix(magnitude[rows], height, width).flatten(1)
            own[:, 6] = INTERPOLATIONS[interpolation]
            numbers[rows] = own
        elif centres is not None:
            at = centres.transpose(0, 1).flatten(0, 1)[rows] * sizes[rows % count]
            corner = at.round() - magnitude[rows, None] // 2
            numbers[rows, :4] = torch.cat([corner, corner + magnitude[rows, None]], dim=1)
            numbers[rows, 4:7] = torch.tensor(manner.hidden or (round(fill * 255),) * 3).double()
    instructions = _INSTRUCTIONS[chosen.numpy()].reshape(turns, count)
    return [Column(*each, rgb=True) for each in zip(instructions, numbers.view(turns, count, 10), strict=True)]


def _where_chosen(
    out: Tensor, images: Tensor, chosen: Tensor, kernel: Callable[..., Tensor], *values: Tensor
) -> Tensor:
    """`out` with the chosen rows made anew by `kernel`, which is given images and values. May write into `out`.

    The CPU computes the chosen rows alone. Elsewhere to know how many these are would hold up the device, and a
    compiled graph cannot depend on it: there all rows are computed.
    """
    if images.device.type == "cpu" and not torch.compiler.is_compiling():
        rows = chosen.nonzero()[:, 0]
        if len(rows):
            out[rows] = kernel(images[rows], *(value[rows] for value in values))
        return out
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), kernel(images, *values), out)


def _warp(images: Tensor, matrices: Tensor, level: int, interpolation: str) -> Tensor:
    """Resamples by maps [B, 2, 3], as `affine.moved`, but for what lies between the outermost pixels and the outside.

    There bilinear sampling mixes with the fill by its share. So do torchvision's policies where no fill is given; with
    a given one, and in `affine.moved`, that share counts twice.
    """
    if interpolation == "bicubic":
        return warp_cubic(images, matrices, level)
    places = affine_places(matrices, images)
    return sample(images.float(), places, interpolation, level, twice=False).round().to(torch.uint8)


def summed(codes: Tensor, magnitudes: Tensor) -> Tensor:
    """For each op of the table, the sum of its magnitudes: [B, T] and [B, T] to [B, 17]; 0 for an op not drawn."""
    return magnitudes.new_zeros(len(codes), len(POLICY_OPS)).scatter_add(1, codes, magnitudes)


# how magnitudes are made


@dataclass(frozen=True)
class Magnitude:
    """How a policy makes an op's magnitude from a strength.

    of: from strengths in [0, 1] and sizes (heights, widths), [..., T] and [..., 1, 2], to magnitudes [..., T].
    signed: whether half of them are turned negative.
    """

    of: Callable[[Tensor, Tensor], Tensor]
    signed: bool = False


Space = Mapping[str, Magnitude]  # the ops a policy draws from, by name
NOTHING = Magnitude(lambda s, sizes: torch.zeros_like(s))


def linear(low: float, high: float, signed: bool = False) -> Magnitude:
    """From low at strength 0 to high at strength 1."""
    return Magnitude(lambda s, sizes: low + (high - low) * s, signed)


def shift(axis: int, share: float = 0.0, pixels: float = 0.0) -> Magnitude:
    """Up to a share of the height (axis 0) or width (axis 1), or up to so many pixels; signed, in whole ones."""
    # torchvision computes in float32, where products that are whole in decimals do not fall below themselves
    return Magnitude(lambda s, sizes: ((share * sizes[..., axis] + pixels) * s + 1e-6).trunc(), signed=True)


def torchvision_space(
    slope: float = 0.3,
    share: float = 0.0,
    pixels: float = 0.0,
    degrees: float = 30.0,
    change: float = 0.9,
    bits: tuple[int, int] = (8, 4),
) -> dict[str, Magnitude]:
    """The fourteen ops of torchvision's policies in its order, from the largest magnitude of each.

    share and pixels: of translations, see `shift`. bits: kept by posterize at strength 0 and 1.
    """
    enhanced = linear(0.0, change, signed=True)
    return {
        "identity": NOTHING,
        "shear_x": linear(0.0, slope, signed=True),
        "shear_y": linear(0.0, slope, signed=True),
        "translate_x": shift(1, share, pixels),
        "translate_y": shift(0, share, pixels),
        "rotate": linear(0.0, degrees, signed=True),
        "brightness": enhanced,
        "color": enhanced,
        "contrast": enhanced,
        "sharpness": enhanced,
        "posterize": Magnitude(lambda s, sizes: bits[0] - ((bits[0] - bits[1]) * s).round()),
        "solarize": linear(1.0, 0.0),
        "autocontrast": NOTHING,
        "equalize": NOTHING,
    }


def codes_of(space: Space) -> Tensor:
    """The codes of a space's ops in its order, int64."""
    return torch.tensor([CODES[name] for name in space])


def magnitudes_of(space: Space, codes: Tensor, strength: Tensor, sign: Tensor, sizes: Tensor) -> Tensor:
    """Magnitudes of drawn ops, float64 [B, T].

    codes: [B, T]. strength: in [0, 1], broadcast to [B, T]. sign: uniform numbers [B, T], negative under one half.
    sizes: [B, 2], heights and widths that the ops will see.
    """
    strength, extents = strength.double().expand(codes.shape), sizes.double()[:, None]
    sign = torch.where(sign < 0.5, -1.0, 1.0).double()
    drawn = torch.zeros(codes.shape, dtype=torch.float64)
    for name, magnitude in space.items():
        value = magnitude.of(strength, extents)
        drawn = torch.where(codes == CODES[name], value * sign if magnitude.signed else value, drawn)
    return drawn


def centres(draws: Draws, sizes: Tensor, count: int) -> Tensor:
    """Centres for cutout, whole pixels as fractions of the frame, float64 [B, count, 2]."""
    extents = sizes[:, None]
    return (draws.uniform("centre", 2 * count).reshape(len(sizes), count, 2) * extents).floor() / extents


def check_choice(kind: str, given: str, known: Mapping[str, object], plural: str) -> None:
    """Raises ValueError, with all that exist, unless `given` is one of them."""
    if not isinstance(given, str) or given not in known:
        raise ValueError(unknown(kind, str(given), known, plural))


def check_resampling(interpolation: str, fill: float) -> None:
    """Raises ValueError unless these are one of `INTERPOLATIONS` and a number in [0, 1]."""
    if not isinstance(interpolation, str) or interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation must be 'nearest', 'bilinear' or 'bicubic', got {interpolation!r}")
    check_share("fill", fill)
