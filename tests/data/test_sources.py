"""Sources on real files, splits as functions of labels and seed, and every error line."""

import inspect
import io
import json
import pickle
import re
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image

from manyview.data import (
    SOURCES,
    ArrayImages,
    BadImage,
    FolderImages,
    RawSplits,
    Subset,
    TableImages,
    decode,
    hold_out,
    make_splits,
    open_splits,
    preload,
)
from manyview.data.vision import DATASETS
from manyview.errors import DataError
from manyview.foundation.vocabulary import NONE, Words

CIFAR10 = Path(__file__).parents[3] / "shared" / "data" / "cifar10"


@dataclass(frozen=True)
class Call:
    name: str
    args: tuple = ()
    kwargs: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Spec:
    call: Call = field(default_factory=lambda: Call("digits"))
    root: str | None = None
    download: bool = False
    val_fraction: float = 0.1
    labels_per_class: int | None = None
    imbalance: float | None = None
    limit: int | None = None
    channels: int | None = None
    unlabeled: str | None = None
    unlabeled_limit: int | None = None
    unlabeled_root: str | None = None
    words: Words = NONE


def open_(name, *args, root=None, seed=0, options=None, **choice):
    spec = Spec(Call(name, args, options or {}), root=None if root is None else str(root), **choice)
    return open_splits(spec, seed)


def fails(line, *args, **kwargs):
    """The error is exactly this one line (a regular expression)."""
    with pytest.raises(DataError) as caught:
        open_(*args, **kwargs)
    assert re.fullmatch(line, str(caught.value)), str(caught.value)


def picture(path, color=(1, 2, 3), size=(4, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path, **({"quality": 100} if path.suffix in (".jpg", ".jpeg") else {}))
    return path


def arrays(counts, split="train"):
    """ArrayImages with ``counts[c]`` images of class c, shuffled; pixel values tell the position."""
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(len(counts)), counts))
    pixels = torch.arange(len(labels)).to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).contiguous()
    return ArrayImages(pixels, labels, np.arange(len(labels)), split)


def split(counts, seed=0, val=None, test=None, carve_test=False, **choice):
    raw = RawSplits(arrays(counts), val, test, tuple("abcdefghijklmnop"[: len(counts)]), carve_test)
    return make_splits(raw, Spec(**choice), seed)


def refused(line, counts, **kwargs):
    with pytest.raises(DataError) as caught:
        split(counts, **kwargs)
    assert re.fullmatch(line, str(caught.value)), str(caught.value)


# --- splits ---


def test_hold_out_is_stratified_disjoint_and_complete():
    labels = arrays([500, 300, 150, 50]).labels
    kept, held = hold_out(labels, 100, 0, "val")
    assert np.bincount(labels[held]).tolist() == [50, 30, 15, 5]
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(1000))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(held) > 0).all()


def test_hold_out_depends_on_seed_and_purpose_only():
    labels = arrays([50, 50]).labels
    first = hold_out(labels, 20, 0, "val")[1]
    np.testing.assert_array_equal(first, hold_out(labels.copy(), 20, 0, "val")[1])
    assert not np.array_equal(first, hold_out(labels, 20, 1, "val")[1])
    assert not np.array_equal(first, hold_out(labels, 20, 0, "test")[1])


def test_hold_out_of_one_seed_never_changes():
    # A published split must survive every release of NumPy and of this library.
    labels = np.arange(40) % 4
    assert hold_out(labels, 8, 0, "val")[1].tolist() == [1, 12, 16, 17, 19, 26, 27, 38]


def test_hold_out_is_uniform_over_the_images_of_a_class():
    labels = np.repeat([0, 1], 10)
    times = np.zeros(20)
    for seed in range(400):
        times[hold_out(labels, 4, seed, "val")[1]] += 1
    assert times.sum() == 1600
    assert abs(times - 80).max() < 5 * np.sqrt(400 * 0.2 * 0.8)


def test_hold_out_leaves_each_class_an_image():
    labels = np.array([0, 0, 0, 1, 2, 2])
    kept, held = hold_out(labels, 6, 0, "val")
    assert np.unique(labels[kept]).tolist() == [0, 1, 2]
    assert len(held) == 3
    labels = np.repeat([0, 1], [100, 1])
    assert 100 in hold_out(labels, 80, 0, "val")[0]


def test_val_is_taken_from_train_and_identities_stay():
    splits = split([60, 40])
    assert (len(splits.train), len(splits.val), splits.test) == (90, 10, None)
    assert splits.note == "90 train, 10 val (10 % of train, seed 0), no test"
    assert np.bincount(splits.val.labels).tolist() == [6, 4]
    assert sorted([*splits.train.index, *splits.val.index]) == list(range(100))
    whole = arrays([60, 40])
    for position in (0, 5, 9):
        identity = splits.val.index[position]
        assert splits.val.read(position).unique().tolist() == [identity]
        assert splits.val.labels[position] == whole.labels[identity]
        assert splits.val.name(position) == f"train row {identity}"


