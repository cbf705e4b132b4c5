"""Copies on both sides of a split are told, whatever holds the images."""

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch.utils.data import ConcatDataset, Dataset

import manyview
from manyview.data import open_splits
from manyview.data.twins import READ, tell_twins, twins
from manyview.errors import ManyviewWarning
from manyview.recipe.settings import Data


def _pixels(count: int = 20, side: int = 8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (count, side, side, 3), np.uint8)


class _Made(Dataset):
    """Images of unlike sizes, which therefore stay outside memory; those of two data sets are equal."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number: int):
        return _pixels(20, 9 + number % 2)[number], number % 2


def _twice(kind: str, folder: Path) -> tuple[Data, dict | None]:
    """20 images in two classes, each of them twice, and a quarter of all held out."""
    images, labels = _pixels(), np.arange(20) % 2
    settings: dict = {"val_fraction": 0.25, "workers": 0}
    if kind == "arrays":
        return Data(**settings), {"train": (np.concatenate([images, images]), np.concatenate([labels, labels]))}
    if kind == "items":
        return Data(**settings), {"train": ConcatDataset([_Made(), _Made()])}
    if kind == "rows":
        datasets = pytest.importorskip("datasets")
        rows = {"image": [Image.fromarray(each) for each in images] * 2, "label": labels.tolist() * 2}
        table = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
        return Data(**settings), {"train": table}
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        place = folder / str(label)
        place.mkdir(exist_ok=True)
        Image.fromarray(image).save(place / f"{number}.png")
        copy = place / f"copy of {number}.png"
        if number % 3:
            os.link(place / f"{number}.png", copy)
        else:
            copy.write_bytes((place / f"{number}.png").read_bytes())
    return Data(source="folder", root=str(folder), **settings), None


@pytest.mark.parametrize("kind", ["arrays", "items", "rows", "files"])
def test_copies_in_train_and_val_are_found(kind, tmp_path):
    data, given = _twice(kind, tmp_path)
    splits = open_splits(data, 0, given)
    pairs, looked = twins(splits.train, splits.val)
    assert looked == 10
    assert 3 <= len(pairs) <= looked
    for mine, its in pairs:
        assert splits.train.read(mine).equal(splits.val.read(its))
        assert splits.train.index[mine] != splits.val.index[its]
    with pytest.warns(ManyviewWarning, match=rf"data: of {looked} val images.* {len(pairs)} are in train too"):
        tell_twins(dataclasses.replace(splits, test=None))


def test_what_is_apart_is_told_nothing():
    splits = open_splits(Data(val_fraction=0.5), 0, {"train": (_pixels(), np.arange(20) % 2)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tell_twins(splits)


def test_items_that_would_have_to_be_made_in_numbers_are_not():
    class Many(_Made):
        read = 0

        def __init__(self) -> None:
            self.targets = [number % 2 for number in range(len(self))]

        def __len__(self) -> int:
            return 3 * READ

        def __getitem__(self, number: int):
            type(self).read += 1
            return super().__getitem__(number % 20)

    splits = open_splits(Data(val_fraction=0.1, workers=0), 0, {"train": Many()})
    before = Many.read
    assert twins(splits.train, splits.val) == ([], 0)
    assert Many.read == before


def test_a_run_begins_by_telling_it(tmp_path):
    from manyview.training.setup import set_up

    recipe = manyview.load_recipe("quickstart", "train.epochs=1", "data.val_fraction=0.5")
    images, labels = np.tile(_pixels(32), (2, 1, 1, 1)), np.arange(64) % 2
    with pytest.warns(ManyviewWarning, match="are in train too, byte for byte"):
        set_up(recipe, quiet=True, data={"train": (images, labels)})
