"""What lies in a folder of shards, and what of it is believed: pure functions from bytes to a checked description.

A folder of shards holds plain tar files, which any tool reads, WebDataset's loader among them (`00000017.jpg`, and
`00000017.cls` with the number of its class); for each split a table of where each image lies in them; and
`shards.json`, which names them all. An image is found by its number in one reading of a disk, without any tar header.

Whoever wrote them, nothing here runs code, names a file outside of the folder, or makes memory for more than is there.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from manyview.data.names import Names
from manyview.errors import DataError, shown

MANIFEST = "shards.json"
PACKING = ".packing"  # what is noted until all is packed
VERSION = 1
LARGEST = 1 << 30  # bytes of one image
MOST = 1 << 31  # above every number of an image, for some losses keep something of each
LARGEST_TABLE = 1 << 34  # bytes of a split's table, and
LARGEST_MANIFEST = 1 << 28  # of shards.json
TABLE = {
    "shard": np.int32, "offset": np.int64, "size": np.int64, "check": np.uint32,
    "label": np.int64, "index": np.int64, "names": np.uint8, "ends": np.int64,
}  # fmt: skip
"""Arrays of a table, [N] each in the order of the source, but for the bytes of all names; check: CRC-32 of an image."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,199}$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class File(_Strict):
    """A file of the folder: its name, how long it is, and BLAKE2b of its bytes in 16."""

    name: Name
    bytes: int = Field(ge=0)
    digest: Digest


class Split(_Strict):
    """A split: how many images, its table, and the tar files that this numbers."""

    images: int = Field(ge=0)
    table: File
    shards: list[File]


class Manifest(_Strict):
    """`shards.json`. carve_test: the source has one set of images, of which a test split must be taken. plan: a digest
    of what was packed, and how.
    """

    format: Annotated[str, Field(pattern="^manyview shards$")]
    version: int = Field(ge=1, le=VERSION)
    classes: list[str]
    carve_test: bool
    plan: Digest
    train: Split
    val: Split | None = None
    test: Split | None = None

    @property
    def splits(self) -> dict[str, Split]:
        """Those that there are, by name."""
        return {name: split for name in ("train", "val", "test") if (split := getattr(self, name)) is not None}

    @property
    def files(self) -> list[File]:
        """All files but this one."""
        return [file for split in self.splits.values() for file in (split.table, *split.shards)]


@final
@dataclass(frozen=True, eq=False)
class Table:
    """Where the images of a split lie: see `TABLE`."""

    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    check: NDArray[np.uint32]
    label: NDArray[np.int64]
    index: NDArray[np.int64]
    names: Names

    def __len__(self) -> int:
        return len(self.label)


def digest_of(data: bytes) -> str:
    """What `File.digest` says of bytes."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def read_manifest(data: bytes, where: str) -> Manifest:
    """`shards.json`, checked. where: what messages call it. Raises DataError in one line."""
    try:
        read = json.loads(data)
        if isinstance(read, dict) and isinstance(read.get("version"), int) and read["version"] > VERSION:
            raise DataError(
                f"{where}: version {read['version']}, which a newer manyview reads; this one reads {VERSION}"
            )
        found = Manifest.model_validate(read)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{where} is no description of shards: {shown(place)}: {shown(first['msg']):.200}") from None
    except (ValueError, RecursionError):
        raise DataError(f"{where} is no description of shards: it is damaged, or no JSON") from None
    (name, times), *_ = Counter(file.name for file in found.files).most_common(1)
    if times > 1:
        raise DataError(f"{where} is no description of shards: {name} stands there twice")
    return found


def write_table(table: Table) -> bytes:
    """A table as it is kept."""
    arrays = {"names": table.names.text, "ends": table.names.ends}
    arrays |= {name: getattr(table, name) for name in TABLE if name not in arrays}
    return save({name: np.ascontiguousarray(arrays[name], kind) for name, kind in TABLE.items()})


def read_table(data: bytes, split: Split, classes: int, where: str) -> Table:
    """A split's table, of which all is checked that reading an image relies on. Raises DataError in one line."""
    if len(data) != split.table.bytes or digest_of(data) != split.table.digest:
        raise DataError(f"{where} is damaged: its checksum is not that of {MANIFEST}; bring it anew")
    try:
        arrays = load(data)
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{where} is no table of shards ({shown(error):.100})") from None
    if fault := _fault(arrays, split, classes):
        raise DataError(f"{where} is no table of shards: {fault}")
    parts = {name: arrays[name] for name in TABLE if name not in ("names", "ends")}
    return Table(**parts, names=Names(arrays["names"], arrays["ends"]))


def _fault(arrays: Mapping[str, NDArray[Any]], split: Split, classes: int) -> str:
    """What of a table cannot be; empty for nothing."""
    if {*arrays} != {*TABLE}:
        return f"it holds {shown(', '.join(sorted(arrays))):.200}, not {', '.join(sorted(TABLE))}"
    for name, kind in TABLE.items():
        if arrays[name].dtype != kind or arrays[name].ndim != 1:
            return f"'{name}' is {arrays[name].dtype} of {arrays[name].ndim} axes, not {np.dtype(kind)} of 1"
        if name != "names" and len(arrays[name]) != split.images:
            return f"'{name}' is of {len(arrays[name]):,} images, {MANIFEST} of {split.images:,}"
    shard, offset, size, ends = (arrays[name] for name in ("shard", "offset", "size", "ends"))
    if not split.images:
        return ""
    if shard.min() < 0 or shard.max() >= len(split.shards):
        return f"an image lies in shard {max(shard.max(), -shard.min())}, of {len(split.shards)}"
    if size.min() < 0 or size.max() > LARGEST:
        return f"an image has {size.max() if size.min() >= 0 else size.min():,} bytes; at most {LARGEST:,} are read"
    room = np.array([file.bytes for file in split.shards], np.int64)[shard]
    if offset.min() < 0 or (offset > room - size).any():
        return "an image lies beyond the end of its shard"
    if ends[0] < 0 or (np.diff(ends) < 0).any() or ends[-1] != len(arrays["names"]):
        return "the names do not fill their text"
    if arrays["label"].min() < -1 or arrays["label"].max() >= classes:
        worst = arrays["label"].max() if arrays["label"].min() >= -1 else arrays["label"].min()
        return f"label {worst} is none of the {classes} classes, nor -1 (no label)"
    if arrays["index"].min() < 0 or arrays["index"].max() >= MOST:
        worst = arrays["index"].max() if arrays["index"].min() >= 0 else arrays["index"].min()
        return f"an image has the number {worst}; they are 0 to {MOST - 1:,}"
    if not np.diff(np.sort(arrays["index"])).all():
        return "two images have one number"
    return ""


__all__ = [
    "LARGEST", "LARGEST_MANIFEST", "LARGEST_TABLE", "MANIFEST", "PACKING", "TABLE", "VERSION",
    "File", "Manifest", "Split", "Table", "digest_of", "read_manifest", "read_table", "write_table",
]  # fmt: skip