def test_a_given_val_is_kept_and_zero_means_none():
    given = arrays([3, 3], "val")
    splits = split([60, 40], val=given, test=given)
    assert splits.val is given
    assert splits.note == "100 train, 6 val, 6 test"
    none = split([60, 40], val_fraction=0)
    assert none.val is None
    assert isinstance(none.train, ArrayImages)
    assert none.note == "100 train, no val, no test"


def test_one_set_gives_val_and_test_of_equal_size():
    splits = split([60, 40], carve_test=True, val_fraction=0.2)
    assert [np.bincount(part.labels).tolist() for part in (splits.train, splits.val, splits.test)] == [
        [36, 24],
        [12, 8],
        [12, 8],
    ]
    assert sorted([*splits.train.index, *splits.val.index, *splits.test.index]) == list(range(100))
    assert splits.note == "60 train, 20 val (20 % of all images, seed 0), 20 test (20 % of all images, seed 0)"


def test_labels_per_class_keeps_n_of_each_and_nests():
    four, ten = split([50, 30, 40], labels_per_class=4), split([50, 30, 40], labels_per_class=10)
    assert np.bincount(four.train.labels).tolist() == [4, 4, 4]
    assert set(four.train.index) < set(ten.train.index)
    assert (np.diff(four.train.index) > 0).all()
    assert not set(ten.train.index) & set(ten.val.index)
    assert four.note == "12 train (4 a class, seed 0), 12 val (10 % of train, seed 0), no test"
    assert set(four.val.index) == set(ten.val.index)


def test_imbalance_is_the_exponential_long_tail():
    splits = split([100] * 5, imbalance=100, val_fraction=0)
    expected = [round(100 * 100 ** (-c / 4)) for c in range(5)]
    assert expected == [100, 32, 10, 3, 1]
    assert np.bincount(splits.train.labels).tolist() == expected
    assert splits.note == "146 train (long tail 100:1, seed 0), no val, no test"
    assert len(split([100] * 5, imbalance=1, val_fraction=0).train) == 500
    # a class never has more than it had, nor less than one
    assert np.bincount(split([100, 5, 100], imbalance=1000, val_fraction=0).train.labels).tolist() == [100, 3, 1]


def test_limit_is_stratified_exact_and_keeps_every_class():
    splits = split([600, 300, 100], limit=50, val_fraction=0)
    assert np.bincount(splits.train.labels).tolist() == [30, 15, 5]
    assert (np.diff(splits.train.index) > 0).all()
    assert np.bincount(split([900, 5, 5], limit=3, val_fraction=0).train.labels).tolist() == [1, 1, 1]
    assert all(len(split([7, 11, 13], limit=n, val_fraction=0).train) == n for n in range(3, 32))


def test_choices_differ_by_seed_and_repeat():
    for choice in ({"limit": 20}, {"labels_per_class": 10}, {"imbalance": 10}):
        picks = [split([50, 50], seed=seed, val_fraction=0, **choice).train.index.tolist() for seed in (0, 0, 1)]
        assert picks[0] == picks[1]
        assert picks[0] != picks[2]


def test_choices_combine_in_the_stated_order():
    splits = split([100] * 3, labels_per_class=40, imbalance=4, limit=20)
    before = np.array([40, 20, 10])
    assert abs(np.bincount(splits.train.labels) - 20 * before / 70).max() < 1
    assert splits.note.startswith("20 train (40 a class, long tail 4:1, limit 20, seed 0), 30 val")


@pytest.mark.parametrize("fraction", [-0.1, 1, 1.5, float("nan")])
def test_val_fraction_out_of_range(fraction):
    refused(r"data\.val_fraction is \S+; it must be at least 0 and less than 1", [9, 9], val_fraction=fraction)


def test_choices_that_cannot_be_met():
    refused(
        r"data\.labels_per_class is 10, but class 'b' has only 5 in train",
        [50, 5],
        labels_per_class=10,
        val_fraction=0,
    )
    refused(r"data\.labels_per_class is 0; it must be at least 1", [50, 5], labels_per_class=0)
    refused(r"data\.imbalance is 0\.01; it must be at least 1 \(.*\)", [50, 5], imbalance=0.01)
    refused(r"data\.limit is 2,000, but only 1,800 training images are available", [1000, 1000], limit=2000)
    thinned = r"data\.limit is 9, but only 4 training images \(2 a class\) are available"
    refused(thinned, [50, 5], limit=9, labels_per_class=2, val_fraction=0)
    refused(r"data\.limit is 1, fewer than the 2 classes; give each at least one image", [50, 5], limit=1)
    refused(r"no image can be held out for val: every class has only one; set data\.val_fraction=0", [1, 1])
    refused(r"train has only one class \('a'\); at least two are needed, or no labels at all: folder\(.*", [50])
    refused(r"split 'train' has no images", [])
    refused(r"split 'test' has no images", [5, 5], test=arrays([]))
    refused(
        r"test row \d+: label 2 is not one of 0 to 1 \(2 classes\), nor -1 \(no label\)",
        [5, 5],
        test=arrays([1, 1, 1], "test"),
    )


# --- images ---


