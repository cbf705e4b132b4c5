"""What a look through a data set finds."""

import json
import shutil
import time

import datasets
import numpy as np
import pytest
from PIL import Image

from commands import done, manyview, png
from manyview.data.check import check_source
from manyview.data.splits import RawSplits
from subjects import pictures


@pytest.fixture
def odd(tmp_path):
    """Two classes, of which one has a single image; copies, and files that are none."""
    root = tmp_path / "odd"
    for number in range(4):
        png(root / f"train/cat/{number}.png", (8, 6 + number), seed=number)
    png(root / "train/dog/alone.png", (5, 30), seed=9)
    png(root / "test/cat/5.png", seed=20)
    png(root / "test/dog/6.png", seed=21)
    return root


def found(root, *options):
    code, out, err = manyview("data", "check", "folder", f"data.root={root}", "--json", *options)
    assert err == ""
    read = json.loads(out)
    assert code == (0 if read["ok"] else 1)
    return read


def kinds(read):
    return sorted(finding["kind"] for finding in read["findings"])


def test_nothing_odd(odd):
    png(odd / "train/dog/another.png", seed=10)
    read = found(odd, "--workers", "2")
    assert (read["findings"], read["images"], read["classes"]) == ([], {"train": 6, "test": 2}, 2)
    assert read["sizes"]["train"] == {"height": [5, 8, 16], "width": [6, 9, 30]}
    assert done("data", "check", "folder", f"data.root={odd}").splitlines()[-1] == "8 images, 2 classes: nothing odd"


def test_all_that_is_odd_is_found_and_named(odd):
    (odd / "train/cat/torn.jpg").write_bytes(b"\xff\xd8\xff torn")
    (odd / "train/cat/empty.png").touch()
    shutil.copy(odd / "train/cat/0.png", odd / "train/cat/0 again.png")
    Image.open(odd / "train/cat/1.png").save(odd / "test/cat/other.bmp")  # the same pixels in another format
    shutil.copy(odd / "test/dog/6.png", odd / "train/cat/6.png")
    for workers in (0, 2):
        read = found(odd, "--workers", workers)
        assert kinds(read) == ["class of one image", *["duplicate"] * 3, "two labels", *["unreadable"] * 2]
    told = {finding["told"].replace(str(odd), "") for finding in read["findings"]}
    assert "the same picture within train: train /train/cat/0 again.png, train /train/cat/0.png" in told
    assert "the same picture in train and test: train /train/cat/1.png, test /test/cat/other.bmp" in told
    assert "one picture with several labels: train /train/cat/6.png is 0, test /test/dog/6.png is 1" in told
    assert "/train/cat/empty.png: the file is empty (0 bytes)" in told
    assert "train has one image alone of 1 class: dog" in told
    code, out, err = manyview("data", "check", "folder", f"data.root={odd}")
    assert (code, err) == (1, "")
    assert out.splitlines()[-1].endswith("2 classes: 7 findings")


class Slow:
    """Images of which one keeps whoever reads it."""

    def __init__(self, images):
        self.images, self.labels, self.index = images, images.labels, images.index

    def __len__(self):
        return len(self.images)

    def read(self, position, scale=1):
        if position == 5:
            time.sleep(60)
        return self.images.read(position)

    def name(self, position):
        return f"picture {position}"


def test_an_image_that_keeps_a_decoder_is_named_and_the_others_are_looked_at():
    raw = RawSplits(Slow(pictures(70, classes=2)), None, None, ("a", "b"), carve_test=True)
    found = check_source(raw, workers=1, patience=0.5).findings
    assert [each.told for each in found] == ["picture 5: reading it took longer than 0.5 s"]


def test_labels_that_name_no_class_and_classes_without_images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 6, 3), dtype=np.uint8)
    table = datasets.Dataset.from_dict({"image": [Image.fromarray(each) for each in pixels], "label": [0, 0, 7, -1, 2]})
    table = table.cast_column("image", datasets.Image())
    features = table.features.copy()
    features["label"] = datasets.ClassLabel(names=["a", "b", "c"])
    table.info.features = features
    code, out, err = checked(tmp_path, table)
    assert (code, err) == (1, "")
    assert "label out of range: 1\n  train train row 2: label 7 is none of the 3 classes, nor -1\n" in out
    assert "empty class: 1\n  train has no image of 1 class: b\n" in out
    assert "class of one image: 1\n  train has one image alone of 1 class: c\n" in out


def checked(folder, table):
    table.to_parquet(folder / "train.parquet")
    return manyview("data", "check", "hf", f"data.root={folder}", "--workers", "0")


def test_what_is_no_source_is_one_line():
    code, out, err = manyview("data", "check", "photos")
    assert (code, out) == (2, "")
    assert err.startswith("manyview: data.source: unknown source 'photos'")
