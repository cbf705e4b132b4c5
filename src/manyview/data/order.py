"""The order in which an epoch visits images: a pure function of the seed, the epoch, and of how the images lie.

After a shuffle of all images a disk seeks, or a network is asked, for each of them. Where it is known in which blocks
they lie, an epoch takes the blocks in a random order, some of them together, and the images of those in a random order:
a block is read in one go, and not again in that epoch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from manyview.views.draws import Draws, order_of


@final
@dataclass(frozen=True, eq=False)
class Blocks:
    """of: the number of the block in which each image lies, [N]. mix: how many blocks are shuffled together."""

    of: NDArray[np.int32]
    mix: int

    def take(self, positions: NDArray[np.int64]) -> Blocks:
        """Those of the images at positions."""
        return Blocks(self.of[positions], self.mix)


def epoch_order(seed: int, epoch: int, count: int, blocks: Blocks | None = None) -> NDArray[np.int64]:
    """Positions of `count` images in the order in which an epoch visits them, a permutation; see above."""
    if blocks is None:
        return order_of(seed, epoch, count)
    numbers = int(blocks.of.max(initial=-1)) + 1
    of_block = Draws(seed, epoch, np.arange(numbers), "order").uniform("block", 2).numpy()
    place = np.empty(numbers, np.int64)
    place[np.lexsort((of_block[:, 1], of_block[:, 0]))] = np.arange(numbers)
    values = Draws(seed, epoch, np.arange(count), "order").uniform("position", 2).numpy()
    return np.lexsort((values[:, 1], values[:, 0], (place // blocks.mix)[blocks.of])).astype(np.int64)


__all__ = ["Blocks", "epoch_order"]