def test_array_images_check_shapes_and_give_copies():
    images = arrays([2, 2])
    images.read(1).zero_()
    assert images.read(1).unique().tolist() == [1]
    assert images.size == (2, 2)
    kinds = r"not uint8, uint16 or float32 \[N, C, H, W\]$"
    with pytest.raises(DataError, match=r"^x: pixels are torch\.int64 \(4, 3, 2, 2\), " + kinds):
        ArrayImages(images.pixels.long(), images.labels, images.index, "x")
    with pytest.raises(DataError, match=r"^x: pixels are torch\.uint8 \(4, 2, 2\), " + kinds):
        ArrayImages(images.pixels[:, 0], images.labels, images.index, "x")
    for shape in ((4, 17, 2, 2), (4, 0, 2, 2), (4, 3, 0, 2)):
        with pytest.raises(DataError, match=rf"^x: pixels are \[N, C, H, W\] = {re.escape(str(shape))}; C must be 1 "):
            ArrayImages(torch.zeros(shape, dtype=torch.uint8), images.labels, images.index, "x")
    with pytest.raises(DataError, match=r"^x: 4 images, 3 labels, 4 indices$"):
        ArrayImages(images.pixels, images.labels[1:], images.index, "x")


def test_subset_of_a_subset_keeps_identities():
    whole = arrays([10, 10])
    inner = Subset(Subset(whole, np.array([15, 3, 8, 4])), np.array([2, 0]))
    assert inner.index.tolist() == [8, 15]
    assert inner.labels.tolist() == whole.labels[[8, 15]].tolist()
    assert [int(inner.read(i).max()) for i in range(len(inner))] == [8, 15]
    assert inner.name(1) == "train row 15"
    assert inner.size == (2, 2)


def same(left, right):
    """All that ``Images`` promises is equal."""
    assert len(left) == len(right)
    np.testing.assert_array_equal(left.labels, right.labels)
    np.testing.assert_array_equal(left.index, right.index)
    for position in range(len(left)):
        assert torch.equal(left.read(position), right.read(position))
        assert left.name(position) == right.name(position)


def test_preload_keeps_everything_but_the_files(tmp_path):
    for c, color in (("cat", 50), ("dog", 200)):
        for i in range(5):
            picture(tmp_path / c / f"{i}.png", (color, i, 0))
    train = open_("folder", root=tmp_path, val_fraction=0.2).train
    seen = []
    loaded = preload(train, progress=lambda done, total: seen.append((done, total)))
    assert isinstance(loaded, ArrayImages)
    assert loaded.size == (4, 4)
    same(train, loaded)
    assert seen == [(len(train), len(train))]
    shutil.rmtree(tmp_path / "cat")
    assert int(loaded.read(0)[0, 0, 0]) == 50


def test_preload_gives_up_when_it_must(tmp_path):
    for i in range(4):
        picture(tmp_path / "ab"[i % 2] / f"{i}.png")
    images = open_("folder", root=tmp_path, val_fraction=0).train
    assert preload(images, limit_bytes=4 * 48 - 1) is images
    assert isinstance(preload(images, limit_bytes=4 * 48), ArrayImages)
    picture(tmp_path / "b" / "3.png", size=(5, 4))
    assert preload(images) is images
    (tmp_path / "b" / "3.png").write_bytes(b"")
    assert preload(images) is images
    memory = arrays([2, 2])
    assert preload(memory) is memory


@pytest.mark.parametrize("form", ["array", "folder", "table"])
def test_images_survive_pickling(form, tmp_path, parquet):
    if form == "array":
        train = open_("digits").train
    elif form == "folder":
        for name in ("a/1.png", "a/2.png", "b/1.png", "b/2.png"):
            picture(tmp_path / "f" / name)
        train = open_("folder", root=tmp_path / "f", val_fraction=0).train
    else:
        train = open_("hf", root=parquet).train
    same(train, pickle.loads(pickle.dumps(train)))


# --- sources ---


def test_digits_are_scaled_and_have_a_fixed_test_split():
    from sklearn.datasets import load_digits

    data = load_digits()
    zero, one = open_("digits", seed=0), open_("digits", seed=1)
    assert zero.classes == tuple("0123456789")
    assert zero.note == "1,294 train, 144 val (10 % of train, seed 0), 359 test"
    np.testing.assert_array_equal(zero.test.index, one.test.index)
    assert zero.test.index[:8].tolist() == [9, 11, 13, 14, 17, 20, 27, 34]
    assert not np.array_equal(zero.val.index, one.val.index)
    assert sorted([*zero.train.index, *zero.val.index, *zero.test.index]) == list(range(1797))
    assert abs(np.bincount(zero.test.labels) - np.bincount(data.target) / 5).max() < 1
    for position in (0, 100):
        row = zero.train.index[position]
        expected = np.round(data.images[row] * 255 / 16)
        np.testing.assert_array_equal(zero.train.read(position).numpy(), np.stack([expected] * 3))
        assert zero.train.labels[position] == data.target[row]
    assert zero.train.size == (8, 8)


