"""From a file's bytes to pixels, by rules that are the same for every source."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from manyview.errors import DataError


class BadImage(DataError):
    """One image that cannot be decoded: the message names the file or row, and why."""


def decode(data: bytes | Path, name: str) -> Tensor:
    """Decode an image file.

    `data`: the file's bytes, or its path. `name`: what errors call it (a path, or "train row 17").
    Returns uint8 `[3, H, W]`, RGB. In this order:

    - of an animation or a file of several pages, the first frame;
    - the EXIF orientation is applied, so that the image stands upright;
    - 16-bit grey loses its low byte (`value >> 8`), also where Pillow widens it to 32 bits;
    - alpha, and the transparent colour of a palette or of a PNG, is composited over white;
    - black-and-white and grey are repeated to three channels; CMYK, YCbCr and palettes are converted to RGB.

    Raises `BadImage` if the file is missing, empty, truncated or not an image, or holds numbers that
    have no agreed range (floats, integers beyond 16 bits).
    """
    try:
        content = data.read_bytes() if isinstance(data, Path) else data
        if not content:
            raise BadImage(f"{name}: the file is empty (0 bytes)")
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            pixels = np.array(_to_rgb(image))
    except BadImage:
        raise
    except UnidentifiedImageError:
        raise BadImage(f"{name}: not an image in a format that Pillow reads") from None
    except OSError as error:
        raise BadImage(f"{name}: {error.strerror or _first_line(error)}") from error
    except Exception as error:  # Pillow's readers let struct, zlib, index and syntax errors of broken files through
        raise BadImage(f"{name}: {_first_line(error)}") from error
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("float pixels have no agreed range; save the image with 8 or 16 bits")
    if image.mode == "I" or image.mode.startswith("I;"):
        grey = np.asarray(image)
        if grey.min() < 0 or grey.max() > 0xFFFF:
            raise ValueError(f"integer pixels from {grey.min()} to {grey.max()} do not fit in 16 bits")
        return Image.fromarray((grey >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
