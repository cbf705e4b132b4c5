"""What every source becomes: images, labelled or not, that are read by position."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.data.decode import BadImage, Stored, decode, size_of
from manyview.data.names import Names
from manyview.data.order import Blocks
from manyview.data.stored import MOST_CHANNELS, unit
from manyview.errors import DataError, shown
from manyview.foundation.words import few

Ints = NDArray[np.int64]


class Images(Protocol):
    """Images of one split. All implementations are immutable, and pickle into a loader's workers."""

    @property
    def labels(self) -> Ints:
        """Class of each image, int64 `[N]`; -1 where it has no label."""

    @property
    def index(self) -> Ints:
        """Identity of each image in the split of its source, int64 `[N]`.

        A subset keeps the identities of its images: what is drawn for an image does not depend on which
        others are there.
        """

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) in pixels if all images are known to have it, else None."""

    @property
    def channels(self) -> int:
        """Channels of each image."""

    def __len__(self) -> int: ...

    def read(self, position: int, scale: int = 1) -> Tensor:
        """The image, `[C, H, W]`, uint8 or float32 in [0, 1], the caller's own copy. Raises `BadImage`.

        It is RGB unless the recipe sets `data.channels`. `scale`: see `decode`; only what `size_of` knows heeds it.
        """

    def size_of(self, position: int) -> tuple[int, int] | None:
        """(H, W) of an image that can be read at a smaller scale, without decoding it; None for all others."""

    def name(self, position: int) -> str:
        """What to call the image in a message: its path, or "train row 17"."""


@final
@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Decoded images in memory.

    `pixels`: `[N, C, H, W]`, 1 to 16 channels; uint8, float32 in [0, 1], or uint16, which is read as float32.
    `split`: for names such as "train row 17", where the row is the identity. `names`: if given, the names themselves.
    `blocks`: those in which the images lay before they were read.
    """

    pixels: Tensor
    labels: Ints
    index: Ints
    split: str
    names: Names | None = None
    blocks: Blocks | None = None

    def __post_init__(self) -> None:
        """Raise `DataError` if the shapes do not belong together."""
        shape = tuple(self.pixels.shape)
        if self.pixels.dtype not in (torch.uint8, torch.uint16, torch.float32) or len(shape) != 4:
            raise DataError(
                f"{self.split}: pixels are {self.pixels.dtype} {shape}, not uint8, uint16 or float32 [N, C, H, W]"
            )
        if not 1 <= shape[1] <= MOST_CHANNELS or 0 in shape[2:]:
            raise DataError(
                f"{self.split}: pixels are [N, C, H, W] = {shape}; C must be 1 to {MOST_CHANNELS}, H and W at least 1"
            )
        if not len(self.labels) == len(self.index) == shape[0]:
            raise DataError(f"{self.split}: {shape[0]} images, {len(self.labels)} labels, {len(self.index)} indices")

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of every image."""
        return self.pixels.shape[2], self.pixels.shape[3]

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.pixels.shape[1]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, position: int, scale: int = 1) -> Tensor:
        """A copy of the image, `[C, H, W]`, uint8 or float32."""
        return unit(self.pixels[position].clone())

    def read_many(self, positions: Ints) -> Tensor:
        """A copy of several images at once, `[B, C, H, W]`, uint8 or float32."""
        return unit(self.pixels.index_select(0, torch.from_numpy(positions)))  # whole images, not pixel by pixel

    def size_of(self, position: int) -> None:
        """Nothing is decoded, so nothing is read at a smaller scale."""

    def name(self, position: int) -> str:
        """The stored name, or the split and row."""
        if self.names is None:
            return f"{self.split} row {self.index[position]}"
        return self.names[position]


@final
@dataclass(frozen=True, eq=False)
class FolderImages:
    """Image files. `paths`: relative to `root`, see `pack`. `stored`: see `decode`."""

    root: Path
    paths: Names
    labels: Ints
    index: Ints
    stored: Stored | None = None

    @property
    def size(self) -> None:
        """Unknown before decoding."""

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.stored.channels if self.stored else 3

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, position: int, scale: int = 1) -> Tensor:
        """Decode the file, `[C, H, W]`. Raises `BadImage`."""
        name = self.name(position)
        return decode(Path(name), shown(name), self.stored, scale)

    def size_of(self, position: int) -> tuple[int, int] | None:
        """(H, W) of a JPEG, from its header."""
        return size_of(Path(self.name(position)))

    def name(self, position: int) -> str:
        """The file's path."""
        return str(self.root / self.paths[position])


