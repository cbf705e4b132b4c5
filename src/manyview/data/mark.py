"""What tells that a split is the one that a run began with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import numpy as np

from manyview.data.decode import BadImage
from manyview.data.images import Images, Ints, names_of
from manyview.data.item_images import spread
from manyview.data.splits import Splits


def marks_of(splits: Splits) -> dict[str, Any]:
    """What identifies each split; of data that were given in Python some pixels, too."""
    kept = {name: mark_of(getattr(splits, name), splits.given) for name in ("train", "val", "test")}
    return kept if splits.unlabeled is None else {**kept, "unlabeled": mark_of(splits.unlabeled, splits.given)}


def mark_of(images: Images | None, pixels: bool = False) -> dict[str, Any] | None:
    """What identifies a split: how many images, which (as ranges), and a digest of names' last parts and labels.

    Beside it one of the images alone, without labels. pixels: some images' pixels are part of both, where names are
    none of their own. They are as they are read, so it does not matter where images lie: in files, which may be copied
    or touched, in a table's bytes, or decoded in memory.
    """
    if images is None:
        return None
    digest, alone = hashlib.blake2b(images.labels.tobytes(), digest_size=16), hashlib.blake2b(digest_size=16)
    for piece in chain(names_of(images).last_parts(), _some_pixels(images) if pixels else ()):
        digest.update(piece)
        alone.update(piece)
    which = {"count": len(images), "index": _ranges(images.index)}
    return {**which, "digest": digest.hexdigest(), "images": alone.hexdigest()}


def looks_of(splits: Splits) -> dict[str, dict[str, str]]:
    """A digest of the pixels of some images, by split and position: what marks of files do not tell, their contents."""
    return {name: {str(at): look for at in spread(len(images)) if (look := _look(images, at))}
            for name, images in _parts(splits).items()}  # fmt: skip


def exchanged(before: Mapping[str, Mapping[str, str]], splits: Splits) -> list[str]:
    """The names of images that looked otherwise before, see `looks_of`."""
    found = []
    for name, images in _parts(splits).items():
        looks = {int(at): look for at, look in before.get(name, {}).items()}
        found += [images.name(at) for at, look in looks.items() if at < len(images) and _look(images, at) != look]
    return found


def _parts(splits: Splits) -> dict[str, Images]:
    parts = {name: getattr(splits, name) for name in ("train", "val", "test", "unlabeled")}
    return {name: images for name, images in parts.items() if images is not None}


def _look(images: Images, position: int) -> str | None:
    """None for an image that cannot be read."""
    try:
        return hashlib.blake2b(pixels_of(images, position), digest_size=16).hexdigest()
    except BadImage:
        return None


def is_same(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> bool:
    """Whether two marks are of the same split; one that was kept by an older version says less."""
    if before is None or now is None:
        return before is now
    return all(value == now.get(key) for key, value in before.items())


def pixels_of(images: Images, position: int) -> bytes:
    """An image as it is read: its kind, shape and values, which equal images have alike. Raises BadImage."""
    image = images.read(position)
    return f"{image.dtype} {[*image.shape]}".encode() + image.numpy().tobytes()


def _some_pixels(images: Images) -> Iterator[bytes]:
    for position in spread(len(images)):
        try:
            yield pixels_of(images, position)
        except BadImage:  # whose line says where it lies
            yield b"none"


def _ranges(numbers: Ints) -> str:
    """Ascending numbers, `0-4,7`."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = np.split(numbers, breaks) if len(numbers) else []
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
