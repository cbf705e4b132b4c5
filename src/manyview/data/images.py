"""What every source becomes: labelled images that are read by position."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.data.decode import BadImage, decode
from manyview.errors import DataError

Ints = NDArray[np.int64]


class Images(Protocol):
    """Labelled images of one split. All implementations are immutable, and pickle into a loader's workers."""

    @property
    def labels(self) -> Ints:
        """Class of each image, int64 `[N]`, never negative."""

    @property
    def index(self) -> Ints:
        """Identity of each image in the split of its source, int64 `[N]`.

        A subset keeps the identities of its images: what is drawn for an image does not depend on which
        others are there.
        """

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) in pixels if all images are known to have it, else None."""

    def __len__(self) -> int: ...

    def read(self, position: int) -> Tensor:
        """The image: uint8 `[3, H, W]`, RGB, the caller's own copy. Raises `BadImage`."""

    def name(self, position: int) -> str:
        """What to call the image in a message: its path, or "train row 17"."""


@final
@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Decoded images in memory.

    `pixels`: uint8 `[N, 3, H, W]`. `split`: for names such as "train row 17", where the row is the
    identity. `names`: if given, the names themselves, file-system encoded.
    """

    pixels: Tensor
    labels: Ints
    index: Ints
    split: str
    names: NDArray[np.bytes_] | None = None

    def __post_init__(self) -> None:
        """Raise `DataError` if the shapes do not belong together."""
        shape = tuple(self.pixels.shape)
        if self.pixels.dtype != torch.uint8 or len(shape) != 4 or shape[1] != 3:
            raise DataError(f"{self.split}: pixels are {self.pixels.dtype} {shape}, not uint8 [N, 3, H, W]")
        if not len(self.labels) == len(self.index) == shape[0]:
            raise DataError(f"{self.split}: {shape[0]} images, {len(self.labels)} labels, {len(self.index)} indices")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of every image."""
        return self.pixels.shape[2], self.pixels.shape[3]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, position: int) -> Tensor:
        """A copy of the image: uint8 `[3, H, W]`."""
        return self.pixels[position].clone()

    def name(self, position: int) -> str:
        """The stored name, or the split and row."""
        if self.names is None:
            return f"{self.split} row {self.index[position]}"
        return os.fsdecode(self.names[position])


@final
@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files. `paths`: bytes `[N]` (see `pack`), relative to `root`."""

    root: Path
    paths: NDArray[np.bytes_]
    labels: Ints
    index: Ints

    @property
    def size(self) -> None:
        """Unknown before decoding."""

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, position: int) -> Tensor:
        """Decode the file: uint8 `[3, H, W]`. Raises `BadImage`."""
        name = self.name(position)
        return decode(Path(name), name)

    def name(self, position: int) -> str:
        """The file's path."""
        return str(self.root / os.fsdecode(self.paths[position]))


@final
@dataclass(frozen=True, eq=False)
class Subset:
    """The images at `positions` (int64 `[n]`), in that order, with the labels and identities they had."""

    images: Images
    positions: Ints
    labels: Ints = field(init=False)
    index: Ints = field(init=False)

    def __post_init__(self) -> None:
        """Pick labels and identities once, since they are read often."""
        object.__setattr__(self, "labels", self.images.labels[self.positions])
        object.__setattr__(self, "index", self.images.index[self.positions])

    @property
    def size(self) -> tuple[int, int] | None:
        """The size of the whole."""
        return self.images.size

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, position: int) -> Tensor:
        """Read the image: uint8 `[3, H, W]`. Raises `BadImage`."""
        return self.images.read(int(self.positions[position]))

    def name(self, position: int) -> str:
        """The name that the image has in the whole."""
        return self.images.name(int(self.positions[position]))


def pack(names: Sequence[str]) -> NDArray[np.bytes_]:
    """File-system encoded names in one array.

    A million Python strings would be copied into each forked worker as their reference counts change.
    """
    return np.array([os.fsencode(name) for name in names], dtype=np.bytes_)


def preload(images: Images, limit_bytes: int = 2**30, progress: Callable[[int, int], None] | None = None) -> Images:
    """Decode all images into memory if they have one size and take at most `limit_bytes`.

    `progress(done, total)` is called now and then, and at the end. Returns `ArrayImages` with the same
    labels, identities and names; or `images` itself if they are too large, differ in size, or one cannot
    be decoded (what to do then is the loader's choice).
    """
    total = len(images)
    if isinstance(images, ArrayImages) or total == 0:
        return images
    try:
        shape = images.read(0).shape
        if total * shape.numel() > limit_bytes:
            return images
        pixels = torch.empty((total, *shape), dtype=torch.uint8)
        for position in range(total):
            image = images.read(position)
            if image.shape != shape:
                return images
            pixels[position] = image
            if progress is not None and ((position + 1) % 256 == 0 or position + 1 == total):
                progress(position + 1, total)
    except BadImage:
        return images
    names = pack([images.name(position) for position in range(total)])
    return ArrayImages(pixels, images.labels, images.index, split="", names=names)
