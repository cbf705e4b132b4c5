"""What tells that a split is the one that a run began with."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from manyview.data.images import Images
from manyview.data.item_images import spread
from manyview.data.stamp import stamp


def mark_of(images: Images | None, pixels: bool = False) -> dict[str, Any] | None:
    """What identifies a split: how many images, which (as ranges), and a digest of names' last parts and labels.

    Beside it one of the images alone, without labels. pixels: some images' pixels are part of both, where names are
    none of their own.
    """
    if images is None:
        return None
    alone = hashlib.blake2b(digest_size=16)
    for position in range(len(images)):
        # the very bytes of a file's name, which need not be text
        alone.update(Path(images.name(position)).name.encode(errors="surrogateescape"))
    for position in spread(len(images)) if pixels else ():
        alone.update(stamp(images, position))
    whole = hashlib.blake2b(alone.digest() + images.labels.tobytes(), digest_size=16)
    which = {"count": len(images), "index": _ranges(images.index.tolist())}
    return {**which, "digest": whole.hexdigest(), "images": alone.hexdigest()}


def _ranges(numbers: list[int]) -> str:
    """Ascending numbers, `0-4,7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
