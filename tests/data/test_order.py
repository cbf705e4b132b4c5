"""The order of an epoch where images lie in blocks."""

import numpy as np
import torch

from manyview.data import ArrayImages, Subset
from manyview.data.images import blocks_of, pack
from manyview.data.loader import Batches
from manyview.data.order import Blocks, epoch_order
from manyview.views.draws import order_of

LIES = np.random.default_rng(0).permutation(np.repeat(np.arange(10, dtype=np.int32), [8] * 9 + [3]))


def test_blocks_are_visited_some_together_and_each_once():
    seen = set()
    for seed, epoch in ((0, 0), (0, 1), (7, 0)):
        order = epoch_order(seed, epoch, len(LIES), Blocks(LIES, mix=2))
        assert sorted(order) == [*range(len(LIES))]
        assert epoch_order(seed, epoch, len(LIES), Blocks(LIES, mix=2)).tolist() == order.tolist()
        visited = LIES[order]
        parts = np.split(visited, np.flatnonzero([len({*visited[:at]} & {*visited[at:]}) == 0 for at in range(75)])[1:])
        assert [len({*part}) for part in parts] == [2] * 5  # whole blocks, two at a time
        assert any((np.diff(part) != 0).sum() > 2 for part in parts)  # shuffled among themselves
        seen.add(tuple(order))
    assert len(seen) == 3


def test_without_blocks_all_are_shuffled_as_ever():
    assert epoch_order(3, 1, 75).tolist() == order_of(3, 1, 75).tolist()


def test_one_block_or_all_of_them_together_is_a_uniform_shuffle():
    firsts = np.array([epoch_order(0, epoch, 6, Blocks(np.arange(6, dtype=np.int32), 6))[0] for epoch in range(3000)])
    assert np.abs(np.bincount(firsts, minlength=6) - 500).max() < 100


def test_a_part_of_the_images_lies_in_the_same_blocks():
    pixels = torch.zeros(75, 3, 2, 2, dtype=torch.uint8)
    images = ArrayImages(pixels, np.zeros(75, np.int64), np.arange(75), "train", pack(["x"] * 75), Blocks(LIES, 2))
    half = Subset(images, np.arange(0, 75, 2))
    assert blocks_of(half).of.tolist() == LIES[::2].tolist()
    batches = Batches(half, 2, 19, seed=5)
    order = np.concatenate([batches.positions(number)[1] for number in range(19)])
    assert order.tolist() == epoch_order(5, 0, 38, Blocks(LIES[::2], 2)).tolist()
