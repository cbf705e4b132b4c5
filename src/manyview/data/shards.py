"""Images in shards, as `manyview data pack` writes them: any of them by its number, from here or from far away."""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from manyview.data.decode import BadImage, Stored, decode, size_of
from manyview.data.images import Ints
from manyview.data.names import Names
from manyview.data.nearby import nearby
from manyview.data.order import Blocks
from manyview.data.shard_format import (
    LARGEST_MANIFEST,
    LARGEST_TABLE,
    MANIFEST,
    PACKING,
    File,
    Manifest,
    Split,
    Table,
    read_manifest,
    read_table,
)
from manyview.data.shard_store import Store
from manyview.data.splits import RawSplits
from manyview.errors import DataError, shown
from manyview.foundation.files import at_home

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):(?:/(?!/)|$)")  # of an address that was taken for a path
CACHE = 32.0  # GiB
BLOCK, MIX = 256, 32  # images; blocks
CALL = "data.source=\"shards('ADDRESS')\""


@final
@dataclass(frozen=True, eq=False)
class ShardImages:
    """Images of one split, in the order of the source that was packed. `stored`: see `decode`.

    stretches: where each of `blocks` begins and ends in its shard, int64 [blocks, 2].
    """

    store: Store
    files: tuple[File, ...]
    table: Table
    blocks: Blocks | None = None
    stretches: Ints | None = None
    stored: Stored | None = None

    @property
    def labels(self) -> Ints:
        """Class of each image."""
        return self.table.label

    @property
    def index(self) -> Ints:
        """Its number in the split of the source that was packed."""
        return self.table.index

    @property
    def names(self) -> Names:
        """As they were in the source; of files, below its root."""
        return self.table.names

    @property
    def size(self) -> None:
        """Unknown before decoding."""

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.stored.channels if self.stored else 3

    def __len__(self) -> int:
        return len(self.table)

    def read(self, position: int, scale: int = 1) -> Tensor:
        """Decode the image, `[C, H, W]`. Raises `BadImage`, and `DataError` where its shard cannot be read."""
        name = self.name(position)
        return decode(self.data(position), shown(name), self.stored, scale)

    def size_of(self, position: int) -> tuple[int, int] | None:
        """(H, W) of a JPEG, from its header."""
        return size_of(self._bytes(position))

    def data(self, position: int) -> bytes:
        """The image's bytes, those of the file that was packed. Raises `BadImage` where their checksum is another."""
        found = self._bytes(position)
        if len(found) != self.table.size[position] or zlib.crc32(found) != self.table.check[position]:
            where = self.store.where(self.files[self.table.shard[position]].name)
            raise BadImage(f"{shown(self.name(position))}: {where} is damaged there: the checksum is another")
        return found

    def name(self, position: int) -> str:
        """The name that the image had in the source."""
        return self.table.names[position]

    def _bytes(self, position: int) -> bytes:
        file = self.files[self.table.shard[position]]
        if self.blocks is not None and self.stretches is not None:
            self.store.ahead(file, *self.stretches[self.blocks.of[position]].tolist())
        return self.store.read(file, int(self.table.offset[position]), int(self.table.size[position]))


