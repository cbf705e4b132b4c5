"""The bytes in which an image is kept: those of its file, of its cell in a table, of its place in a shard."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from manyview.data.decode import BadImage, naming
from manyview.data.huggingface import TableImages
from manyview.data.images import FolderImages, Images, Subset
from manyview.data.shards import ShardImages
from manyview.errors import shown
from manyview.foundation.files import open_regular

_BEGINS = {
    b"\xff\xd8\xff": "jpg", b"\x89PNG": "png", b"GIF8": "gif", b"BM": "bmp", b"II*\0": "tif", b"MM\0*": "tif",
    b"\x93NUMPY": "npy", b"RIFF": "webp",
}  # fmt: skip


def has_contents(images: Images) -> bool:
    """Whether images are kept in bytes of their own, not only as pixels."""
    if isinstance(images, Subset):
        return has_contents(images.images)
    return isinstance(images, FolderImages | TableImages | ShardImages)


def content_of(images: Images, position: int) -> bytes:
    """An image's bytes, undecoded; of what has none of its own, its pixels as PNG, or as `.npy` where PNG has no such.

    Raises BadImage for what is not there.
    """
    if isinstance(images, Subset):
        return content_of(images.images, int(images.positions[position]))
    if isinstance(images, ShardImages):
        return images.data(position)
    if isinstance(images, FolderImages):
        return _read(Path(images.name(position)))
    if isinstance(images, TableImages):
        cell = images.data(position)
        if cell is None:
            raise BadImage(f"{images.name(position)}: column '{images.column}' is empty")
        return _read(cell) if isinstance(cell, Path) else cell
    pixels = np.ascontiguousarray(images.read(position).permute(1, 2, 0).numpy())
    file = io.BytesIO()
    if pixels.dtype == np.uint8 and pixels.shape[2] in (1, 3):
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    else:
        np.save(file, pixels, allow_pickle=False)
    return file.getvalue()


def kind_of(content: bytes) -> str:
    """How a file of such bytes ends: jpg, png, …; img where its first bytes say nothing."""
    return next((kind for begin, kind in _BEGINS.items() if content.startswith(begin)), "img")


def _read(path: Path) -> bytes:
    with naming(shown(path)), open_regular(path) as file:
        return file.read()


__all__ = ["content_of", "has_contents", "kind_of"]
