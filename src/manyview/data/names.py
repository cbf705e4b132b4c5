"""Names of many images in one piece of memory.

A million Python strings would take two hundred megabytes, and be copied into each forked worker as their reference
counts change; an array of NumPy's fixed width makes all as long as the longest.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

AT_ONCE = 1 << 16  # names that are worked on together, which bounds what that takes
_DIVIDES = np.isin(np.arange(256), [ord(each) for each in {os.sep, os.altsep or os.sep}])


@final
@dataclass(frozen=True, eq=False)
class Names:
    """Name n is `text[ends[n - 1]:ends[n]]` in UTF-8; a file name's bytes that are no text stay what they are.

    text: uint8 [bytes]. ends: int64 [N], ascending.
    """

    text: NDArray[np.uint8]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Of texts, in their order; they may come one by one, so that they never are there together."""
        text, ends = bytearray(), array("q")
        for name in names:
            text += name.encode(errors="surrogateescape")
            ends.append(len(text))
        return cls(np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, position: int) -> str:
        if not 0 <= position < len(self.ends):
            raise IndexError(f"name {position} of {len(self.ends)}")
        start = self.ends[position - 1] if position else 0
        return self.text[start : self.ends[position]].tobytes().decode(errors="surrogateescape")

    def __iter__(self) -> Iterator[str]:
        return (self[position] for position in range(len(self)))

    def take(self, positions: NDArray[np.int64]) -> Names:
        """Those at positions, in that order."""
        return joined(self._cut(part) for part in _parts(positions))

    def last_parts(self) -> Iterator[bytes]:
        """What stands behind the last separator of each path, all of it one behind the other, piece by piece."""
        for part in _parts(np.arange(len(self))):
            cut = self._cut(part)
            starts, at = _starts(cut.ends), np.arange(1, len(cut.text) + 1)
            behind = np.maximum.accumulate(np.where(_DIVIDES[cut.text], at, 0))
            keeps = at > np.repeat(np.maximum(starts, behind[cut.ends - 1] if len(at) else 0), cut.ends - starts)
            yield cut.text[keeps].tobytes()

    def _cut(self, positions: NDArray[np.int64]) -> Names:
        starts = np.where(positions > 0, self.ends[positions - 1], 0)
        sizes = self.ends[positions] - starts
        ends = np.cumsum(sizes)
        return Names(
            self.text[np.repeat(starts - _starts(ends), sizes) + np.arange(ends[-1] if len(ends) else 0)], ends
        )


def joined(parts: Iterable[Names]) -> Names:
    """The names of all, one behind the other."""
    text, ends = bytearray(), array("q")
    for part in parts:
        ends.frombytes((part.ends + len(text)).tobytes())
        text += part.text.tobytes()
    return Names(np.frombuffer(text, np.uint8), np.frombuffer(ends, np.int64))


def _parts(positions: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    return (positions[start : start + AT_ONCE] for start in range(0, len(positions), AT_ONCE))


def _starts(ends: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), ends])[:-1]


__all__ = ["Names", "joined"]
