"""Pixels as a camera's owner sees them: the EXIF orientation applied, channels first."""

from __future__ import annotations

import re
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

_TURNS = {2: (False, (2,)), 3: (False, (1, 2)), 4: (False, (1,)),
          5: (True, ()), 6: (True, (2,)), 7: (True, (1, 2)), 8: (True, (1,))}  # fmt: skip
"""EXIF orientation -> whether axes 1 and 2 are swapped, and which are reversed then."""


_SAYING = frozenset({"exif", "Raw profile type exif", "XML:com.adobe.xmp", "xmp"})  # in Pillow's `info`


def orientation_of(image: Image.Image) -> int:
    """1 to 8, from the EXIF or else the XMP, wherever the format keeps them; other numbers mean 1.

    Of a PNG whose pixels have not been read, what stands behind them is not seen.
    """
    if image.format in ("JPEG", "PNG") and _SAYING.isdisjoint(image.info):  # most images, and `getexif` takes its time
        return 1
    return numbered(image.getexif().get(ExifTags.Base.Orientation))


def numbered(value: object) -> int:
    """An orientation as a file states it; 1 for whatever is no whole number from 1 to 8, as in Pillow."""
    return int(value) if isinstance(value, int) and 1 <= value <= 8 else 1


def orientation_in_xmp(xmp: bytes) -> int:
    """What an XMP packet says, as Pillow reads it; 1 if it says nothing."""
    found = re.search(rb'tiff:Orientation(="|>)([0-9])', xmp)
    return int(found[2]) if found else 1


def turns_of(orientation: int) -> tuple[bool, tuple[int, ...]]:
    """Whether height and width are swapped, and which of the axes 1 (H) and 2 (W) are reversed after that."""
    return _TURNS.get(orientation, (False, ()))


def upright(pixels: Tensor, orientation: int) -> Tensor:
    """`[C, H, W]`, turned and mirrored as the orientation asks."""
    swapped, reversed_axes = turns_of(orientation)
    pixels = pixels.transpose(1, 2) if swapped else pixels
    return pixels.flip(reversed_axes) if reversed_axes else pixels


def is_turned(image: Image.Image) -> bool:
    """Whether an image is not upright."""
    return orientation_of(image) in _TURNS


def turn(image: Image.Image) -> None:
    """Turns an image whose pixels have been read as `orientation_of` says."""
    if is_turned(image):  # which Pillow reads again, and the same
        ImageOps.exif_transpose(image, in_place=True)


def channels_first(pixels: NDArray[Any]) -> Tensor:
    """`[H, W]` or `[H, W, C]` as `[C, H, W]`, of the same memory."""
    tensor = torch.from_numpy(pixels)
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)
