"""What a compiled view is: columns of instructions, one code and its numbers for each image of a batch.

An op joins in by a method `lower(params, sizes) -> list[Column]`: the same parameters that its `render` takes, as
instructions of the table below. Ops without it are rendered by their reference, between two programs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.foundation.protocols import follows

RENDERER = 2  # counts changes of the grey levels that the same draws give; a run notes under which it began
LEAST_ARGS = 12  # numbers that an instruction may look at, given or not


class Code(IntEnum):
    """The instructions; in brackets what their numbers are, in order. Levels are on the scale 0…255."""

    NOTHING = 0
    LOAD = 1  # the source as it is
    RESAMPLE = 2  # box in pixels: top, left, height, width; flipped along x, along y; top, left of the part that is
    # made of a box resized to a height, width (all four 0: the whole). Changes the size
    WINDOW = 3  # top, left, reflect (else zeros); flipped along x, along y. Changes the size
    FLIP = 4  # along x, along y
    TURN = 5  # quarter turns anticlockwise; square images
    PERMUTE = 6  # order of the channels (3)
    WARP = 7  # 2x3 matrix from output to source, from the centre, x first; 0 nearest, 1, 2 bilinear, 3 cubic; fill (3)
    PROJECT = 8  # eight terms of the map from output to source; 0 nearest, 1, 2 bilinear; fill (3)
    SHUFFLE = 9  # cells a side; order of the cells
    FILL = 10  # top, left, bottom, right in pixels; fill (3)
    BLUR = 11  # sigma, reach
    SHARPEN = 12  # factor
    JITTER = (
        13  # factors of brightness, contrast, saturation, turns of hue; their order (4); HSV's saturation, number 8
    )
    GRAY = 14
    LEVELS = 15  # factor
    CONTRAST = 16  # factor
    SATURATE = 17  # factor
    POSTERIZE = 18  # bits
    SOLARIZE = 19  # threshold
    SOLARIZE_ADD = 20  # amount, threshold; whether all gain it, and those of the threshold are then inverted
    INVERT = 21
    AUTOCONTRAST = 22
    EQUALIZE = 23
    ADD = 24  # amount for each channel (3)
    NOISE = 25  # top, left, bottom, right in pixels; the seed's higher and lower 16 bits
    BEGIN_MIX = 26  # share of the image itself
    MIX_IN = 27  # share of what was made of the image since; begins again with it
    END_MIX = 28


READS_SOURCE = (Code.LOAD, Code.RESAMPLE, Code.WINDOW)
FLIPS_AT = {Code.RESAMPLE: 4, Code.WINDOW: 3}  # where the numbers of those that can flip too say so
NEEDS_RGB = (Code.PERMUTE, Code.JITTER, Code.GRAY, Code.CONTRAST, Code.SATURATE, Code.ADD, Code.BEGIN_MIX)


@dataclass(frozen=True)
class Column:
    """One instruction for each image of a batch.

    code: one for all, or int64 [B]. args: float [B, k]. applied: bool [B], where it is done; everywhere by default.
    size: (height, width) that it gives, for those that change it. rgb: the op is for RGB alone, whatever was drawn.
    """

    code: Code | NDArray[np.int64]
    args: Tensor | None = None
    applied: Tensor | None = None
    size: tuple[int, int] | None = None
    rgb: bool = False

    def is_one_of(self, *codes: Code) -> bool:
        """Whether all images have the same instruction, and it is among these."""
        return isinstance(self.code, Code) and self.code in codes

    def where(self, chosen: Tensor) -> Column:
        """The same, for the chosen images [B] alone."""
        return replace(self, applied=chosen if self.applied is None else self.applied & chosen)

    def scaled(self, by: Tensor) -> Column:
        """A RESAMPLE whose boxes are multiplied by a number for each image [B]."""
        if not self.is_one_of(Code.RESAMPLE) or self.args is None:
            raise ValueError("images decoded at a part of their size need a crop or a resize first")
        return replace(self, args=torch.cat([self.args[:, :4] * by[:, None], self.args[:, 4:]], dim=1))


@runtime_checkable
class Lowered(Protocol):
    """An op with a compiled form."""

    def lower(self, params: dict[str, Tensor], sizes: Tensor) -> list[Column]:
        """Instructions that do what `render` does, to within a grey level. sizes: of the images it sees [B, 2]."""
        ...

    def output_size(self, sizes: Tensor) -> Tensor:
        """Heights and widths after the op, int64 [B, 2], from those before."""
        ...


def lowers(op: object) -> bool:
    """Whether an op has a compiled form, and so have the `parts` that it is made of, if it is made of others."""
    return follows(op, Lowered) and all(map(lowers, getattr(op, "parts", ())))


@dataclass(frozen=True)
class Program:
    """Columns packed for the interpreter: codes [B, T], args [B, T, numbers], and sizes [T, 2] after each column."""

    codes: NDArray[np.int8]
    args: NDArray[np.float32]
    sizes: NDArray[np.int64]


def pack(columns: list[Column], count: int, size: tuple[int, int] | None) -> Program:
    """Packs the columns of `count` images. size: of the source images; None where they are unlike.

    The first column reads the source of every image (LOAD is put before one that does not).
    """
    if not columns or not columns[0].is_one_of(*READS_SOURCE) or columns[0].applied is not None:
        columns = [Column(Code.LOAD, size=size), *columns]
    steps = _steps(columns)
    codes = np.zeros((count, len(steps)), np.int8)
    given = [column.args.shape[1] for column in columns if column.args is not None]
    args = np.zeros((count, len(steps), max(LEAST_ARGS, *given, 0)), np.float32)
    sizes = np.zeros((len(steps), 2), np.int64)
    for t, (column, flips) in enumerate(steps):
        size = column.size or size
        if size is None:
            raise ValueError("images have unlike sizes; begin the view with a crop or a resize")
        sizes[t] = size
        codes[:, t] = column.code
        if column.applied is not None:
            codes[:, t] *= column.applied.numpy()
        if column.args is not None:
            args[:, t, : column.args.shape[1]] = column.args.numpy()
        for flip in flips:
            assert flip.args is not None
            done = True if flip.applied is None else flip.applied.numpy()[:, None]
            axes = args[:, t, FLIPS_AT[column.code] :][:, :2]  # type: ignore[index]
            axes[:] = axes != done * flip.args.numpy()  # two flips undo each other
    return Program(codes, args, sizes)


def _steps(columns: list[Column]) -> list[tuple[Column, list[Column]]]:
    """Columns, each with the flips right after it that are done with it: where pixels are moved anyway, for nothing."""
    steps: list[tuple[Column, list[Column]]] = []
    for column in columns:
        last = steps[-1][0] if steps else None
        if last and last.is_one_of(*FLIPS_AT) and last.applied is None and column.is_one_of(Code.FLIP):
            steps[-1][1].append(column)
        else:
            steps.append((column, []))
    return steps
