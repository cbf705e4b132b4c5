"""What tells that all images are those they were, pixels and order, without decoding more than a few."""

from __future__ import annotations

import hashlib

import numpy as np

from manyview.data.decode import BadImage
from manyview.data.images import Images, Subset
from manyview.data.mark import mark_of
from manyview.data.stamp import stamp

LOOKED_AT = 16
"""Images that are decoded for it, which so differs where they are decoded in another way."""


def fingerprint(images: Images) -> str:
    """A digest of names, labels, how images are decoded, a `stamp` of every single one, and the pixels of some."""
    digest = hashlib.blake2b(repr((mark_of(images), _decoded_as(images))).encode(), digest_size=16)
    for position in range(len(images)):
        digest.update(stamp(images, position) + b"\n")
    for position in np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).astype(int)):
        try:
            pixels = images.read(int(position))
            digest.update(f"{pixels.dtype} {[*pixels.shape]}".encode() + pixels.numpy().tobytes())
        except BadImage as error:
            digest.update(str(error).encode())
    return digest.hexdigest()


def _decoded_as(images: Images) -> str:
    """How the files of images are read: `stored` of those that have it."""
    return _decoded_as(images.images) if isinstance(images, Subset) else str(getattr(images, "stored", None))


__all__ = ["fingerprint"]
