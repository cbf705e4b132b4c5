"""Writing shards: images as they are, in tar files of about one size, whole or not there.

Which image goes where is settled before the first is written, from the seed and some images' sizes, and noted; so any
number of processes write, and what a killed one left is done and the rest is not. Images are shuffled, for a stretch of
a shard to be a sample of all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, final

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save

from manyview.data.contents import content_of, kind_of
from manyview.data.decode import BadImage
from manyview.data.images import Images, Ints, names_of
from manyview.data.loader import load
from manyview.data.mark import mark_of
from manyview.data.names import Names
from manyview.data.shard_format import (
    LARGEST,
    MANIFEST,
    PACKING,
    VERSION,
    File,
    Manifest,
    Table,
    digest_of,
    write_table,
)
from manyview.data.splits import Splits
from manyview.errors import DataError, RunError, shown
from manyview.foundation.files import write_atomically, write_bytes, write_text
from manyview.foundation.lock import alone_at
from manyview.views.draws import order_of

SAMPLED = 256  # images whose sizes say how many go into a shard
BLOCK = tarfile.BLOCKSIZE
PLAN = "plan.json"
SPLITS = ("train", "val", "test")
ROW = ("position", "offset", "size", "check")  # what is noted of an image
Watch = Callable[[int, int], None]


@final
@dataclass(frozen=True)
class Packed:
    """What was written. skipped: a line on each image that could not be read. before: all of it was there already."""

    images: int
    shards: int
    bytes: int
    skipped: tuple[str, ...]
    before: bool = False


def pack_splits(
    splits: Splits,
    out: Path,
    shard_size: int,
    seed: int,
    root: Path | None = None,
    carve_test: bool = False,
    skip: bool = False,
    workers: int = 0,
    watch: Watch = lambda done, total: None,
) -> Packed:
    """Writes the images of train, val and test into a folder of shards, or goes on where it was left.

    shard_size: bytes of a shard, about. root: what names of files lose. carve_test: see `RawSplits`. skip: leave out
    what cannot be read. watch: told how many images are done, of how many. Raises BadImage for an image that cannot be
    read, and RunError where the folder is another's, or cannot be written.
    """
    parts = {name: images for name in SPLITS if (images := getattr(splits, name)) is not None}
    together = {name: _a_shard(images, shard_size) for name, images in parts.items()}
    plan = {
        "version": VERSION,
        "images": {name: mark_of(images) for name, images in parts.items()},
        "classes": [*splits.classes],
        "carve_test": carve_test,
        "shard_size": shard_size,
        "sizes of images": together,
        "seed": seed,
        "skip": skip,
    }
    text = json.dumps(plan, sort_keys=True)
    if (done := _begin(out, text)) is not None:
        return done
    tasks = _Tasks(out, parts, together, seed, skip)
    total, finished, skipped = sum(map(len, parts.values())), 0, []
    with _alone(out):
        for written in load(tasks, 0, len(tasks), workers):
            finished += written.seen
            skipped += written.skipped
            watch(finished, total)
        described = {name: tasks.close(name, root) for name in parts}
        given = {"format": "manyview shards", "version": VERSION, "classes": [*splits.classes]}
        plan_of = {"plan": digest_of(text.encode()), "carve_test": carve_test}
        manifest = Manifest.model_validate({**given, **plan_of, **described})
        write_text(out / MANIFEST, manifest.model_dump_json(indent=1, exclude_none=True) + "\n")
        shutil.rmtree(out / PACKING)
    return _told(manifest, skipped)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Holds other packers off, and clears away what a killed one left half. Raises RunError where one is at work."""
    with ExitStack() as held:
        try:
            held.enter_context(alone_at(out / PACKING / PLAN, wait=False))
        except BlockingIOError:
            raise RunError(f"{shown(out)} is being packed by another process; let it end, or end it") from None
        except OSError:  # a disk that knows no locks
            pass
        for torn in (*out.glob(".*.tmp"), *(out / PACKING).glob(".*.tmp")):
            torn.unlink()
        yield


