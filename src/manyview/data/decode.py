"""From a file's bytes to pixels, by rules that are the same for every source."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from manyview.errors import DataError
from manyview.files import open_regular

MOST_CHANNELS = 16
SCALES = (8, 4, 2)  # what a JPEG's blocks of 8 can be decoded at, the coarsest first

_PNG, _NPY = b"\x89PNG\r\n\x1a\n", b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TURNS = {2: (False, (2,)), 3: (False, (1, 2)), 4: (False, (1,)),
          5: (True, ()), 6: (True, (2,)), 7: (True, (1, 2)), 8: (True, (1,))}  # fmt: skip
"""EXIF orientation -> whether axes 1 and 2 are swapped, and which are reversed then."""


class BadImage(DataError):
    """One image that cannot be decoded: the message names the file or row, and why."""


@final
@dataclass(frozen=True)
class Stored:
    """Images as they are stored, instead of 8-bit RGB; all of a data set are alike.

    channels: how many each has, 1 to 16. dtype: what each is read as, uint8 or float32; None while it is not known.
    """

    channels: int
    dtype: torch.dtype | None = None

    def check(self, pixels: Tensor, name: str) -> None:
        """Raise `BadImage` unless the pixels `[C, H, W]` are such."""
        if len(pixels) != self.channels:
            plural = "s" if len(pixels) > 1 else ""
            raise BadImage(f"{name}: {len(pixels)} channel{plural}, but data.channels is {self.channels}")
        if self.dtype not in (None, pixels.dtype):
            depths = {torch.uint8: "8-bit", torch.float32: "deeper than 8-bit"}
            raise BadImage(f"{name}: {depths[pixels.dtype]}, but the data set's first image is {depths[self.dtype]}")


def decode(data: bytes | Path, name: str, stored: Stored | None = None, scale: int = 1) -> Tensor:
    """Decode an image file.

    `data`: the file's bytes, or its path. `name`: what errors call it (a path, or "train row 17"). Of an animation or a
    file of several pages, the first frame is taken, and the EXIF orientation is applied, so that it stands upright.

    Without `stored`: uint8 `[3, H, W]`, RGB. In this order:

    - 16-bit grey loses its low byte (`value >> 8`), also where Pillow widens it to 32 bits;
    - alpha, and the transparent colour of a palette or of a PNG, is composited over white;
    - black-and-white and grey are repeated to three channels; CMYK, YCbCr and palettes are converted to RGB.

    With `stored`: `[stored.channels, H, W]`, uint8 or float32 in [0, 1].

    - 8 bits stay uint8; 16 bits become `value / 65535`; floats must lie in [0, 1], since no other range is agreed;
    - alpha is a channel as others; only palettes, CMYK and colour spaces other than RGB are converted, to RGB (a
      transparent palette to RGBA), and black-and-white to grey;
    - of a TIFF, samples and the axis C of ImageJ and OME are channels, of all other axes the first is taken;
    - a `.npy` file holds `[H, W]` or `[H, W, C]`; pickled objects are refused.

    `scale`: 2, 4 or 8 decodes a grey or RGB JPEG at a half, a quarter or an eighth, `ceil(H / scale)` pixels high, from
    fewer coefficients of its cosine transform; other files ignore it. A box in pixels is then to be divided by `scale`
    (not its fraction multiplied by the new height, which the rounding up has stretched). The cosine transform is
    another low-pass filter than antialiased resizing, so the views are close to those of full decoding, not equal. On
    eight photographs (quality 90, 4:2:0; crops of 20 to 100 % of the area at `scale_for`'s scale; Pillow's antialiased
    bilinear) grey levels differ, in the mean and at the 99.9th percentile, by 0.9 and 13 at scale 2 (crops resized to
    112), 1.2 and 15 at scale 4 (to 64), 1.6 and 17 at scale 8 (to 32).

    The tensor is the caller's own; its channels may lie last in memory. Raises `BadImage` if the file is missing,
    empty, truncated, without pixels or not an image, or holds numbers that have no agreed range.
    """
    with _naming(name):
        with _opened(data) as file:
            content = file.read()
        if not content:
            raise ValueError("the file is empty (0 bytes)")
        pixels = _rgb(content, scale) if stored is None else _stored(content, scale)
        if not pixels.numel():
            raise ValueError(f"the image has no pixels (it is {pixels.shape[1]} high and {pixels.shape[2]} wide)")
    if stored is not None:
        stored.check(pixels, name)
    return pixels


def size_of(data: bytes | Path) -> tuple[int, int] | None:
    """(H, W) of a JPEG that `decode` can give at a smaller scale, upright, from its header alone.

    None for all other files, the unreadable included: `decode` tells more about them.
    """
    with suppress(Exception), _opened(data) as file, Image.open(file) as image:
        if _is_scalable(image):
            width, height = image.size
            return (width, height) if _TURNS.get(_orientation(image), (False,))[0] else (height, width)
    return None


def scale_for(boxes: Tensor, sizes: Tensor) -> int:
    """The coarsest scale, 1, 2, 4 or 8, at which no crop is enlarged that was not at full size.

    `boxes` `[K, 4]`: top, left, height, width of what is cut from an image, in its pixels. `sizes` `[K, 2]`: height and
    width it is resized to.
    """
    shrinks = float((boxes[:, 2:].double() / sizes).min())
    return next((scale for scale in SCALES if shrinks >= scale), 1)


def unit(pixels: Tensor) -> Tensor:
    """uint16 as float32 in [0, 1], `value / 65535`; other types as they are."""
    return pixels.to(torch.float32) / 65535 if pixels.dtype == torch.uint16 else pixels


def _opened(data: bytes | Path) -> BinaryIO:
    return open_regular(data) if isinstance(data, Path) else io.BytesIO(data)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Turns what readers raise into `BadImage`, with the image's name and one line."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"{name}: not an image in a format that Pillow reads") from None
    except OSError as error:
        raise BadImage(f"{name}: {error.strerror or _first_line(error)}") from error
    except Exception as error:  # readers let struct, zlib, index and syntax errors of broken files through
        raise BadImage(f"{name}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


# ----------------------------------------------------------------------------------------------------------------- RGB


def _rgb(content: bytes, scale: int) -> Tensor:
    with Image.open(io.BytesIO(content)) as image:
        if _is_scalable(image):
            return _jpeg(image, content, "RGB", scale)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _channels_first(np.array(_to_rgb(image)))


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("float pixels have no agreed range; save the image with 8 or 16 bits, or set data.channels")
    if image.mode == "I" or image.mode.startswith("I;"):
        return Image.fromarray((_16_bit(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _16_bit(image: Image.Image) -> NDArray[np.uint16]:
    grey = np.asarray(image)
    if grey.size and (grey.min() < 0 or grey.max() > 0xFFFF):
        raise ValueError(f"integer pixels from {grey.min()} to {grey.max()} do not fit in 16 bits")
    return grey.astype(np.uint16)


def _is_scalable(image: Image.Image) -> bool:
    return image.format == "JPEG" and image.mode in ("L", "RGB")


def _jpeg(image: Image.Image, content: bytes, space: str, scale: int) -> Tensor:
    """Pixels of an opened grey or RGB JPEG, in space "GRAY" or "RGB".

    simplejpeg takes half of Pillow's time, from the same library and with equal pixels; it refuses damage that Pillow
    passes over, and then Pillow decides.
    """
    if scale not in (1, *SCALES):
        raise ValueError(f"scale must be 1, 2, 4 or 8, got {scale}")
    orientation = _orientation(image)
    try:
        if scale == 1 or min(image.size) >= 64:  # below, it could choose a scale between ours
            width, height = (-(-side // scale) for side in image.size)
            pixels = simplejpeg.decode_jpeg(content, space, min_height=height, min_width=width)
            return _upright(_channels_first(pixels), orientation)
    except ValueError:
        pass
    width, height = (max(1, side // scale) for side in image.size)
    image.draft(image.mode, (width, height))
    return _upright(_channels_first(np.array(image.convert("L" if space == "GRAY" else "RGB"))), orientation)


def _orientation(image: Image.Image) -> int:
    return int(image.getexif().get(ExifTags.Base.Orientation, 1))


def _upright(pixels: Tensor, orientation: int) -> Tensor:
    swapped, reversed_axes = _TURNS.get(orientation, (False, ()))
    pixels = pixels.transpose(1, 2) if swapped else pixels
    return pixels.flip(reversed_axes) if reversed_axes else pixels


def _channels_first(pixels: NDArray[Any]) -> Tensor:
    tensor = torch.from_numpy(pixels)
    return tensor[None] if tensor.ndim == 2 else tensor.permute(2, 0, 1)


# ----------------------------------------------------------------------------------------------------------- as stored


def _stored(content: bytes, scale: int) -> Tensor:
    if content.startswith(_NPY):
        return _checked(_array(content))
    if content.startswith(_TIFF) and (pixels := _tiff(content)) is not None:
        return pixels
    with Image.open(io.BytesIO(content)) as image:
        if _is_scalable(image):
            return _jpeg(image, content, "GRAY" if image.mode == "L" else "RGB", scale)
        if content.startswith(_PNG) and content[24] == 16:  # Pillow would keep 8 bits of each colour
            deep = _library("imagecodecs").png_decode(content)
            return _upright(_checked(deep), _orientation(image) if b"eXIf" in content else 1)
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        return _checked(_as_stored(image))


def _as_stored(image: Image.Image) -> NDArray[Any]:
    if image.mode == "I" or image.mode.startswith("I;"):
        return _16_bit(image)
    if image.mode in ("L", "LA", "RGB", "RGBA", "F"):
        return np.array(image)
    if image.mode == "1":
        return np.array(image.convert("L"))
    return np.array(image.convert("RGBA" if image.has_transparency_data else "RGB"))


def _array(content: bytes) -> NDArray[Any]:
    pixels: NDArray[Any] = np.load(io.BytesIO(content), allow_pickle=False)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and not 1 <= pixels.shape[2] <= MOST_CHANNELS):
        raise ValueError(f"an array of shape {pixels.shape}; [H, W] or [H, W, 1 to {MOST_CHANNELS} channels] is read")
    return pixels


def _tiff(content: bytes) -> Tensor | None:
    """Grey, RGB or more channels of 8 or 16 bits or floats; None for other kinds of TIFF, which are left to Pillow."""
    tifffile = _library("tifffile")
    with tifffile.TiffFile(io.BytesIO(content)) as file:
        page, series = file.pages[0], file.series[0]
        plain = page.photometric in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB)
        if not plain or not (page.dtype in (np.uint8, np.uint16) or page.dtype.kind == "f"):
            return None
        orientation = page.tags.valueof("Orientation", default=1)
        axes = series.axes
        pixels = series.asarray()[tuple(slice(None) if axis in "SCYX" else 0 for axis in axes)]
    axes = "".join(axis for axis in axes if axis in "SCYX")
    if sorted(axes) not in (["X", "Y"], ["C", "X", "Y"], ["S", "X", "Y"]):
        raise ValueError(f"a TIFF with axes {axes}; Y and X, and one axis of channels, are read")
    order = [axes.index("Y"), axes.index("X"), *(axes.index(axis) for axis in "SC" if axis in axes)]
    return _upright(_checked(pixels.transpose(order)), orientation)


def _checked(pixels: NDArray[Any]) -> Tensor:
    """Pixels `[H, W]` or `[H, W, C]` as uint8 or float32 in [0, 1], `[C, H, W]`. Raises ValueError."""
    if pixels.dtype.kind == "f":
        if pixels.size and not (pixels.min() >= 0 and pixels.max() <= 1):  # also false for NaN
            raise ValueError(f"float pixels from {pixels.min():g} to {pixels.max():g}; they must lie in [0, 1]")
        pixels = pixels.astype(np.float32)
    elif pixels.dtype.newbyteorder("=") not in (np.uint8, np.uint16):
        raise ValueError(f"{pixels.dtype} pixels; uint8, uint16 and floats in [0, 1] are read")
    own = np.require(pixels, pixels.dtype.newbyteorder("="), ["C", "W"])
    return unit(_channels_first(own))


def _library(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise DataError(f"images as they are stored need {name}: pip install 'manyview[stored]'") from None