def test_unknown_sources_and_arguments():
    fails(r"data\.source: unknown source 'digit'; did you mean 'digits'\? sources: .*", "digit")
    fails(r"data\.source: too many positional arguments in 'digits'; write digits\(\)", "digits", 3)
    fails(
        r"data\.source: missing a required argument: 'name' in 'torchvision'; write torchvision\(name, split=None\)",
        "torchvision",
    )
    fails(
        r"data\.source: got an unexpected keyword argument 'root' in 'hf'; "
        r"write hf\(image='image', label='label', train='train', val=None, test='test'\)",
        "hf",
        options={"root": "x"},
    )
    fails(r"data\.source: image=3 in 'hf' must be a string", "hf", 3)


def test_every_source_takes_root_and_download():
    for source in SOURCES.values():
        names = list(inspect.signature(source).parameters)
        assert names[0] == "root"
        assert {"download", "stored"} <= set(names)


# folder


def test_folder_with_given_splits(tmp_path):
    picture(tmp_path / "train/dog/b.JPG", (255, 0, 0))
    picture(tmp_path / "train/dog/deep/er/a.png")
    picture(tmp_path / "train/cat/z.jpeg", (0, 0, 255))
    picture(tmp_path / "train/cat/.hidden.png")
    picture(tmp_path / "train/cat/.trash/x.png")
    (tmp_path / "train/cat/notes.txt").write_text("no image")
    (tmp_path / "train/.git").mkdir()
    picture(tmp_path / "test/dog/t.webp")
    splits = open_("folder", root=tmp_path, val_fraction=0)
    assert splits.classes == ("cat", "dog")
    names = [splits.train.name(i) for i in range(3)]
    assert names == [str(tmp_path / "train" / n) for n in ("cat/z.jpeg", "dog/b.JPG", "dog/deep/er/a.png")]
    assert splits.train.labels.tolist() == [0, 1, 1]
    assert splits.test.labels.tolist() == [1]
    assert splits.train.read(0).amax((1, 2))[2] > 240
    assert splits.train.size is None
    left_out = "left out: 3 hidden, 1 of other kinds (1 .txt)"
    assert splits.note == f"3 train, no val, 1 test; test has no image of 'cat'; {left_out}"


def test_folder_of_class_folders_is_split_by_seed(tmp_path):
    for c in "ab":
        for i in range(10):
            picture(tmp_path / c / f"{i}.png")
    first, again, other = (open_("folder", root=tmp_path, seed=seed) for seed in (3, 3, 4))
    assert (len(first.train), len(first.val), len(first.test)) == (16, 2, 2)
    np.testing.assert_array_equal(first.test.index, again.test.index)
    assert first.test.index.tolist() + first.val.index.tolist() != other.test.index.tolist() + other.val.index.tolist()
    assert isinstance(first.train.images, FolderImages)


def test_folder_errors(tmp_path):
    cure = r"expected root/train/CLASS/.*; say data\.source=folder data\.root=DIR"
    fails(rf"source 'folder' needs data\.root; {cure}", "folder")
    fails(rf"no folder .*gone; {cure}", "folder", root=tmp_path / "gone")
    fails(r"no class folders in .*; expected root/train/CLASS/.*", "folder", root=tmp_path)
    (tmp_path / "train/cat").mkdir(parents=True)
    fails(r"no images in .*train/cat; expected root/train/CLASS/.*", "folder", root=tmp_path)
    picture(tmp_path / "train/cat/1.png")
    fails(rf"a file, not a folder: .*1\.png; {cure}", "folder", root=tmp_path / "train/cat/1.png")
    fails(r"train has only one class \('cat'\); at least two are needed, or .*", "folder", root=tmp_path)
    picture(tmp_path / "train/dog/1.png")
    picture(tmp_path / "val/cow/1.png")
    way = re.escape("""data.source="folder(ignore='cow')\"""")
    fails(rf".*val has classes that train has not: cow; .* say {way}", "folder", root=tmp_path)


def test_a_bad_file_is_named_when_read(tmp_path):
    picture(tmp_path / "a/1.png")
    picture(tmp_path / "b/1.png").write_bytes(b"")
    train = open_("folder", root=tmp_path, val_fraction=0).train
    with pytest.raises(BadImage, match=rf"^{re.escape(str(tmp_path / 'b/1.png'))}: the file is empty"):
        train.read(1)