def _told(manifest: Manifest, skipped: list[str], before: bool = False) -> Packed:
    images, shards = (
        sum(counts) for counts in zip(*((s.images, len(s.shards)) for s in manifest.splits.values()), strict=True)
    )
    return Packed(images, shards, sum(file.bytes for file in manifest.files), tuple(skipped), before)


def _begin(out: Path, plan: str) -> Packed | None:
    """Notes what will be packed, once. Raises RunError for a folder that something else lies in."""
    noted, manifest = out / PACKING / PLAN, out / MANIFEST
    try:
        if manifest.is_file():
            found = Manifest.model_validate_json(manifest.read_bytes())
            if found.plan != digest_of(plan.encode()):
                raise RunError(f"{shown(out)} holds other shards, or packed in another way; pack into another folder")
            shutil.rmtree(out / PACKING, ignore_errors=True)
            return _told(found, [], before=True)
        if noted.is_file():
            before, now = json.loads(noted.read_text()), json.loads(plan)
            if other := [key for key in now if before.get(key) != now[key]]:
                raise RunError(
                    f"{shown(out)} was begun with other {', '.join(other)}; go on as it was begun, or pack into "
                    "another folder"
                )
            return None
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise RunError(
                f"{shown(out)} is {'not empty' if out.is_dir() else 'no folder'}; shards need a folder of their own"
            )
    except (OSError, ValueError) as error:
        raise RunError(f"{shown(out)} cannot be packed into: {error}") from None
    write_text(noted, plan)
    return None


