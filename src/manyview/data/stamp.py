"""What tells that an image is another one than before, without decoding it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from manyview.data.decode import BadImage
from manyview.data.huggingface import TableImages
from manyview.data.images import FolderImages, Images, Subset
from manyview.data.shards import ShardImages


def stamp(images: Images, position: int) -> bytes:
    """Bytes that are others wherever an image was replaced, repaired or touched.

    Of a file its size and times, in nanoseconds: the time of its last change of state too, which no program can set
    back. Of a row of a table, and of pixels in memory, a digest of all bytes.
    """
    if isinstance(images, Subset):
        return stamp(images.images, int(images.positions[position]))
    if isinstance(images, FolderImages):
        return _of_file(Path(images.name(position)))
    if isinstance(images, ShardImages):  # whose reading proves it
        return b"%d %d" % (images.table.check[position], images.table.size[position])
    if isinstance(images, TableImages):
        data = images.data(position)
        if isinstance(data, Path):
            return _of_file(data)
        return b"none" if data is None else hashlib.blake2b(data, digest_size=16).digest()
    try:
        return hashlib.blake2b(images.read(position).numpy().tobytes(), digest_size=16).digest()
    except BadImage as error:
        return str(error).encode()


def _of_file(path: Path) -> bytes:
    try:
        found = os.stat(path)
    except OSError as error:
        return f"{path}: {error.errno}".encode()
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}".encode()
