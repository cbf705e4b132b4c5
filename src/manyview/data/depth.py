"""What the integers of an image mean: which of them is white, and which is no colour at all."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

_BITS, _PHOTOMETRIC, _PLANES, _SAMPLE_FORMAT = 258, 262, 284, 339  # tags of TIFF
_WHITE_IS_ZERO, _APART, _SIGNED = 0, 2, 2  # values of the latter three
_WIDENED = ("PNG", "PPM")  # 16 bits, which Pillow widens to 32


def is_deep(image: Image.Image) -> bool:
    """Whether an image of Pillow holds integers of one channel that are not levels from 0 to 255."""
    return image.mode == "I" or image.mode.startswith("I;")


def deep_grey(image: Image.Image) -> tuple[NDArray[Any], int]:
    """Integers `[H, W]` of such an image, from 0, black, to the number that is returned with them, white.

    The transparent one of a PNG is white. Raises ValueError where what is meant is not agreed.
    """
    grey = np.asarray(image)
    is_open = image.mode == "I" and image.format not in _WIDENED
    white = white_of(grey, None if is_open else _tag(image, _BITS, (16,))[0])
    if _tag(image, _PHOTOMETRIC, None) == _WHITE_IS_ZERO:
        grey = white - grey
    clear = image.info.get("transparency")
    return (grey if clear is None else np.where(grey == clear, white, grey)), white


def white_of(pixels: NDArray[Any], bits: int | None) -> int:
    """The integer that means white: the largest of so many bits.

    bits: of a sample; None for signed integers and those of 32 bits, which fill what holds them only in part. They are
    taken for levels of 16 bits, or of 8 where none is larger, and that is told. Raises ValueError for numbers that are
    negative or larger.
    """
    if bits is not None:
        return 2**bits - 1
    low, high = (int(pixels.min()), int(pixels.max())) if pixels.size else (0, 0)
    if low < 0 or high > 0xFFFF:
        raise ValueError(f"integer pixels from {low} to {high} do not fit in 16 bits")
    if high > 0xFF:
        return 0xFFFF
    if high:
        warnings.warn(f"integers of no stated range, up to {high}: taken for 8-bit levels", stacklevel=2)
    return 0xFF


def levels(pixels: NDArray[Any], white: int) -> NDArray[np.uint8]:
    """8-bit levels of integers up to `white`: of more bits the lower ones are lost; fewer are spread over 0 to 255.

    Warns where nothing but black remains.
    """
    if white < 0xFF:
        return ((pixels.astype(np.uint16) * 0xFF + white // 2) // white).astype(np.uint8)
    made = (pixels >> (white.bit_length() - 8)).astype(np.uint8)
    if not made.any() and pixels.any():
        warnings.warn(f"becomes black in 8 bits: its levels end at {pixels.max()} of {white}", stacklevel=2)
    return made


def state_samples(image: Image.Image) -> None:
    """Of a TIFF that was opened: warns where Pillow takes signed bytes for levels, and mends where it misreads.

    Of 16-bit colours in planes of their own it takes single bytes for samples. Raises ValueError for those of CMYK.
    """
    if not isinstance(image, TiffImageFile):
        return
    bits = _tag(image, _BITS, (1,))
    if _tag(image, _SAMPLE_FORMAT, (1,))[0] == _SIGNED and bits[0] == 8:
        warnings.warn(
            "its samples are signed; those under 0 are taken for levels over 127, as Pillow does", stacklevel=2
        )
    tiles: list[Any] = image.tile
    apart = len(bits) > 1 and _tag(image, _PLANES, 1) == _APART
    if apart and bits[0] == 16 and all(len(tile[3][0]) == 1 for tile in tiles):  # "R" for "R;16B"
        if image.mode not in ("RGB", "RGBA"):
            raise ValueError(f"16-bit {image.mode} in separate planes is not read; save it with its samples together")
        order = "L" if image.tag_v2.prefix == b"II" else "B"
        image.tile = [tile._replace(args=(f"{tile[3][0]};16{order}", *tile[3][1:])) for tile in tiles]


def _tag(image: Image.Image, number: int, missing: Any) -> Any:
    """A tag of an opened TIFF."""
    return image.tag_v2.get(number, missing) if isinstance(image, TiffImageFile) else missing
