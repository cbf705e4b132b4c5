"""Stateless random draws: pure functions of (seed, epoch, image index, view, op, name of the parameter).

The generator is Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), a counter-based
generator: the value at a counter is computed directly, so nothing advances, nothing is kept, and a whole batch is
drawn at once. The key holds who asks (seed, view, op, name), the counter holds what for (image, epoch, position).
Draws are made on the CPU in float64, whatever the device, so that they are the same everywhere.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Collection, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.views.engine.compiler import compiled

_M0, _M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
_W0, _W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)
LARGEST = 1 - 2.0**-32  # of the numbers that are drawn
KEYS = 4096  # that are kept, so that a recipe's are not made anew for each batch
ROWS = 128  # images whose words stay in the nearest cache

Words = NDArray[np.uint64]  # of 32 bits

exact = compiled()


@exact
def _rounds(c0: Words, c1: Words, c2: Words, c3: Words, k0: np.uint64, k1: np.uint64) -> None:
    """Ten rounds of Philox4x32, in place. The words of many counters: the compiler takes several at once."""
    for _ in range(10):
        for n in range(c0.size):
            product0, product1 = (c0[n] & _LOW) * _M0, (c2[n] & _LOW) * _M1
            c0[n], c2[n] = (product1 >> _HALF) ^ c1[n] ^ k0, (product0 >> _HALF) ^ c3[n] ^ k1
            c1[n], c3[n] = product1 & _LOW, product0 & _LOW
        k0, k1 = (k0 + _W0) & _LOW, (k1 + _W1) & _LOW


@exact
def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Philox4x32 with ten rounds. counter: [N, 4]; returns the same shape."""
    words = np.empty((4, len(counter)), np.uint64)
    for n in range(len(counter)):
        for at in range(4):
            words[at, n] = counter[n, at]
    _rounds(words[0], words[1], words[2], words[3], np.uint64(key[0]), np.uint64(key[1]))
    out = np.empty_like(counter)
    for n in range(len(counter)):
        for at in range(4):
            out[n, at] = words[at, n]
    return out


@exact
def _unit(index: Words, epoch: int, count: int, key: tuple[int, int]) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), [B, count]: word by word of the counters (index, epoch, block)."""
    out = np.empty((len(index), count))
    held = np.empty((4, ROWS), np.uint64)
    for start in range(0, len(index), ROWS):
        rows = index[start : start + ROWS]
        c0, c1, c2, c3 = held[0, : rows.size], held[1, : rows.size], held[2, : rows.size], held[3, : rows.size]
        for block in range((count + 3) // 4):
            for n in range(rows.size):
                c0[n], c1[n], c2[n], c3[n] = rows[n] & _LOW, rows[n] >> _HALF, np.uint64(epoch), np.uint64(block)
            _rounds(c0, c1, c2, c3, np.uint64(key[0]), np.uint64(key[1]))
            for at in range(min(4, count - 4 * block)):
                for n in range(rows.size):
                    out[start + n, 4 * block + at] = held[at, n] / 2**32
    return out


@functools.lru_cache(KEYS, typed=True)  # what is equal need not be written alike, as 1 and 1.0
def key_of(*parts: object) -> tuple[int, int]:
    """Two 32-bit words that depend on all the parts and on nothing else (not on the process, as `hash` does)."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")


class Draws:
    """Random numbers for a batch of images, asked for by name; the same question has the same answer, always.

    index: image indices, integers [B]. owner: who draws, such as the view's and the op's name. asked: the names that
    numbers were drawn by, those of its parts among them.
    """

    def __init__(self, seed: int, epoch: int, index: Sequence[int] | Tensor | NDArray[np.int64], *owner: str) -> None:
        self._seed, self._owner = seed, owner
        self._turned: frozenset[str] = frozenset()
        self.asked: set[str] = set()
        self._epoch = epoch
        self._index = np.asarray(index, dtype=np.int64).astype(np.uint64)

    def __len__(self) -> int:
        return len(self._index)

    def batch(self) -> Draws:
        """Draws of one row that belong to the batch as a whole: to the images in it and their order, in this epoch."""
        held = hashlib.blake2b(self._index.astype("<u8").tobytes(), digest_size=16).hexdigest()
        return self._of((*self._owner, "batch", held), np.zeros(1, dtype=np.int64))

    def inner(self, *names: str) -> Draws:
        """Draws of a part of this one, unrelated to its own."""
        return self._of(self._owner + names)

    def shared(self) -> Draws:
        """Draws that all views have in common: those of the op's name alone, whatever its view."""
        return self._of(("shared", *self._owner[1:]))

    def opposite(self, names: Collection[str]) -> Draws:
        """The same draws, those of these names turned: u -> 1 - u, an integer k below n -> n - 1 - k.

        Numbers are multiples of 2^-32 below 1, and so is 1 - 2^-32 - u, which is what is meant: turned twice they are
        the same to the bit, and none reaches the open end. A coin of one half falls on its other side; one of another
        chance p is true as often as ever, for both at once max(0, 2p - 1) of the time.
        """
        turned = self._of(self._owner)
        turned._turned = self._turned ^ frozenset(names)
        return turned

    def _of(self, owner: tuple[str, ...], index: NDArray[np.int64] | None = None) -> Draws:
        other = Draws(self._seed, self._epoch, self._index.astype(np.int64) if index is None else index, *owner)
        other._turned, other.asked = self._turned, self.asked
        return other

    def _drawn(self, name: str, count: int) -> NDArray[np.float64]:
        """Uniform numbers in [0, 1) [B, count], as they were before any turn."""
        self.asked.add(name)
        return _unit(self._index, self._epoch, count, key_of(self._seed, *self._owner, name))

    def uniform(self, name: str, count: int = 1, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform numbers in [low, high), float64 [B, count]."""
        unit = self._drawn(name, count)
        return torch.from_numpy(low + (high - low) * (LARGEST - unit if name in self._turned else unit))

    def integers(self, name: str, bound: int | Tensor, count: int = 1) -> Tensor:
        """Integers in [0, bound), int64 [B, count]; bound: a number or a tensor that broadcasts to [B, count]."""
        below = np.asarray(bound)
        drawn = (self._drawn(name, count) * below).astype(np.int64)
        # not by turned numbers: where bound is no power of two, these may fall on the neighbour of the mirrored one
        return torch.from_numpy((below - 1 - drawn).astype(np.int64) if name in self._turned else drawn)

    def coin(self, name: str, p: float) -> Tensor:
        """True with probability p, bool [B]."""
        return torch.from_numpy(self.uniform(name).numpy()[:, 0] < p)

    def permutation(self, name: str, count: int) -> Tensor:
        """A uniformly random order of range(count) for each image, int64 [B, count]."""
        return torch.from_numpy(self.uniform(name, count).numpy().argsort(axis=1, kind="stable"))


def order_of(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """The order in which an epoch visits `count` images: a permutation, a pure function of (seed, epoch)."""
    values = Draws(seed, epoch, np.arange(count), "order").uniform("position", 2)
    return np.lexsort((values[:, 1].numpy(), values[:, 0].numpy())).astype(np.int64)
