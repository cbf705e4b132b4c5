"""Where views are made: what is chosen, why, and what is refused."""

import numpy as np
import pytest
import torch

from manyview import parse_recipe
from manyview.data import ArrayImages, open_splits, preload
from manyview.data.images import FolderImages, Subset, pack
from manyview.data.render import choose_rendering
from manyview.errors import RunError

COUNT = 1200
NOT_IN_MEMORY = (
    "needs decoded images in memory, but these have unlike sizes, are unreadable in part or exceed data.memory"
)


def in_memory():
    pixels = torch.zeros(COUNT, 3, 2, 2, dtype=torch.uint8)
    return ArrayImages(pixels, np.zeros(COUNT, np.int64), np.arange(COUNT), split="train")


def on_disk(tmp_path):
    names = pack([f"{number}.png" for number in range(COUNT)])
    return FolderImages(tmp_path, names, np.zeros(COUNT, np.int64), np.arange(COUNT))


@pytest.mark.parametrize(
    ("asked", "device", "place", "line"),
    [
        ("auto", "cpu", "memory", "threads, from memory (1,200 decoded images lie in memory)"),
        ("auto", "cuda", "device",
         "the step, on its device (1,200 decoded images lie in memory, and cuda renders faster than it could be fed)"),
        ("memory", "cpu", "memory", "threads, from memory (as the recipe asks)"),
        ("memory", "cuda", "memory", "threads, from memory (as the recipe asks)"),
        ("device", "cpu", "device", "the step, on its device (as the recipe asks)"),
        ("device", "cuda", "device", "the step, on its device (as the recipe asks)"),
        ("workers", "cpu", "workers", "the loader (as the recipe asks)"),
        ("workers", "cuda", "workers", "the loader (as the recipe asks)"),
    ],
)  # fmt: skip
def test_images_in_memory(asked, device, place, line):
    chosen = choose_rendering(asked, in_memory(), device)
    assert (chosen.place, str(chosen)) == (place, line)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_images_on_disk_are_left_to_the_loader(tmp_path, device):
    images = on_disk(tmp_path)
    for part in (images, Subset(images, np.arange(3))):
        chosen = choose_rendering("auto", part, device)
        assert str(chosen) == "the loader (the images have unlike sizes or exceed data.memory)"
        assert choose_rendering("workers", part, device).place == "workers"
        for asked in ("memory", "device"):
            with pytest.raises(RunError) as caught:
                choose_rendering(asked, part, device)
            assert str(caught.value) == f"data.render={asked} {NOT_IN_MEMORY}; use data.render=workers"


def test_a_part_of_images_in_memory_lies_there_once_it_is_loaded():
    recipe = parse_recipe(
        "data: {source: digits, limit: 60}\nviews: {a: {from: image, make: flip}}\n"
        "branches: {net: {backbone: cresnet20}}\nrelations: [cross_entropy(logits(a))]\ntrain: {epochs: 1}\n"
    )
    train = open_splits(recipe.data, 0).train
    assert choose_rendering("auto", preload(train), "cpu").place == "memory"