# Hugging Face


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """The library's cache, away from the user's."""
    import datasets

    folder = tmp_path_factory.mktemp("hf_cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    return folder


def table(n, path=None, names=("cat", "dog"), plain=False, column="image"):
    """A dataset of n PNGs whose pixels all have the row's number."""
    import datasets

    rows = {column: [{"bytes": png(i), "path": None} for i in range(n)], "label": [i % len(names) for i in range(n)]}
    kind = datasets.Value("int64") if plain else datasets.ClassLabel(names=list(names))
    made = datasets.Dataset.from_dict(rows, features=datasets.Features({column: datasets.Image(), "label": kind}))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.to_parquet(str(path))
    return made


def png(value):
    buffer = io.BytesIO()
    Image.new("L", (3, 2), value).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def parquet(tmp_path):
    table(20, tmp_path / "hf/train.parquet")
    table(6, tmp_path / "hf/test.parquet")
    return tmp_path / "hf"


def test_parquet_folder(parquet):
    splits = open_("hf", root=parquet)
    assert splits.classes == ("cat", "dog")
    assert splits.note == "18 train, 2 val (10 % of train, seed 0), 6 test"
    assert isinstance(splits.test, TableImages)
    assert splits.test.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert splits.test.name(5) == "test row 5"
    assert torch.equal(splits.test.read(5), torch.full((3, 2, 3), 5, dtype=torch.uint8))
    for position in range(18):
        assert splits.train.read(position).unique().tolist() == [splits.train.index[position]]
    loaded = preload(splits.train)
    assert isinstance(loaded, ArrayImages)
    same(loaded, splits.train)


def test_a_rewritten_parquet_file_is_read_anew(parquet):
    assert len(open_("hf", root=parquet).test) == 6
    table(8, parquet / "test.parquet")
    assert len(open_("hf", root=parquet).test) == 8


def test_parquet_shards_in_data_and_a_missing_one(tmp_path):
    for shard in range(3):
        table(4, tmp_path / f"data/train-0000{shard}-of-00003.parquet")
    splits = open_("hf", root=tmp_path, val_fraction=0)
    assert len(splits.train) == 12
    assert splits.test is None
    (tmp_path / "data/train-00001-of-00003.parquet").unlink()
    fails(r".*data: split 'train' has 2 of 3 parquet files", "hf", root=tmp_path)


def test_one_parquet_file_and_plain_integers(tmp_path):
    table(12, tmp_path / "all.parquet", names="abc", plain=True)
    splits = open_("hf", root=tmp_path / "all.parquet", val_fraction=0)
    assert splits.classes == ("0", "1", "2")
    assert len(splits.train) == 12


def test_saved_to_disk(tmp_path):
    import datasets

    parts = {"train": table(10, column="img"), "validation": table(4, column="img"), "test": table(2, column="img")}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "dict"))
    parts["train"].select([7, 2, 5, 0]).with_format("numpy", columns=["label"]).save_to_disk(str(tmp_path / "one"))
    splits = open_("hf", "img", root=tmp_path / "dict", options={"val": "validation", "test": None})
    assert (len(splits.train), len(splits.val), splits.test) == (10, 4, None)
    one = open_("hf", "img", root=tmp_path / "one", val_fraction=0)
    assert [int(one.train.read(i).max()) for i in range(4)] == [7, 2, 5, 0]
    assert one.train.labels.tolist() == [1, 0, 1, 0]


def test_hub_names_come_from_the_cache_only(cache, tmp_path):
    import datasets

    table(10, tmp_path / "x/train.parquet")
    datasets.load_dataset("parquet", data_files=str(tmp_path / "x/train.parquet"))
    made = next(cache.glob("parquet/*/*/*/parquet-train.arrow")).parent
    place = cache / "someone___tiny/default/0.0.0" / made.name
    shutil.copytree(made, place)
    for part in list(place.iterdir()):
        part.rename(place / part.name.replace("parquet-", "tiny-"))
    info = json.loads((place / "dataset_info.json").read_text())
    (place / "dataset_info.json").write_text(json.dumps(info | {"dataset_name": "tiny", "config_name": "default"}))
    offline = datasets.config.HF_HUB_OFFLINE
    splits = open_("hf", root="someone/tiny", val_fraction=0)
    assert len(splits.train) == 10
    assert int(splits.train.read(4).max()) == 4
    fails(
        r"no file or folder someone/absent, and no such dataset on the hub or in its cache \(.*\); "
        r"nothing is downloaded unless data\.download=true",
        "hf",
        root="someone/absent",
    )
    assert offline == datasets.config.HF_HUB_OFFLINE


def test_the_hub_is_reached_only_with_download(monkeypatch):
    import datasets
    import huggingface_hub

    def load(name):
        states.append((datasets.config.HF_HUB_OFFLINE, huggingface_hub.constants.HF_HUB_OFFLINE))
        raise ConnectionError("no route\nto the hub")

    states: list = []
    for place in (datasets.config, huggingface_hub.constants):
        monkeypatch.setattr(place, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda url: None)
    fails(r".* in its cache \(no route\); nothing is downloaded unless .*", "hf", root="someone/tiny")
    fails(r".* in its cache \(no route\)", "hf", root="someone/tiny", download=True)
    assert states == [(True, True), (False, False)]


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    """Its client by itself asks six times, and waits between them; what is in the cache is opened all the same."""
    import datasets
    import huggingface_hub

    def load(name):
        states.append(huggingface_hub.constants.HF_HUB_OFFLINE)
        raise ConnectionError("not in the cache")

    def get(url):
        asked.append(url)
        raise OSError("no route to host")

    states, asked = [], []
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", get)
    fails(
        r"someone/tiny is not in the cache and cannot be fetched \(no route to host\); where there is a network, "
        r"datasets\.load_dataset\('someone/tiny'\)\.save_to_disk\('DIR'\) makes a folder to bring here as data\.root",
        "hf",
        root="someone/tiny",
        download=True,
    )
    assert (states, len(asked)) == ([True], 1)