@final
@dataclass(frozen=True, eq=False)
class Subset:
    """The images at `positions` (int64 `[n]`), in that order, with the labels and identities they had.

    hidden: they have no labels here, -1.
    """

    images: Images
    positions: Ints
    hidden: bool = False
    labels: Ints = field(init=False)
    index: Ints = field(init=False)

    def __post_init__(self) -> None:
        """Pick labels and identities once, since they are read often."""
        labels = self.images.labels[self.positions]
        object.__setattr__(self, "labels", np.full_like(labels, -1) if self.hidden else labels)
        object.__setattr__(self, "index", self.images.index[self.positions])

    @property
    def size(self) -> tuple[int, int] | None:
        """The size of the whole."""
        return self.images.size

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.images.channels

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, position: int, scale: int = 1) -> Tensor:
        """Read the image, `[C, H, W]`. Raises `BadImage`."""
        return self.images.read(int(self.positions[position]), scale)

    def size_of(self, position: int) -> tuple[int, int] | None:
        """What the whole knows."""
        return self.images.size_of(int(self.positions[position]))

    def name(self, position: int) -> str:
        """The name that the image has in the whole."""
        return self.images.name(int(self.positions[position]))


def lie_in_memory(images: Images) -> bool:
    """Whether nothing has to be decoded any more."""
    return lie_in_memory(images.images) if isinstance(images, Subset) else isinstance(images, ArrayImages)


def labelled(images: Images) -> Images:
    """The images that have a label, in their order: what a bank of neighbours and a probe can learn from."""
    positions = np.flatnonzero(images.labels >= 0)
    return images if len(positions) == len(images) else Subset(images, positions)


def others_of_its_batch(images: Images, positions: Ints) -> str:
    """What to say of the rest of a batch, of which an image cannot be read: which others cannot be either."""
    bad = []
    for position in map(int, positions):
        try:
            images.read(position)
        except BadImage:
            bad.append(shown(images.name(position)))
    return f" ({len(bad):,} more of its batch: {few(bad)})" if bad else ""


def pack(names: Iterable[str]) -> Names:
    """Names in one piece of memory, for they are many."""
    return Names.of(names)


def names_of(images: Images) -> Names:
    """The last parts of all names at least, of files their paths below the root; without a Python string for each."""
    if isinstance(images, Subset):
        return names_of(images.images).take(images.positions)
    known = getattr(images, "paths", None) if isinstance(images, FolderImages) else getattr(images, "names", None)
    return known if isinstance(known, Names) else pack(images.name(position) for position in range(len(images)))


def blocks_of(images: Images) -> Blocks | None:
    """The blocks in which images lie, where their source has any."""
    if isinstance(images, Subset):
        blocks = blocks_of(images.images)
        return blocks and blocks.take(images.positions)
    blocks = getattr(images, "blocks", None)
    return blocks if isinstance(blocks, Blocks) else None


def preload(images: Images, limit_bytes: int = 2**30, progress: Callable[[int, int], None] | None = None) -> Images:
    """Decode all images into memory if they have one size and take at most `limit_bytes`.

    uint8 stays uint8; float32 that came from 16 bits is kept in 16 bits, as long as all images did.
    `progress(done, total)` is called now and then, and at the end. Returns `ArrayImages` with the same
    labels, identities and names, which reads the same values; or `images` itself if they are too large, differ in size,
    or one cannot be decoded (what to do then is the loader's choice).
    """
    total = len(images)
    if isinstance(images, ArrayImages) or total == 0:
        return images
    try:
        first = _small(images.read(0))
        if total * first.nbytes > limit_bytes:
            return images
        pixels = torch.empty((total, *first.shape), dtype=first.dtype)
        for position in range(total):
            image = images.read(position)
            if image.shape != first.shape:
                return images
            if pixels.dtype == torch.uint16:
                image = _small(image)
                if image.dtype == torch.float32:
                    if pixels.numel() * 4 > limit_bytes:
                        return images
                    pixels = unit(pixels)
            pixels[position] = image
            if progress is not None and ((position + 1) % 256 == 0 or position + 1 == total):
                progress(position + 1, total)
    except BadImage:
        return images
    names = pack(images.name(position) for position in range(total))
    return ArrayImages(pixels, images.labels, images.index, "", names, blocks_of(images))


def _small(image: Tensor) -> Tensor:
    """float32 as uint16, if `unit` gives it back; anything else as it is."""
    if image.dtype != torch.float32:
        return image
    small = (image * 65535).round().to(torch.uint16)
    return small if torch.equal(unit(small), image) else image
