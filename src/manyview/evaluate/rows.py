"""Rows of numbers by the block: in memory, or in a file of which nothing stays mapped once it was read.

Pages of a mapped file count as memory of the process for as long as they are mapped, so each block is mapped for
itself, copied, and let go: 1.3 million rows of 2,048 take what a block takes. Where rows lie changes none of them.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Any, final

import numpy as np
import torch
from torch import Tensor

from manyview.errors import RunError

MEMORY = 2**30
"""Bytes that rows of one kind may take in memory; more of them lie in a file, in the folder that TMPDIR names."""
ROWS_AT_ONCE = 4096
EXACT = 1e-3
"""How far a row may move, as a share of its length, where it is kept as float16."""


@final
@dataclass(frozen=True, eq=False)
class Mapped:
    """A tensor in an open file, which lasts as long as this does. offset: the byte with which it begins."""

    file: IO[bytes]
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int = 0

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def nbytes(self) -> int:
        """How many bytes it has."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __getitem__(self, at: slice | Tensor) -> Tensor:
        """A copy of these rows."""
        kind: Any = torch.empty(0, dtype=self.dtype).numpy().dtype
        if isinstance(at, Tensor):
            whole = np.memmap(self.file, kind, "r", self.offset, self.shape)
            return torch.from_numpy(np.array(whole[at.numpy()]))
        first, last, _ = at.indices(len(self))
        shape = (max(0, last - first), *self.shape[1:])
        if 0 in shape:
            return torch.empty(shape, dtype=self.dtype)
        begin = self.offset + first * kind.itemsize * math.prod(shape[1:])
        return torch.from_numpy(np.array(np.memmap(self.file, kind, "r", begin, shape)))


Lying = Tensor | Mapped


@final
class Rows:
    """Rows [N, dim] of one or several parts, one after another, read as float32. chosen: positions, if not all."""

    def __init__(self, *parts: Lying | Rows, chosen: Tensor | None = None) -> None:
        self.parts, self._chosen = parts, chosen

    def __len__(self) -> int:
        return sum(map(len, self.parts)) if self._chosen is None else len(self._chosen)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, dim)."""
        return (len(self), *self.parts[0].shape[1:])

    @property
    def ndim(self) -> int:
        """As of a tensor."""
        return len(self.shape)

    @property
    def device(self) -> torch.device:
        """Where what is read lies."""
        part = self.parts[0]
        return torch.device("cpu") if isinstance(part, Mapped) else part.device

    def __getitem__(self, at: slice | Tensor) -> Tensor:
        """These rows, float32; where they lie in memory as that, a slice shares it."""
        if self._chosen is not None:
            at = self._chosen[at]
        if len(self.parts) == 1:
            return _read(self.parts[0], at)
        ends = np.cumsum([0, *map(len, self.parts)]).tolist()
        if isinstance(at, slice):
            first, last, _ = at.indices(ends[-1])
            places = [slice(max(0, first - begin), max(0, last - begin)) for begin in ends[:-1]]
            return torch.cat([_read(part, place) for part, place in zip(self.parts, places, strict=True)])
        found = torch.empty((len(at), *self.shape[1:]), device=self.device)
        for part, begin, end in zip(self.parts, ends, ends[1:], strict=False):
            own = (at >= begin) & (at < end)
            found[own.to(found.device)] = _read(part, at[own] - begin)
        return found

    def blocks(self, size: int = ROWS_AT_ONCE) -> Iterator[Tensor]:
        """All rows in order, so many at a time."""
        return (self[slice(first, first + size)] for first in range(0, len(self), size))

    def chosen(self, positions: Tensor) -> Rows:
        """Some of them, in the order of these positions."""
        return Rows(self, chosen=positions)


def _read(part: Lying | Rows, at: slice | Tensor) -> Tensor:
    if isinstance(at, Tensor) and isinstance(part, Tensor):
        at = at.to(part.device)
    return part[at].float()


def rows_of(given: Lying | Rows) -> Rows:
    """Rows of what may be a tensor."""
    return given if isinstance(given, Rows) else Rows(given)


def blocks_of(given: Tensor | Rows) -> Iterable[Tensor]:
    """All rows in order by the block; a tensor's as they are."""
    return given.blocks() if isinstance(given, Rows) else given.split(ROWS_AT_ONCE)


def spans(count: int, size: int = ROWS_AT_ONCE) -> list[slice]:
    """Where the blocks of so many rows lie."""
    return [slice(first, min(first + size, count)) for first in range(0, count, size)]


def exact_as_half(rows: Tensor) -> bool:
    """Whether no row [N, dim] moves by more than EXACT of its length as float16."""
    return all(
        bool(((block.half().float() - block).norm(dim=1) <= EXACT * block.norm(dim=1)).all())
        for block in rows.split(ROWS_AT_ONCE)
    )


@final
class Store:
    """Takes rows block by block, at most `count` of them, and has them in memory if all take at most `memory` bytes.

    halves: keep them as float16 in the end where all are exact enough. Raises RunError where a file has no room.
    """

    def __init__(self, count: int, memory: int = MEMORY, *, halves: bool = False) -> None:
        self._count, self._memory, self._halves = count, memory, halves
        self._held: Tensor | None = None
        self._file: IO[bytes] | None = None
        self._like = torch.empty(0, 0)
        self._done = 0

    def add(self, block: Tensor) -> None:
        """More rows [B, dim], all of one type and width, on the CPU."""
        if not self._done and self._held is None and self._file is None:
            self._like = block[:0]
            if self._count * block[0:1].nbytes <= self._memory:
                self._held = block.new_empty(self._count, *block.shape[1:])
            else:
                self._file = _scratch()
        self._halves = self._halves and exact_as_half(block)
        if self._held is not None:
            self._held[self._done : self._done + len(block)] = block
        else:
            self._write(block, self._done * block[0:1].nbytes)
        self._done += len(block)

    def lying(self) -> Lying:
        """All that came."""
        shape = (self._done, *self._like.shape[1:])
        if self._held is not None or self._file is None:
            held = self._like if self._held is None else self._held[: self._done]
            return held.half() if self._halves else held
        whole = Mapped(self._file, self._like.dtype, shape)
        if not self._halves:
            return whole
        for span in spans(self._done):  # each block moves forward, over what was read before
            block = whole[span].half()
            self._write(block, span.start * block[0:1].nbytes)
        half = Mapped(self._file, torch.float16, shape)
        self._file.truncate(half.nbytes)
        return half

    def _write(self, block: Tensor, at: int) -> None:
        assert self._file is not None
        try:
            self._file.seek(at)
            self._file.write(block.cpu().contiguous().numpy().data.cast("B"))
            self._file.flush()
        except OSError as error:
            raise _no_room(error) from None


def _scratch() -> IO[bytes]:
    """A file without a name, which is gone with the process, however that ends."""
    try:
        return tempfile.TemporaryFile(prefix="manyview-")
    except OSError as error:
        raise _no_room(error) from None


def _no_room(error: OSError) -> RunError:
    told = error.strerror or os.strerror(error.errno or 0)
    return RunError(f"cannot keep features in {tempfile.gettempdir()}: {told}; TMPDIR names another folder")