def test_torchvision_without_a_network(monkeypatch, tmp_path):
    import torchvision

    def offline(*arguments, **more):
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    made = r"torchvision\.datasets\.CIFAR10\('DIR', download=True\) makes a folder to bring here as data\.root"
    told = rf"CIFAR10 cannot be opened under .* \(<urlopen error no route to host>\); where there is a network, {made}"
    fails(told, "cifar10", root=tmp_path, download=True)


def test_one_downloads_and_the_others_wait(monkeypatch, tmp_path):
    import torchvision

    inside, most = [], []

    def fetch(*arguments, **more):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()
        raise URLError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", fetch)
    how = {"root": tmp_path, "download": True}
    asked = [threading.Thread(target=fails, args=("CIFAR10 cannot .*", "cifar10"), kwargs=how) for _ in range(3)]
    for each in asked:
        each.start()
    for each in asked:
        each.join()
    assert most == [1, 1, 1]


def write(path, image, label, **extra):
    import datasets

    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict({"image": image, "label": label, **extra}).to_parquet(str(path))
    return path


def test_hugging_face_errors(parquet, tmp_path):
    fails(r"source 'hf' needs data\.root: .*", "hf")
    fails(r"no file or folder .*nowhere", "hf", root=tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    fails(r".*empty has neither train\.parquet .*", "hf", root=tmp_path / "empty")
    fails(
        r"image: unknown column 'img'; did you mean 'image'\? columns: image, label \(source: hf\(image=…\)\)",
        "hf",
        "img",
        root=parquet,
    )
    fails(r"label: unknown column 'coarse'; columns: image, label .*", "hf", root=parquet, options={"label": "coarse"})
    fails(r".*hf: unknown split 'vla'; splits: test, train", "hf", root=parquet, options={"val": "vla"})
    fails(r".*hf: unknown split 'tests'; .*", "hf", root=parquet, options={"test": "tests"})
    table(4, parquet / "test.parquet", names=("dog", "cat"))
    fails(r".*hf: the class names of split 'test' are not those of split 'train'", "hf", root=parquet)
    (parquet / "test.parquet").write_bytes(b"not parquet")
    fails(r".*test\.parquet: cannot be read as parquet \(.*\)", "hf", root=parquet)


def test_a_missing_library_is_named(parquet, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    fails(r"source 'hf' needs the datasets library: pip install 'manyview\[hf\]'", "hf", root=parquet)


def test_labels_that_cannot_be_used_are_named_by_row(tmp_path):
    images = [{"bytes": png(i), "path": None} for i in range(4)]
    path = write(tmp_path / "negative.parquet", images, [0, 1, 1, -2])
    fails(r"train row 3: label -2 is not one of 0 to 1 \(2 classes\), nor .*", "hf", root=path)
    path = write(tmp_path / "text.parquet", images, ["cat", "dog", "cat", "dog"])
    splits = open_("hf", root=path, val_fraction=0)
    assert (splits.classes, splits.train.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1])
    assert splits.note.endswith("labels are names of classes, sorted")
    path = write(tmp_path / "empty.parquet", images, ["cat", "", "cat", "dog"])
    fails(r"train row 1: its label is '' where others are names of classes", "hf", root=path)
    path = write(tmp_path / "half.parquet", images, [0.0, 0.5, None, 1.0])
    fails(r"train row 1: column 'label' holds 0\.5, which is no number of a class", "hf", root=path)
    path = write(tmp_path / "floats.parquet", images, [0.0, 1.0, 0.0, 1.0])
    fails(r"column 'label' of train holds double, not integers; make it a ClassLabel first", "hf", root=path)
    path = write(tmp_path / "numbers.parquet", [1, 2, 3, 4], [0, 1, 0, 1])
    fails(r"column 'image' of train holds .*int64.*, not images", "hf", root=path)


def test_rows_that_cannot_be_decoded_are_named(tmp_path):
    whole = png(1)
    images = [{"bytes": data, "path": None} for data in (whole, whole[:20], b"", None)]
    train = open_("hf", root=write(tmp_path / "x.parquet", images, [0, 1, 0, 1]), val_fraction=0).train
    assert train.read(0).shape == (3, 2, 3)
    for row in (1, 2, 3):
        with pytest.raises(BadImage, match=rf"^train row {row}: "):
            train.read(row)


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="the shared CIFAR-10 is not here")
def test_shared_cifar10_reads_through_its_alias():
    splits = open_("cifar10", root=CIFAR10, limit=100)
    assert splits.note == "100 train (limit 100, seed 0), 5,000 val (10 % of train, seed 0), 10,000 test"
    assert splits.classes[:2] == ("airplane", "automobile")
    assert np.bincount(splits.val.labels).tolist() == [500] * 10
    assert np.bincount(splits.train.labels).tolist() == [10] * 10
    assert all(splits.test.read(row).shape == (3, 32, 32) for row in (0, 9999))
    assert preload(splits.train).size == (32, 32)


