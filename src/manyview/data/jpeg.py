"""JPEGs, whole or at a part of their size."""

from __future__ import annotations

import numpy as np
import simplejpeg
from PIL import Image
from torch import Tensor

from manyview.data.upright import channels_first, orientation_of, turns_of, upright

SCALES = (8, 4, 2)  # what a JPEG's blocks of 8 can be decoded at, the coarsest first


def is_scalable(image: Image.Image) -> bool:
    """Whether this is an opened grey or RGB JPEG."""
    return image.format == "JPEG" and image.mode in ("L", "RGB")


def jpeg(image: Image.Image, content: bytes, space: str, scale: int) -> Tensor:
    """Pixels of an opened grey or RGB JPEG, in space "GRAY" or "RGB", upright, `ceil(side / scale)` a side.

    Pixel i stands for the whole image's pixels from `scale * i` on, so that what is left over at the edge comes last.
    Blocks begin at the corner that is stored first; where that is another one than the upright image's and a side holds
    no whole number of them, a finer scale is decoded and its pixels are averaged.
    """
    if scale not in (1, *SCALES):
        raise ValueError(f"scale must be 1, 2, 4 or 8, got {scale}")
    orientation = orientation_of(image)
    finer = 1 if scale == 1 else _decodable(image.size, orientation, scale)
    pixels = upright(channels_first(_decoded(image, content, space, finer)), orientation)
    return pixels if finer == scale else _averaged(pixels, scale // finer)


def _decodable(size: tuple[int, int], orientation: int, scale: int) -> int:
    """The coarsest scale up to `scale` whose blocks lie right, and fit into the stored size (width, height)."""
    swapped, reversed_axes = turns_of(orientation)
    sides = size if swapped else size[::-1]  # upright: height, width
    mirrored = [sides[axis - 1] for axis in reversed_axes]
    fits = (s for s in SCALES if s <= min(scale, *size) and not any(side % s for side in mirrored))
    return next(fits, 1)


def _decoded(image: Image.Image, content: bytes, space: str, scale: int) -> np.ndarray:
    """As it is stored. simplejpeg takes half of Pillow's time, from the same library and with equal pixels; it refuses
    damage that Pillow passes over, and then Pillow decides.
    """
    try:
        if scale == 1 or min(image.size) >= 64:  # below, it could choose a scale between ours
            width, height = (-(-side // scale) for side in image.size)
            return simplejpeg.decode_jpeg(content, space, min_height=height, min_width=width)
    except ValueError:
        pass
    image.draft(image.mode, (image.width // scale, image.height // scale))
    return np.array(image.convert("L" if space == "GRAY" else "RGB"))


def _averaged(pixels: Tensor, by: int) -> Tensor:
    """`[C, H, W]` at a part of its size, the last pixels from what is left."""
    levels = np.ascontiguousarray(pixels.permute(1, 2, 0).numpy())
    return channels_first(np.array(Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels).reduce(by)))