def _a_shard(images: Images, shard_size: int) -> int:
    """How many images go into a shard, all but the last of which are alike: by the sizes of some of them."""
    sizes = []
    for position in np.linspace(0, len(images) - 1, min(len(images), SAMPLED)).astype(int).tolist():
        try:
            sizes.append(_room(len(content_of(images, position))))
        except BadImage:
            continue
    together = max(1, int(shard_size / (np.mean(sizes or [BLOCK]) + 3 * BLOCK)))  # a header, and another file's label
    return -(-len(images) // max(1, -(-len(images) // together)))


def _content(images: Images, position: int) -> bytes:
    """An image's bytes. Raises BadImage, for more than are kept, too."""
    content = content_of(images, position)
    if len(content) > LARGEST:
        raise BadImage(f"{images.name(position)}: has {len(content):,} bytes; at most {LARGEST:,} are kept")
    return content


def _room(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


_order = lru_cache(maxsize=1)(order_of)


@dataclass(frozen=True)
class _Written:
    seen: int
    skipped: list[str]


@final
@dataclass(frozen=True)
class _Tasks:
    """Task number n: to write the n-th of all shards. It pickles into workers.

    together: images of a shard, by split.
    """

    out: Path
    parts: Mapping[str, Images]
    together: Mapping[str, int]
    seed: int
    skip: bool

    def count(self, name: str) -> int:
        """Shards of a split."""
        return -(-len(self.parts[name]) // self.together[name])

    def __len__(self) -> int:
        return sum(map(self.count, self.parts))

    def __getitem__(self, number: int) -> _Written:
        for name in self.parts:
            if number < self.count(name):
                return self._shard(name, number)
            number -= self.count(name)
        raise IndexError(number)

    def _shard(self, name: str, number: int) -> _Written:
        """Writes one, unless it is there: what is noted of it is written last."""
        order = _order(self.seed, 0, len(self.parts[name]))
        first = number * self.together[name]
        placed, path = order[first : first + self.together[name]], self._shard_path(name, number)
        noted = self._note_path(name, number)
        try:
            if noted.is_file() and path.is_file():
                note = _read_note(noted)
                if path.stat().st_size == note.file.bytes:
                    return _Written(len(placed), note.skipped)
            note = self._write(name, path, placed, first)
            write_bytes(noted, note.as_bytes())
        except OSError as error:
            raise RunError(f"cannot write {shown(path)}: {error.strerror or error}") from None
        return _Written(len(placed), note.skipped)

    def _write(self, name: str, path: Path, placed: Ints, first: int) -> _Note:
        """The tar file of the images at positions `placed`, which are the split's from number `first` on."""
        images, tar = self.parts[name], _Tar()
        rows: list[tuple[int, ...]] = []
        skipped: list[str] = []

        def write(temporary: Path) -> None:
            with open(temporary, "wb") as file:
                for number, position in enumerate(map(int, placed), first):
                    try:
                        content = _content(images, position)
                    except BadImage as error:
                        if not self.skip:
                            cure = "repair it, or leave such out with data.on_bad_image=skip"
                            raise BadImage(f"{error}; {cure}") from None
                        skipped.append(str(error))
                        continue
                    at = tar.add(file, f"{number:09d}.{kind_of(content)}", content)
                    rows.append((position, at, len(content), zlib.crc32(content)))
                    if images.labels[position] >= 0:
                        tar.add(file, f"{number:09d}.cls", b"%d" % images.labels[position])
                tar.close(file)

        write_atomically(path, write)
        described = File(name=path.name, bytes=tar.size, digest=tar.digest.hexdigest())
        return _Note(described, np.array(rows, np.int64).reshape(-1, len(ROW)), skipped)

    def close(self, name: str, root: Path | None) -> dict[str, Any]:
        """The split's table, of all that was noted; what the description says of it. It is written, too."""
        images = self.parts[name]
        notes = [_read_note(self._note_path(name, number)) for number in range(self.count(name))]
        rows = np.concatenate([note.rows for note in notes])
        shard = np.repeat(np.arange(len(notes), dtype=np.int32), [len(note.rows) for note in notes])
        order = np.argsort(rows[:, 0])
        position, offset, size, check = rows[order].T
        if not len(position):
            raise DataError(f"no image of {name} could be read")
        names, below = names_of(images), "" if root is None else f"{root}{os.sep}"
        names = Names.of(each.removeprefix(below) for each in names.take(position))
        labels, index = images.labels[position], images.index[position]
        table = write_table(Table(shard[order], offset, size, check.astype(np.uint32), labels, index, names))
        file = File(name=f"{name}.table", bytes=len(table), digest=digest_of(table))
        write_bytes(self.out / file.name, table)
        return {
            "images": len(position),
            "table": file.model_dump(),
            "shards": [note.file.model_dump() for note in notes],
        }

    def _shard_path(self, name: str, number: int) -> Path:
        return self.out / f"{name}-{number:05d}.tar"

    def _note_path(self, name: str, number: int) -> Path:
        return self.out / PACKING / f"{name}-{number:05d}"


@final
@dataclass(frozen=True, eq=False)
class _Note:
    """What is kept of a shard until all are written. rows: `ROW` of each image, int64 [n, 4]."""

    file: File
    rows: Ints
    skipped: list[str]

    def as_bytes(self) -> bytes:
        return save({"rows": self.rows}, {"file": self.file.model_dump_json(), "skipped": json.dumps(self.skipped)})


def _read_note(path: Path) -> _Note:
    with safe_open(path, framework="np") as noted:
        told = noted.metadata()
        return _Note(File.model_validate_json(told["file"]), noted.get_tensor("rows"), json.loads(told["skipped"]))


@final
class _Tar:
    """A tar file as it grows: its length, and the digest of its bytes. The same contents give the same bytes."""

    def __init__(self) -> None:
        self.size, self.digest = 0, hashlib.blake2b(digest_size=16)

    def add(self, file: BinaryIO, name: str, content: bytes) -> int:
        """Appends a file to that which it grows in; returns where its content begins."""
        head = tarfile.TarInfo(name)
        head.size = len(content)
        self._put(file, head.tobuf(tarfile.USTAR_FORMAT))
        at = self.size
        self._put(file, content)
        self._put(file, bytes(_room(len(content)) - len(content)))
        return at

    def close(self, file: BinaryIO) -> None:
        """Writes what ends a tar file."""
        self._put(file, bytes(2 * BLOCK))

    def _put(self, file: BinaryIO, data: bytes) -> None:
        file.write(data)
        self.digest.update(data)
        self.size += len(data)


__all__ = ["Packed", "pack_splits"]