# torchvision: each writes the layout that the class reads, two classes, four images a split


SHADES = (10, 90, 170, 250)
LABELS = (0, 1, 0, 1)


def pictures(folder, suffix, names=None):
    for i, shade in enumerate(SHADES):
        picture(folder / f"{names[i] if names else i}{suffix}", (shade, shade, shade))


def unchecked(monkeypatch):
    """Our small files do not have the published checksums."""
    for module in ("cifar", "stl10", "svhn", "flowers102"):
        monkeypatch.setattr(
            f"torchvision.datasets.{module}.check_integrity", lambda path, md5=None: Path(path).is_file()
        )


def write_cifar(root, monkeypatch):
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    unchecked(monkeypatch)
    pixels = np.repeat(np.array(SHADES, np.uint8), 3072).reshape(4, 3072)
    pixels[:, :512] += 1  # red's upper half differs, so that a wrong order of axes shows
    for part in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        (folder / part).write_bytes(pickle.dumps({"data": pixels, "labels": list(LABELS)}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))


def write_mnist(root, monkeypatch):
    folder = root / "MNIST/raw"
    folder.mkdir(parents=True)
    pixels = np.repeat(np.array(SHADES, np.uint8), 6).tobytes()
    for part in ("train", "t10k"):
        header = b"".join(n.to_bytes(4, "big") for n in (0x803, 4, 2, 3))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + pixels)
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(
            (0x801).to_bytes(4, "big") + (4).to_bytes(4, "big") + bytes(LABELS)
        )


def write_svhn(root, monkeypatch):
    from scipy.io import savemat

    unchecked(monkeypatch)
    pixels = np.broadcast_to(np.array(SHADES, np.uint8), (32, 32, 3, 4))
    for part in ("train", "test"):
        savemat(root / f"{part}_32x32.mat", {"X": pixels, "y": np.array([[10], [1], [10], [1]])})


def write_stl10(root, monkeypatch):
    folder = root / "stl10_binary"
    folder.mkdir()
    unchecked(monkeypatch)
    for part in ("train", "test"):
        (folder / f"{part}_X.bin").write_bytes(np.repeat(np.array(SHADES, np.uint8), 3 * 96 * 96).tobytes())
        (folder / f"{part}_y.bin").write_bytes(bytes(label + 1 for label in LABELS))
    (folder / "unlabeled_X.bin").touch()
    (folder / "class_names.txt").write_text("cat\ndog\n")


def write_food101(root, monkeypatch):
    names = ["cat/0", "dog/1", "cat/2", "dog/3"]
    pictures(root / "food-101/images", ".jpg", names)
    (root / "food-101/meta").mkdir()
    for part in ("train", "test"):
        by_class = {c: [n for n in names if n.startswith(c)] for c in ("cat", "dog")}
        (root / f"food-101/meta/{part}.json").write_text(json.dumps(by_class))


def write_pets(root, monkeypatch):
    names = ["cat_0", "dog_1", "cat_2", "dog_3"]
    pictures(root / "oxford-iiit-pet/images", ".jpg", names)
    (root / "oxford-iiit-pet/annotations").mkdir()
    for part in ("trainval", "test"):
        lines = [f"{n} {label + 1} 1 1\n" for n, label in zip(names, LABELS, strict=True)]
        (root / f"oxford-iiit-pet/annotations/{part}.txt").write_text("".join(lines))


def write_gtsrb(root, monkeypatch):
    pictures(root / "gtsrb/GTSRB/Training", ".ppm", ["00000/0", "00001/1", "00000/2", "00001/3"])
    pictures(root / "gtsrb/GTSRB/Final_Test/Images", ".ppm")
    rows = [f"{i}.ppm;{label}" for i, label in enumerate(LABELS)]
    (root / "gtsrb/GT-final_test.csv").write_text("\n".join(["Filename;ClassId", *rows]))


def write_dtd(root, monkeypatch):
    names = ["cat/0", "dog/1", "cat/2", "dog/3"]
    pictures(root / "dtd/dtd/images", ".jpg", names)
    (root / "dtd/dtd/labels").mkdir()
    for part in ("train", "val", "test"):
        (root / f"dtd/dtd/labels/{part}1.txt").write_text("\n".join(f"{n}.jpg" for n in names))


def write_eurosat(root, monkeypatch):
    pictures(root / "eurosat/2750", ".jpg", ["cat/0", "dog/1", "cat/2", "dog/3"])


def write_imagenette(root, monkeypatch):
    for part in ("train", "val"):
        wnids = ("n01440764", "n02102040")
        pictures(root / f"imagenette2/{part}", ".JPEG", [f"{wnids[label]}/{i}" for i, label in enumerate(LABELS)])


def write_country211(root, monkeypatch):
    for part in ("train", "valid", "test"):
        pictures(root / f"country211/{part}", ".jpg", ["AD/0", "AE/1", "AD/2", "AE/3"])


