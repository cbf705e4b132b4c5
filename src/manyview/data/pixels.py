"""An image as Python programs have it, of Pillow, torch or NumPy, to pixels by the rules of `decode`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from manyview.data.alpha import over_white
from manyview.data.decode import Stored, naming, of_pillow
from manyview.data.stored import checked
from manyview.data.upright import channels_first
from manyview.foundation.words import a

USUAL = (1, 3, 4, 2)  # channels of images where a recipe does not say
NEAR = 1e-6  # how far a float may be from k / 255; between two levels there are 0.0039
KINDS = "a PIL image, a uint8 tensor [C, H, W] or a uint8 array [H, W, C]"


def is_image(value: Any) -> bool:
    """Whether it is of a kind that `pixels_of` takes."""
    return isinstance(value, Image.Image | Tensor | np.ndarray)


def pixels_of(image: Any, name: str, stored: Stored | None = None) -> Tensor:
    """Pixels `[C, H, W]`, the caller's own, as `decode` gives them. `name`: what errors call the image.

    Of Pillow: the same as of a file. Tensors and arrays are grey `[H, W]`, or have channels: in a tensor first and in
    an array last, where both could be. Without `stored` they become 8-bit RGB: alpha is composited over white, of
    uint16 the higher byte stays, and floats are taken if each is k / 255, as `ToTensor` makes them. With `stored` all
    channels stay, uint8 or float32 in [0, 1]. Raises `BadImage`.
    """
    if isinstance(image, Image.Image):
        return of_pillow(image, name, stored)
    with naming(name):
        if not is_image(image):
            views = "; views are the recipe's to make" if isinstance(image, list | tuple) else ""
            raise ValueError(f"an image is {_told(image)}; what is read is {KINDS}{views}")
        pixels = _channels_last(image, None if stored is None else stored.channels)
        if not pixels.size:
            raise ValueError(f"the image has no pixels (its shape is {[*image.shape]})")
        made = _rgb(pixels) if stored is None else checked(pixels)
    if stored is not None:
        stored.check(made, name)
    return made


def _channels_last(image: Tensor | NDArray[Any], channels: int | None) -> NDArray[Any]:
    """A copy `[H, W, C]` of an image. channels: how many there are, where that is known. Raises ValueError."""
    array = np.array(image.detach().cpu().numpy() if isinstance(image, Tensor) else image)
    usual = (channels,) if channels else USUAL
    if array.ndim == 2:
        return array[..., None]
    if array.ndim != 3:
        many = "; many images in one array go with their labels, (images, labels)" if array.ndim == 4 else ""
        raise ValueError(f"an image of shape {[*array.shape]}; what is read is {KINDS}{many}")
    last, first = array.shape[-1] in usual, array.shape[0] in usual
    if not (last or first):
        cure = f"data.channels is {channels}" if channels else "of others than 1, 3 or 4, data.channels says how many"
        raise ValueError(f"an image of shape {[*array.shape]} has no axis of channels, first or last ({cure})")
    return np.moveaxis(array, 0, -1) if first and (isinstance(image, Tensor) or not last) else array


def is_float(image: Any) -> bool:
    """Whether it is a tensor or an array of floats."""
    return "float" in str(getattr(image, "dtype", ""))


def _rgb(pixels: NDArray[Any]) -> Tensor:
    levels = _as_levels(pixels)
    if levels.shape[-1] in (2, 4):
        mode = {2: "LA", 4: "RGBA"}[levels.shape[-1]]
        levels = np.array(over_white(Image.fromarray(np.ascontiguousarray(levels), mode)))
    elif levels.shape[-1] == 1:
        levels = np.repeat(levels, 3, axis=-1)
    return channels_first(np.ascontiguousarray(levels))


def _as_levels(pixels: NDArray[Any]) -> NDArray[np.uint8]:
    """8-bit levels of uint8, of uint16 (its higher byte), or of floats that are k / 255. Raises ValueError."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    if pixels.dtype.kind != "f":
        raise ValueError(f"{pixels.dtype} pixels; give them as uint8, 0 to 255")
    low, high = (float(pixels.min()), float(pixels.max())) if pixels.size else (0.0, 0.0)
    if not (low >= 0 and high <= 1):  # also of NaN
        whole = low >= 0 and high <= 255
        cure = "give them as uint8" if whole else "drop Normalize, since each branch normalises by itself"
        raise ValueError(f"float pixels from {low:g} to {high:g}; {cure}")
    levels = np.round(pixels * 255)
    if np.abs(levels / 255 - pixels).max() > NEAR:
        raise ValueError(
            "float pixels between the 256 levels; drop the transforms that made them, since views are the recipe's, or "
            "set data.channels to keep floats in [0, 1]"
        )
    return levels.astype(np.uint8)


def _told(value: Any) -> str:
    return "None" if value is None else a(type(value).__name__)