def shards(
    root: Path | None,
    address: str | None = None,
    cache: float = CACHE,
    block: int | None = BLOCK,
    mix: int = MIX,
    *,
    download: bool,
    stored: Stored | None = None,
) -> RawSplits:
    """A folder that `manyview data pack` wrote; `download` is not used. `stored`: see `decode`.

    `address`: a folder here, or where fsspec finds it, as `s3://bucket/folder`; by default `data.root`, and below it
    where that is given and the address is relative. Of shards from elsewhere up to `cache` GiB are kept in
    $MANYVIEW_CACHE/shards, whole and with their checksums proved; what was used longest ago makes room. With cache=0,
    and of shards that are longer, each image is asked for alone.

    An epoch takes blocks of `block` images that lie together in a random order, `mix` of them at once, and the images
    of these in a random order, both by the recipe's seed: so disks read in long strides, and a shard is needed by a few
    stretches of an epoch alone. Packing has shuffled the images, so a block is a sample of all. block=None is a shuffle
    of all images, the very order that the source had which was packed.

    Raises `DataError` where the description or a table is damaged, or a shard is missing or of another length.
    """
    where = "data.source: shards"
    if address is None and root is None:
        raise DataError(
            f"source 'shards' needs the address of its folder; say {CALL}, or data.source=shards data.root=DIR"
        )
    if not 0 <= cache < 2**33:
        raise DataError(f"{where}: cache={cache} must be GiB, 0 or more")
    for name, value in (("block", block), ("mix", mix)):
        if value is not None and not 1 <= value < 2**31:
            raise DataError(f"{where}: {name}={value} must be at least 1")
    store = Store(_place(root, address), int(cache * 2**30))
    manifest = open_manifest(store)
    opened = {
        name: ShardImages(store, tuple(split.shards), table, *_blocks(table, block, mix), stored)
        for name, split in manifest.splits.items()
        for table in [open_table(store, split, manifest)]
    }
    classes = tuple(manifest.classes)
    remark = "" if block is None else f"shuffled by blocks of {block:,}, {mix:,} at a time"
    return RawSplits(opened["train"], opened.get("val"), opened.get("test"), classes, manifest.carve_test, remark)


def _place(root: Path | None, address: str | None) -> str:
    """Where the shards are."""
    base = "" if root is None else _SCHEME.sub(r"\1://", str(root))
    if address is None or not base:
        return address or base
    absolute = "://" in address or at_home(address).is_absolute()
    return address if absolute else f"{base}{'' if base.endswith('/') else '/'}{address}"


def open_manifest(store: Store) -> Manifest:
    """The description of a folder's shards, all of which are there and as long as it says. Raises DataError."""
    found = store.sizes()
    if MANIFEST not in found:
        begun = store.folder is not None and (store.folder / PACKING).is_dir()
        half = "; it is not packed to its end, which the same command does that began it" if begun else ""
        cure = half or _near(store)
        raise DataError(f"{shown(store.address)} is no folder of shards: it has no {MANIFEST}{cure}")
    manifest = read_manifest(store.whole(MANIFEST, found[MANIFEST], LARGEST_MANIFEST), store.where(MANIFEST))
    for file in manifest.files:
        if file.name not in found:
            raise DataError(f"{store.where(file.name)} is missing; {MANIFEST} names it")
        if found[file.name] != file.bytes:
            told = f"{found[file.name]:,} bytes, not {file.bytes:,} as {MANIFEST} says"
            raise DataError(f"{store.where(file.name)} is damaged or not whole: it has {told}")
    return manifest


def _near(store: Store) -> str:
    if store.folder is None:
        return ""
    return nearby(store.folder, lambda folder: (folder / MANIFEST).is_file(), say="{}")


def open_table(store: Store, split: Split, manifest: Manifest) -> Table:
    """Where a split's images lie. Raises DataError."""
    data = store.whole(split.table.name, split.table.bytes, LARGEST_TABLE)
    return read_table(data, split, len(manifest.classes), store.where(split.table.name))


def _blocks(table: Table, block: int | None, mix: int) -> tuple[Blocks | None, Ints | None]:
    """Images that lie together, as many in each but for the last of a shard; where these begin and end."""
    if block is None or not len(table):
        return None, None
    lies = np.lexsort((table.offset, table.shard))
    first = np.searchsorted(table.shard[lies], table.shard[lies])  # the place of each one's shard
    within = (np.arange(len(lies)) - first) // block
    begins = np.diff(table.shard[lies], prepend=-1).astype(bool) | np.diff(within, prepend=-1).astype(bool)
    of: NDArray[np.int32] = np.empty(len(lies), np.int32)
    of[lies] = np.cumsum(begins) - 1
    lasts = np.append(np.flatnonzero(begins)[1:], len(lies)) - 1
    ends = table.offset[lies[lasts]] + table.size[lies[lasts]]
    return Blocks(of, mix), np.stack([table.offset[lies[begins]], ends], axis=1)


__all__ = ["ShardImages", "open_manifest", "open_table", "shards"]