def write_aircraft(root, monkeypatch):
    data = root / "fgvc-aircraft-2013b/data"
    pictures(data / "images", ".jpg")
    (data / "variants.txt").write_text("707 A\n747\n")
    for part in ("train", "val", "test"):
        lines = [f"{i} {('707 A', '747')[label]}" for i, label in enumerate(LABELS)]
        (data / f"images_variant_{part}.txt").write_text("\n".join(lines))


def write_cars(root, monkeypatch):
    from scipy.io import savemat

    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    rows = np.array([(f"{i}.jpg", label + 1) for i, label in enumerate(LABELS)], dtype=[("fname", "O"), ("class", "O")])
    for part, place in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        pictures(folder / f"cars_{part}", ".jpg")
        savemat(folder / place, {"annotations": rows})
    savemat(folder / "devkit/cars_meta.mat", {"class_names": np.array(["cat", "dog"], dtype=object)})


def write_flowers(root, monkeypatch):
    from scipy.io import savemat

    unchecked(monkeypatch)
    folder = root / "flowers-102"
    pictures(folder / "jpg", ".jpg", [f"image_{i:05d}" for i in range(1, 5)])
    savemat(folder / "imagelabels.mat", {"labels": np.array([label + 1 for label in LABELS])})
    savemat(folder / "setid.mat", {key: np.arange(1, 5) for key in ("trnid", "valid", "tstid")})


WRITERS = {
    "CIFAR10": write_cifar,
    "Country211": write_country211,
    "DTD": write_dtd,
    "EuroSAT": write_eurosat,
    "FGVCAircraft": write_aircraft,
    "Flowers102": write_flowers,
    "Food101": write_food101,
    "GTSRB": write_gtsrb,
    "Imagenette": write_imagenette,
    "MNIST": write_mnist,
    "OxfordIIITPet": write_pets,
    "STL10": write_stl10,
    "SVHN": write_svhn,
    "StanfordCars": write_cars,
}


@pytest.mark.parametrize("name", WRITERS)
def test_torchvision_layouts(name, tmp_path, monkeypatch):
    WRITERS[name](tmp_path, monkeypatch)
    splits = open_("torchvision", name.lower(), root=tmp_path, val_fraction=0)
    given = DATASETS[name][0]
    assert (splits.val is not None, splits.test is not None) == ("val" in given, "test" in given)
    for part in (splits.train, splits.val, splits.test):
        if part is None:
            continue
        assert len(part) == (20 if name == "CIFAR10" and part is splits.train else 4)
        seen = {int(part.read(i)[2].float().mean().round()): int(part.labels[i]) for i in range(4)}
        assert seen == dict(zip(SHADES, LABELS, strict=True))
        assert part.index.tolist() == list(range(len(part)))
    assert len(splits.classes) == (102 if name == "Flowers102" else 10 if name == "MNIST" else 2)
    if isinstance(splits.train, ArrayImages):
        assert splits.train.name(1) == f"{name} train row 1"
    else:
        assert torch.equal(splits.train.read(1), decode(Path(splits.train.name(1)), "x"))


def test_torchvision_without_a_test_split_gives_one(tmp_path):
    write_eurosat(tmp_path, None)
    assert open_("torchvision", "EuroSAT", root=tmp_path, val_fraction=0.25).note == (
        "2 train, 1 val (25 % of all images, seed 0), 1 test (25 % of all images, seed 0)"
    )


def test_torchvision_arrays_have_their_axes_in_order(tmp_path, monkeypatch):
    write_cifar(tmp_path, monkeypatch)
    train = open_("cifar10", root=tmp_path, val_fraction=0).train
    expected = torch.full((3, 32, 32), SHADES[0], dtype=torch.uint8)
    expected[0, :16] += 1
    assert torch.equal(train.read(0), expected)
    assert train.size == (32, 32)


@pytest.mark.parametrize("name", DATASETS)
def test_torchvision_table_fits_the_installed_classes(name):
    import torchvision.datasets

    signature = inspect.signature(getattr(torchvision.datasets, name))
    for arguments in DATASETS[name][0].values():
        signature.bind("root", download=False, **arguments)
    assert next(iter(DATASETS[name][0])) == "train"


def test_torchvision_errors(tmp_path):
    fails(r"unknown torchvision dataset 'cifar11'; did you mean 'cifar10+'\? .*: cifar10, .*", "torchvision", "CIFAR11")
    fails(r"CIFAR10 needs data\.root: .*", "cifar10")
    for source, name in (("food101", "Food101"), ("svhn", "SVHN"), ("stl10", "STL10"), ("cifar100", "CIFAR100")):
        fails(
            rf"{name} cannot be opened under {re.escape(str(tmp_path))} \(Dataset not found( or corrupted)?\); "
            r"nothing is downloaded unless data\.download=true",
            source,
            root=tmp_path,
        )
    write_food101(tmp_path, None)
    (tmp_path / "food-101/meta/test.json").write_text("{")
    fails(r"Food101 cannot be opened under .*", "food101", root=tmp_path)


def test_alias_prefers_parquet_in_its_root(parquet):
    splits = open_("cifar100", root=parquet)
    assert splits.classes == ("cat", "dog")
    assert splits.note.endswith(", 6 test")
