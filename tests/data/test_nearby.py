"""Where what a source reads lies a folder above data.root, or right in it, the message names that folder."""

import json

import pytest
import torchvision.datasets
from datasets import ClassLabel, Dataset, Features, Image

from commands import png
from manyview import load_recipe
from manyview.data import open_splits
from manyview.data.vision import DATASETS, PLACES
from manyview.errors import DataError


def refused(source, root):
    recipe = load_recipe("quickstart", f"data.source={source}", f"data.root={root}")
    with pytest.raises(DataError) as told:
        open_splits(recipe.data, 0)
    return str(told.value)


def table(folder, name="train.parquet"):
    picture = png(folder.parent / "picture.png")
    kinds = Features({"image": Image(), "label": ClassLabel(names=["a", "b"])})
    data = Dataset.from_dict({"image": [str(picture)] * 4, "label": [0, 1, 0, 1]}, features=kinds)
    folder.mkdir(parents=True, exist_ok=True)
    data.to_parquet(folder / name)
    return data


def test_tables_right_in_the_root_or_above_it(tmp_path):
    table(tmp_path / "CIFAR-10")
    table(tmp_path / "cifar100")
    table(tmp_path / "other sets")
    ours = tmp_path / "CIFAR-10"
    assert refused("cifar10", tmp_path).endswith(f"; data.root={ours} would be right")
    assert refused("cifar100", tmp_path).endswith(f"; data.root={tmp_path / 'cifar100'} would be right")
    assert refused("cifar10", ours / "train.parquet").endswith(f"; data.root={ours} would be right")
    assert refused("cifar10", tmp_path / "cifra10").endswith(f"; data.root={ours} would be right")
    assert "would be right" not in refused("svhn", tmp_path)  # none of them says that it is that
    several = refused("hf", tmp_path)
    named = ours, tmp_path / "cifar100", f"'{tmp_path / 'other sets'}'"
    assert several.endswith(f"; {' or '.join(f'data.root={each}' for each in named)} would be right")


def test_what_save_to_disk_wrote(tmp_path):
    table(tmp_path / "there").save_to_disk(tmp_path / "saved" / "mine")
    assert refused("hf", tmp_path / "saved").endswith(f"; data.root={tmp_path / 'saved' / 'mine'} would be right")


def test_files_of_torchvision(tmp_path):
    (tmp_path / "sets" / "cifar-10-batches-py").mkdir(parents=True)
    right = f"; data.root={tmp_path / 'sets'} would be right"
    assert refused("cifar10", tmp_path).endswith(right)
    assert refused("cifar10", tmp_path / "sets" / "cifar-10-batches-py").endswith(right)
    assert refused("torchvision('cifar10')", tmp_path).endswith(right)


def test_torchvision_looks_there(tmp_path):
    assert PLACES.keys() == DATASETS.keys()
    for name in ("CIFAR10", "CIFAR100", "STL10"):
        assert PLACES[name] == getattr(torchvision.datasets, name).base_folder
    assert PLACES["SVHN"] == torchvision.datasets.SVHN.split_list["train"][1]


def test_lists_and_shards(tmp_path):
    png(tmp_path / "deep" / "a.png")
    (tmp_path / "deep" / "train.csv").write_text("image,label\na.png,0\n")
    assert refused("listed('train.csv')", tmp_path).endswith(f"data.root; data.root={tmp_path / 'deep'} would be right")
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "shards.json").write_text(json.dumps({}))
    assert refused(f"shards('{tmp_path}')", tmp_path).endswith(f"shards.json; {tmp_path / 'packed'} would be right")
