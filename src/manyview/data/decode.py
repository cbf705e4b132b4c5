"""From a file's bytes to pixels, by rules that are the same for every source."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, final

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from manyview.data.alpha import over_white, png_bits, scale_key
from manyview.data.depth import deep_grey, is_deep, levels, state_samples
from manyview.data.doubts import load, overheard, tell
from manyview.data.jpeg import SCALES, is_scalable, jpeg
from manyview.data.stored import MOST_CHANNELS, as_stored, by_pillow, checked, is_tiff, unit
from manyview.data.upright import channels_first, is_turned, orientation_of, turn, turns_of
from manyview.errors import DataError, reason
from manyview.foundation.files import open_regular
from manyview.foundation.words import counted


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
            raise BadImage(f"{name}: {counted(len(pixels), 'channel')}, but data.channels is {self.channels}")
        if self.dtype not in (None, pixels.dtype):
            depths = {torch.uint8: "8-bit", torch.float32: "deeper than 8-bit"}
            raise BadImage(f"{name}: {depths[pixels.dtype]}, but the data set's first image is {depths[self.dtype]}")


def decode(data: bytes | Path, name: str, stored: Stored | None = None, scale: int = 1) -> Tensor:
    """Decode an image file.

    `data`: the file's bytes, or its path. `name`: what errors call it (a path, or "train row 17"). Of an animation or a
    file of several pages, the first frame is taken, and the EXIF orientation is applied, so that it stands upright.

    Without `stored`: uint8 `[3, H, W]`, RGB, the pixels that Pillow gives. In this order:

    - deep grey keeps its 8 higher bits, of as many as the file states: `value >> 8` of 16, `value >> 4` of 12. Integers
      that fill 32 bits, and signed ones, are of 16, or of 8 where none is larger than 255, which is told;
    - alpha, and the transparent colour of a palette or of a PNG, is composited over white. It is compared as it is
      stored; of 16-bit colours the higher bytes are compared;
    - black-and-white and grey are repeated to three channels; CMYK, YCbCr and palettes are converted to RGB.

    With `stored`: `[stored.channels, H, W]`, uint8 or float32 in [0, 1].

    - 8 bits stay uint8, and fewer are spread over 0 to 255; 9 to 31 become `value / (2**bits - 1)`; integers of no
      stated depth are as above; floats must lie in [0, 1], since no other range is agreed;
    - where a TIFF's zero is white, it is inverted;
    - alpha is a channel as others, while the one transparent colour of a PNG is white; only palettes, CMYK and colour
      spaces other than RGB are converted, to RGB (a transparent palette to RGBA), and black-and-white to grey;
    - PNG, TIFF and arrays keep the depth of all channels, other formats what Pillow keeps: 16 bits of grey, 8 of
      colours;
    - of a TIFF, samples and the axis C of ImageJ and OME are channels, of all other axes the first is taken;
    - a `.npy` file holds `[H, W]` or `[H, W, C]`; pickled objects are refused.

    In both: colour profiles (ICC) and gamma are not applied, as in torchvision; significant bits (sBIT) say nothing,
    since a PNG's samples fill their range; the orientation is looked for in EXIF (of a JPEG, WebP or TIFF, in a PNG's
    chunk or its compressed text), then in XMP.

    `scale`: 2, 4 or 8 decodes a grey or RGB JPEG at a half, a quarter or an eighth, `ceil(H / scale)` pixels high, from
    fewer coefficients of its cosine transform; other files ignore it. Upright, pixel i stands for those from
    `scale * i` on, so a box in pixels is to be divided by `scale` (not its fraction multiplied by the new height, which
    the rounding up has stretched). The cosine transform is
    another low-pass filter than antialiased resizing, so the views are close to those of full decoding, not equal. On
    eight photographs (quality 90, 4:2:0; crops of 20 to 100 % of the area at `scale_for`'s scale; Pillow's antialiased
    bilinear) grey levels differ, in the mean and at the 99.9th percentile, by 0.9 and 13 at scale 2 (crops resized to
    112), 1.2 and 15 at scale 4 (to 64), 1.6 and 17 at scale 8 (to 32).

    Where a decoder has doubts (damaged EXIF, signed samples) or everything becomes black, a `ManyviewWarning` says so
    in one line with the name, once in a process, and of one kind for 20 images.

    The tensor is the caller's own; its channels may lie last in memory. Raises `BadImage` if the file is missing,
    empty, truncated, without pixels or not an image, or holds numbers that have no agreed range.
    """
    with naming(name):
        with _file(data) as file:
            content = file.read()
        if not content:
            raise ValueError("the file is empty (0 bytes)")
        with overheard(logged=is_tiff(content)) as doubts:
            pixels = _rgb(content, scale) if stored is None else as_stored(content, scale)
        if not pixels.numel():
            raise ValueError(f"the image has no pixels (it is {pixels.shape[1]} high and {pixels.shape[2]} wide)")
    if stored is not None:
        stored.check(pixels, name)
    if doubts:
        tell(name, doubts)
    return pixels


def of_pillow(image: Image.Image, name: str, stored: Stored | None = None) -> Tensor:
    """The pixels of an image that somebody else opened with Pillow, by the rules of `decode`; it stays as it is.

    What only the file's bytes tell is not known of it: 16 bits of each colour, and of a PNG with few bits the
    transparent grey.
    """
    with naming(name), overheard() as doubts:
        state_samples(image)
        load(image)
        stands = ImageOps.exif_transpose(image) if is_turned(image) else image
        if not stands.width or not stands.height:
            raise ValueError(f"the image has no pixels (it is {stands.height} high and {stands.width} wide)")
        pixels = channels_first(np.array(_to_rgb(stands))) if stored is None else checked(by_pillow(stands))
    if stored is not None:
        stored.check(pixels, name)
    if doubts:
        tell(name, doubts)
    return pixels


def size_of(data: bytes | Path) -> tuple[int, int] | None:
    """(H, W) of a JPEG that `decode` can give at a smaller scale, upright, from its header alone.

    None for all other files, the unreadable included: `decode` tells more about them.
    """
    with suppress(Exception), overheard(), _file(data) as file, Image.open(file) as image:
        if is_scalable(image):
            width, height = image.size
            return (width, height) if turns_of(orientation_of(image))[0] else (height, width)
    return None


def scale_for(boxes: Tensor, sizes: Tensor) -> int:
    """The coarsest scale, 1, 2, 4 or 8, at which no crop is enlarged that was not at full size.

    `boxes` `[K, 4]`: top, left, height, width of what is cut from an image, in its pixels. `sizes` `[K, 2]`: height and
    width it is resized to.
    """
    shrinks = float((boxes[:, 2:].double() / sizes).min())
    return next((scale for scale in SCALES if shrinks >= scale), 1)


def _file(data: bytes | Path) -> BinaryIO:
    return open_regular(data) if isinstance(data, Path) else io.BytesIO(data)


@contextmanager
def naming(name: str) -> Iterator[None]:
    """Turns what readers raise into `BadImage`, with the image's name and one line."""
    try:
        yield
    except DataError:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"{name}: not an image in a format that Pillow reads") from None
    except OSError as error:
        raise BadImage(f"{name}: {error.strerror or reason(error)}") from error
    except Exception as error:  # readers let struct, zlib, index and syntax errors of broken files through
        raise BadImage(f"{name}: {reason(error)}") from error


def _rgb(content: bytes, scale: int) -> Tensor:
    with _opened(content) as image:
        if is_scalable(image):
            return jpeg(image, content, "RGB", scale)
        state_samples(image)
        load(image)
        scale_key(image, content)
        turn(image)
        pixels = np.array(_to_rgb(image))
        if png_bits(content) == 16 and not pixels.any():
            warnings.warn("is black in 8 bits: only the higher byte of its 16-bit colours is kept", stacklevel=2)
        return channels_first(pixels)


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        if is_tiff(content):
            raise ValueError(
                "a kind of TIFF that Pillow does not read; with data.channels more kinds are read"
            ) from None
        raise


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("float pixels have no agreed range; save the image with 8 or 16 bits, or set data.channels")
    if is_deep(image):
        return Image.fromarray(levels(*deep_grey(image))).convert("RGB")
    return over_white(image) if image.has_transparency_data else image.convert("RGB")


__all__ = ["MOST_CHANNELS", "BadImage", "Stored", "decode", "naming", "of_pillow", "scale_for", "size_of", "unit"]
