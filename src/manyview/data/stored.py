"""Images as they are stored: all channels and the whole depth, instead of 8-bit RGB."""

from __future__ import annotations

import io
import math
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from manyview.data.alpha import over_white, png_bits, scale_key
from manyview.data.depth import deep_grey, is_deep, levels, state_samples, white_of
from manyview.data.doubts import load
from manyview.data.jpeg import is_scalable, jpeg
from manyview.data.upright import channels_first, numbered, orientation_in_xmp, orientation_of, turn, upright
from manyview.errors import DataError

MOST_CHANNELS = 16

_NPY = b"\x93NUMPY"
_PNG_TEXTS = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")  # chunks that may state an orientation
_XMP = 700  # a tag of TIFF
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by colour type


def as_stored(content: bytes, scale: int) -> Tensor:
    """A file's pixels by the rules of `decode` with `stored`. Raises what readers raise, and ValueError."""
    if content.startswith(_NPY):
        return checked(_array(content))
    if is_tiff(content) and (pixels := _tiff(content)) is not None:
        return pixels
    with Image.open(io.BytesIO(content)) as image:
        if is_scalable(image):
            return jpeg(image, content, "GRAY" if image.mode == "L" else "RGB", scale)
        if png_bits(content) == 16:  # Pillow would keep 8 bits of each colour
            if any(kind in content for kind in _PNG_TEXTS):  # which may stand behind the pixels
                image.load()
            return upright(checked(_deep_png(content)), orientation_of(image))
        state_samples(image)
        load(image)
        scale_key(image, content)
        turn(image)
        return checked(by_pillow(image))


def is_tiff(content: bytes) -> bool:
    """Whether a file begins as a TIFF does."""
    return content.startswith(_TIFF)


def unit(pixels: Tensor) -> Tensor:
    """uint16 as float32 in [0, 1], `value / 65535`; other types as they are."""
    return pixels.to(torch.float32) / 65535 if pixels.dtype == torch.uint16 else pixels


def by_pillow(image: Image.Image) -> NDArray[Any]:
    """`[H, W]` or `[H, W, C]` of an opened image, as deep as Pillow keeps it."""
    if is_deep(image):
        return _of_range(*deep_grey(image))
    if image.mode in ("1", "L", "RGB"):  # a transparent colour is none of the channels
        grey = image.mode != "RGB"
        shown = over_white(image) if image.has_transparency_data else image
        return np.array(shown.convert("L") if grey else shown)
    if image.mode in ("LA", "RGBA", "F"):
        return np.array(image)
    return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _deep_png(content: bytes) -> NDArray[Any]:
    """`[H, W]` or `[H, W, C]`; a transparent colour, which the reader gives as alpha, is white."""
    pixels: Any = _library("imagecodecs").png_decode(content)
    channels = _PNG_CHANNELS[content[25]]
    if pixels.ndim == 3 and pixels.shape[2] == channels + 1:
        pixels = np.where(pixels[..., -1:] == 0, np.uint16(0xFFFF), pixels[..., :-1])
    return pixels


def _array(content: bytes) -> NDArray[Any]:
    pixels: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and not 1 <= pixels.shape[2] <= MOST_CHANNELS):
        raise ValueError(f"an array of shape {pixels.shape}; [H, W] or [H, W, 1 to {MOST_CHANNELS} channels] is read")
    return pixels


def _tiff(content: bytes) -> Tensor | None:
    """Grey, RGB or more channels of integers or floats; None for other kinds of TIFF, which are left to Pillow."""
    tifffile = _library("tifffile")
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page, whole = file.pages[0], file.series[0]
        kinds = tifffile.PHOTOMETRIC
        plain = page.photometric in (kinds.MINISBLACK, kinds.MINISWHITE, kinds.RGB)
        if not plain or page.dtype is None or page.dtype.kind not in "uif" or page.dtype == np.int8:
            return None
        bits = page.bitspersample if page.dtype.kind == "u" and page.bitspersample < 32 else None
        inverted = page.photometric == kinds.MINISWHITE
        stated = page.tags.valueof("Orientation")
        orientation = orientation_in_xmp(page.tags.valueof(_XMP) or b"") if stated is None else numbered(stated)
        apart = whole.axes.removesuffix(page.axes)  # channels in pages of their own; else one page is all that is read
        part = whole if "C" in apart or "S" in apart else page
        _check_size(part.shape)
        axes = part.axes
        pixels = part.asarray()[tuple(slice(None) if axis in "SCYX" else 0 for axis in axes)]
    axes = "".join(axis for axis in axes if axis in "SCYX")
    if sorted(axes) not in (["X", "Y"], ["C", "X", "Y"], ["S", "X", "Y"]):
        raise ValueError(f"a TIFF with axes {axes}; Y and X, and one axis of channels, are read")
    order = [axes.index("Y"), axes.index("X"), *(axes.index(axis) for axis in "SC" if axis in axes)]
    pixels = checked(_meant(pixels.transpose(order), bits, inverted))
    return upright(pixels, orientation)


def _check_size(shape: tuple[int, ...]) -> None:
    """Pillow's limit on what a few bytes may unfold to, for readers that have none."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or sys.maxsize)
    if math.prod(shape) > limit * MOST_CHANNELS:
        raise ValueError(f"the image has shape {shape}, more than {limit} pixels of {MOST_CHANNELS} channels")


def _meant(pixels: NDArray[Any], bits: int | None, inverted: bool) -> NDArray[Any]:
    """Samples as uint8, uint16 or floats, in all of which the largest number is white. bits: see `white_of`."""
    if pixels.dtype.kind == "f":
        return 1 - pixels if inverted else pixels
    white = white_of(pixels, bits)
    pixels = white - pixels if inverted else pixels
    return levels(pixels, white) if bits is not None and bits <= 8 else _of_range(pixels, white)


def _of_range(pixels: NDArray[Any], white: int) -> NDArray[Any]:
    """Deep integers: of 16 bits as they are, others as floats in [0, 1]."""
    return pixels.astype(np.uint16) if white == 0xFFFF else (pixels / white).astype(np.float32)


def checked(pixels: NDArray[Any]) -> Tensor:
    """Pixels `[H, W]` or `[H, W, C]` as uint8 or float32 in [0, 1], `[C, H, W]`. Raises ValueError."""
    if pixels.dtype.kind == "f":
        if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):  # also false for NaN
            raise ValueError(f"float pixels from {pixels.min():g} to {pixels.max():g}; they must lie in [0, 1]")
        pixels = pixels.astype(np.float32)
    elif pixels.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise ValueError(f"{pixels.dtype} pixels; uint8, uint16 and floats in [0, 1] are read")
    own = np.require(pixels, pixels.dtype.newbyteorder("="), ["C", "W"])
    return unit(channels_first(own))


def _library(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise DataError(f"images as they are stored need {name}: pip install 'manyview[stored]'") from None
