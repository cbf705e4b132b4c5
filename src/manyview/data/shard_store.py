"""Bytes of the files in a folder, here or behind an address of fsspec; of the latter files are kept in a cache."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, BinaryIO, final

from manyview.data.shard_format import File
from manyview.errors import DataError, reason, shown
from manyview.foundation.disk import sync
from manyview.foundation.files import at_home, cache_folder, open_regular
from manyview.foundation.lock import alone_at

PIECE = 1 << 22  # bytes of a file that are copied at once
STRIDE = 1 << 17  # bytes that Linux reads ahead at one asking; of more it leaves out the rest
LOCAL = ("file", "local")  # addresses of this machine


@final
@dataclass(frozen=True)
class Store:
    """A folder's address. cache: bytes of files from elsewhere that may be kept here; 0 keeps none.

    It holds nothing open that could not be shared with a forked process, and pickles.
    """

    address: str
    cache: int = 0

    @cached_property
    def folder(self) -> Path | None:
        """Where it is on this machine; None where it is elsewhere."""
        scheme, found, path = self.address.partition("://")
        return at_home(path if scheme in LOCAL else self.address) if not found or scheme in LOCAL else None

    def where(self, name: str) -> str:
        """A file, for messages."""
        return shown(f"{self.address.rstrip('/')}/{name}")

    def sizes(self) -> dict[str, int]:
        """Files right in the folder, and how long they are. Raises DataError where it cannot be read."""
        with self._telling(""):
            if self.folder is not None:
                with os.scandir(self.folder) as entries:
                    return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}
            system, path = _remote(self.address)
            found = system.ls(path, detail=True)
            return {each["name"].rpartition("/")[2]: int(each["size"] or 0) for each in found if each["type"] == "file"}

    def whole(self, name: str, size: int, most: int) -> bytes:
        """All bytes of a file, which has `size` of them. Raises DataError, too, where these are more than `most`."""
        if size > most:
            raise DataError(f"{self.where(name)} has {size:,} bytes; at most {most:,} are read of such a file")
        with self._telling(name):
            if self.folder is not None:
                with open_regular(self.folder / name) as file:
                    return file.read(size)
            system, path = _remote(self.address)
            with system.open(f"{path}/{name}", "rb") as file:
                return file.read(size)

    def read(self, file: File, offset: int, size: int) -> bytes:
        """Bytes of a file; fewer where it ends before. Raises DataError where it cannot be read."""
        with self._telling(file.name):
            if self.folder is not None:
                return _part(_opened(self.folder / file.name), offset, size)
            if file.bytes <= self.cache:
                with _kept(self, file) as kept:
                    return _part(kept, offset, size)
            system, path = _remote(self.address)
            return system.cat_file(f"{path}/{file.name}", start=offset, end=offset + size)

    def ahead(self, file: File, start: int, end: int) -> None:
        """Says that a stretch of a file is about to be read, for the disk to read it in one go. Of files here alone."""
        if self.folder is not None and hasattr(os, "posix_fadvise"):
            with self._telling(file.name):
                _ask(self.folder / file.name, start, end)

    @contextlib.contextmanager
    def _telling(self, name: str) -> Iterator[None]:
        try:
            yield
        except DataError:
            raise
        except ImportError as error:  # of the library for such addresses
            raise DataError(f"{shown(self.address)}: {shown(reason(error))}") from None
        except Exception as error:  # of a disk, a network, or one of fsspec's many libraries
            told = error.strerror if isinstance(error, OSError) and error.strerror else reason(error)
            raise DataError(
                f"{self.where(name) if name else shown(self.address)} cannot be read: {shown(told)}"
            ) from None


@lru_cache(maxsize=256)  # of the 1,024 that a process may usually have open
def _opened(path: Path) -> BinaryIO:
    return open_regular(path)


@lru_cache(maxsize=64)  # stretches that were just asked for
def _ask(path: Path, start: int, end: int) -> None:
    file = _opened(path)
    for at in range(start, end, STRIDE):
        os.posix_fadvise(file.fileno(), at, min(STRIDE, end - at), os.POSIX_FADV_WILLNEED)


def _part(file: BinaryIO, offset: int, size: int) -> bytes:
    """Bytes of an opened file, which processes and threads may share."""
    if hasattr(os, "pread"):
        return os.pread(file.fileno(), size, offset)
    with open(file.name, "rb") as own:  # on Windows
        own.seek(offset)
        return own.read(size)


def _remote(address: str) -> tuple[Any, str]:
    """The file system of an address, which fsspec makes anew in a forked process, and the path there."""
    try:
        import fsspec
    except ImportError:
        raise DataError(f"{shown(address)}: addresses need fsspec: pip install 'manyview[shards]'") from None
    system, path = fsspec.core.url_to_fs(address.rstrip("/"))
    return system, path.rstrip("/")


@contextlib.contextmanager
def _kept(store: Store, file: File) -> Iterator[BinaryIO]:
    """A file of the cache, opened; fetched first where it is not there. What was used last is removed last."""
    path = cache_folder("shards") / f"{file.digest}.{file.bytes}"
    while (opened := _open(path)) is None:  # again, where it had to make room for another at once
        with alone_at(_lock(path)):
            if not path.is_file():
                _fetch(store, file, path)
    with opened:
        with contextlib.suppress(FileNotFoundError):  # another process needed the room
            os.utime(path)
        yield opened


def _open(path: Path) -> BinaryIO | None:
    try:
        return open_regular(path)
    except FileNotFoundError:
        return None


def _lock(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _fetch(store: Store, file: File, path: Path) -> None:
    """Brings a file whole into the cache, where there is room or older ones make it. Raises DataError if damaged."""
    temporary = path.with_suffix(f".{os.getpid()}.part")
    with alone_at(_lock(path.parent / "room")):
        _make_room(path.parent, store.cache - file.bytes)
        with open(temporary, "wb") as target:  # its length counts from now on, for others who make room
            target.truncate(file.bytes)
    try:
        system, there = _remote(store.address)
        with system.open(f"{there}/{file.name}", "rb") as source, open(temporary, "r+b") as target:
            digest = _copied(source, target, file.bytes)
        if digest != file.digest:
            raise DataError(f"{store.where(file.name)} is damaged: its checksum is not that of the description")
        sync(temporary)  # what has the name is not proved again
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _copied(source: Any, target: BinaryIO, most: int) -> str:
    """BLAKE2b of what is copied: all, or of what is longer than `most` bytes some more than these."""
    digest, done = hashlib.blake2b(digest_size=16), 0
    while done <= most and (piece := source.read(PIECE)):
        digest.update(piece)
        target.write(piece)
        done += len(piece)
    return digest.hexdigest()


def _make_room(folder: Path, room: int) -> None:
    """Removes what was used longest ago, until the others fit into `room` bytes."""
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # a part that just became whole, under another name
            there = path.stat()
            found.append((there.st_mtime, path, there.st_size))
    total = sum(size for *_, size in found)
    for _, path, size in sorted(found):
        if total <= room:
            return
        if path.suffix != ".lock" and (path.suffix != ".part" or not _alive(path)):
            total -= size
            path.unlink(missing_ok=True)


def _alive(path: Path) -> bool:
    """Whether the process that fetches a part still lives."""
    try:
        os.kill(int(path.stem.rpartition(".")[2]), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


__all__ = ["Store"]
