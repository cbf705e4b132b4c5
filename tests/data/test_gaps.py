"""Data in which some images have labels and some have not: gaps in a column, lists, two folders."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import manyview
from commands import contents, one_line
from commands import manyview as command
from manyview.data import open_splits
from manyview.data.twins import tell_twins
from manyview.errors import DataError, ManyviewWarning

RECIPE = """
data: {source: folder, unlabeled: rest, val_fraction: 0}
views:
  x: {from: image}
  u: {from: unlabeled}
branches: {net: {backbone: "test_vit(img_size=8, patch_size=4)", normalize: half}}
relations:
  - cross_entropy(logits(x))
  - pseudo_label(logits(u), toward=stop(logits(u)))
train: {steps: 1, batch_size: 2, unlabeled_per_labeled: 1}
"""
GAPS = [0, None, 1, 1, None, 0]


def opened(*overrides):
    recipe = manyview.parse_recipe(RECIPE, *overrides)
    return open_splits(recipe.data, 0)


def photos(folder: Path, names) -> list[np.ndarray]:
    """A PNG for each name; their pixels."""
    drawn = np.random.default_rng(len(list(names))).integers(256, size=(len(names), 8, 8, 3), dtype=np.uint8)
    for name, pixels in zip(names, drawn, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / name)
    return list(drawn)


def table(path: Path, labels) -> Path:
    """A parquet file as the datasets library writes it; labels: a list, or an array of Arrow's."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    photos(path.parent / "of_table", [f"{n}.png" for n in range(len(labels))])
    data = [(path.parent / "of_table" / f"{n}.png").read_bytes() for n in range(len(labels))]
    images = datasets.Dataset.from_dict({"image": [{"bytes": each, "path": None} for each in data]}).data["image"]
    pq.write_table(pa.table({"image": images.combine_chunks(), "label": pa.array(labels)}), path)
    return path


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (GAPS, ("0", "1")),
        ([-1 if label is None else label for label in GAPS], ("0", "1")),
        ([None if label is None else float(label) for label in GAPS], ("0", "1")),  # as pandas has gaps
        ([float("nan") if label is None else float(label) for label in GAPS], ("0", "1")),
        ([None if label is None else "ab"[label] for label in GAPS], ("a", "b")),
    ],
    ids=["null", "minus one", "float null", "nan", "names"],
)
def test_a_column_with_gaps(tmp_path, labels, classes):
    splits = opened("data.source=hf", f"data.root={table(tmp_path / 'train.parquet', labels)}")
    assert splits.classes == classes
    assert splits.train.index.tolist() == [0, 2, 3, 5]
    assert splits.train.labels.tolist() == [0, 1, 1, 0]
    assert splits.unlabeled.index.tolist() == [1, 4]
    assert splits.unlabeled.labels.tolist() == splits.withheld.tolist() == [-1, -1]


def test_a_column_of_gaps_alone_has_no_labels(tmp_path):
    root = table(tmp_path / "train.parquet", [None] * 4)
    other = table(tmp_path / "labelled.parquet", [0, 1, 0, 1])
    splits = opened("data.source=hf", f"data.root={other}", "data.unlabeled=hf", f"data.unlabeled_root={root}")
    assert splits.counts == {"image": 4, "unlabeled": 4}
    assert splits.withheld is None
    with pytest.raises(DataError, match="no image of train has a label, for the stream beside it"):
        opened("data.source=hf", f"data.root={root}")


def test_a_gap_where_labels_are_learnt_or_judged_is_told(tmp_path):
    """Labels were asked of all: a line says how many have none; test images without one are left out, and counted."""
    folder = tmp_path / "tables"
    folder.mkdir()
    table(folder / "train.parquet", GAPS)
    table(folder / "test.parquet", GAPS)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        RECIPE.replace("  u: {from: unlabeled}\n", "")
        .replace("  - pseudo_label(logits(u), toward=stop(logits(u)))\n", "")
        .replace(", unlabeled: rest", "")
        .replace(", unlabeled_per_labeled: 1", "")
    )
    line = one_line(*command("train", recipe, "data.source=hf", f"data.root={folder}", "--out", tmp_path / "run"))
    assert line == (
        "relations: cross_entropy(logits(x)) needs labels, and 2 of 6 training images have none (data: 6 train "
        "of which 2 without labels, no val, 4 test (2 without a label left out))"
    )


LISTS = {
    "csv": ("train.csv", "image,label\r\na/0.png,cat\r\nb/1.png,\r\na/2.png,dog\r\n\r\n3.png,-1\r\n"),
    "other names": ("train.csv", '\ufefffile,class,note\na/0.png,cat,"x, y"\nb/1.png,,\na/2.png,dog,\n3.png,,\n'),
    "tsv": ("train.tsv", "label\tpath\ncat\ta/0.png\n\tb/1.png\ndog\ta/2.png\n\t3.png\n"),
    "numbers": ("train.csv", "image,label\na/0.png,0\nb/1.png,-1\na/2.png,1\n3.png,\n"),
}
NAMES = ["a/0.png", "b/1.png", "a/2.png", "3.png"]


@pytest.mark.parametrize("case", LISTS)
def test_a_list_with_gaps(tmp_path, case):
    pixels = photos(tmp_path, NAMES)
    name, text = LISTS[case]
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    splits = opened(f"data.source=listed('{name}')", f"data.root={tmp_path}")
    assert splits.classes == (("0", "1") if case == "numbers" else ("cat", "dog"))
    assert splits.train.labels.tolist() == [0, 1]
    assert splits.train.index.tolist() == [0, 2]
    assert splits.unlabeled.index.tolist() == [1, 3]
    assert torch.equal(splits.unlabeled.read(1), torch.from_numpy(pixels[3]).permute(2, 0, 1))
    assert splits.unlabeled.name(0) == str(tmp_path / "b/1.png")


def test_lists_of_all_splits_and_of_the_stream(tmp_path):
    photos(tmp_path, NAMES)
    (tmp_path / "some.csv").write_text("image,label\na/0.png,1\na/2.png,0\n")
    (tmp_path / "test.csv").write_text("image,label\nb/1.png,1\n")
    (tmp_path / "more.txt").write_text("b/1.png\n3.png\n")
    source = "data.source=listed('some.csv', test='test.csv')"
    splits = opened(source, f"data.root={tmp_path}", "data.unlabeled=listed('more.txt')")
    assert splits.note == "2 train, 2 unlabeled (listed('more.txt')), no val, 1 test"
    assert splits.train.labels.tolist() == [1, 0]
    assert splits.test.labels.tolist() == [1]
    assert splits.unlabeled.name(1) == str(tmp_path / "3.png")


BAD_LISTS = {
    "no list": ("other.csv", "", "no list .*train.csv .No such file or directory.; it is looked for in data.root; "),
    "kind": ("train.json", "[]", r"train\.json: a list is a \.csv or \.tsv"),
    "no header": ("train.csv", "a/0.png,cat\na/2.png,dog\n", "the first line has 'a/0.png' and 'cat'; one column "),
    "empty": ("train.csv", "", "the first line has nothing"),
    "no row": ("train.csv", "image,label\n", "names no image"),
    "fields": ("train.csv", "image,label\na/0.png,cat\na/2.png\n", "line 3 has 1 fields, and the first line has 2"),
    "missing": ("train.csv", "image,label\na/0.png,cat\nb.png,dog\nc.png,dog\n", "line 3: no file .*b.png .1 more: c"),
    "twice": ("train.csv", "image,label\na/0.png,cat\n./a/0.png,dog\n", r"line 3: \./a/0.png stands in .*line 2 alre"),
    "above": (
        "train.csv",
        "image,label\na/0.png,cat\na/../../key,dog\n",
        r"line 3: a/\.\./\.\./key leads out of data\.root",
    ),
    "elsewhere": (
        "train.csv",
        "image,label\n/etc/passwd,cat\n",
        "line 2: /etc/passwd leads out of data.root; set data",
    ),
    "no path": ("train.csv", "image,label\na/0.png,cat\n,dog\n", "line 3: no path"),
    "two labels": ("train.csv", "image,target,class\na/0.png,1,1\n", "several columns of labels, 'target' and 'class'"),
    "number": ("train.csv", "image,label\na/0.png,0\na/2.png,-2\n", "label -2 is not one of 0 to 0"),
    "quote": ("train.csv", 'image,label\n"a/0.png,cat\n', "line 2: unexpected end of data"),
    "labels in txt": ("train.txt", "a/0.png 0\n", r"line 1: no file .*; a \.txt has no labels"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_a_bad_list_is_one_line(tmp_path, case):
    photos(tmp_path, NAMES)
    name, text, told = BAD_LISTS[case]
    (tmp_path / name).write_text(text)
    asked = "train.csv" if case == "no list" else name
    with pytest.raises(DataError, match=told) as error:
        opened(f"data.source=listed('{asked}')", f"data.root={tmp_path}")
    assert "\n" not in str(error.value)


def test_a_list_without_its_column_or_root(tmp_path):
    photos(tmp_path, NAMES)
    (tmp_path / "train.csv").write_text("image,label\na/0.png,cat\n")
    with pytest.raises(DataError, match="label: unknown column 'kind'; columns: image, label"):
        opened("data.source=listed('train.csv', label='kind')", f"data.root={tmp_path}")
    with pytest.raises(DataError, match=r"needs data\.root"):
        opened("data.source=listed('train.csv')")


def test_two_folders(tmp_path):
    """Class folders in one place, and a pile in another."""
    photos(tmp_path / "photos", [f"{kind}/{n}.png" for kind in "ab" for n in range(3)])
    pixels = photos(tmp_path / "more", [f"x/{n}.png" for n in range(5)])
    pile = ("data.unlabeled=folder(labels=None)", f"data.unlabeled_root={tmp_path / 'more'}")
    splits = opened(f"data.root={tmp_path / 'photos'}", *pile)
    assert splits.counts == {"image": 6, "unlabeled": 5}
    assert torch.equal(splits.unlabeled.read(4), torch.from_numpy(pixels[4]).permute(2, 0, 1))
    split = tmp_path / "split"
    photos(split, [f"{part}/x/{n}.png" for part in ("train", "test") for n in range(2)])
    note = opened(f"data.root={tmp_path / 'photos'}", pile[0], f"data.unlabeled_root={split}").note
    assert note == "6 train, 2 unlabeled (folder(labels=None)), no val, no test; unlabeled: its test left out"
    message = r"^the stream unlabeled: no folder .*nowhere.*say data\.unlabeled=folder data\.unlabeled_root=DIR$"
    with pytest.raises(DataError, match=message):
        opened(f"data.root={tmp_path / 'photos'}", pile[0], f"data.unlabeled_root={tmp_path / 'nowhere'}")


@pytest.mark.parametrize("place", ["train/unlabeled", "unlabeled"])
def test_a_pile_beside_folders_of_classes(tmp_path, place):
    """In the root, or among train's classes; the labelled images are those without it, by number and name."""
    photos(tmp_path, [f"{split}/{kind}/{n}.png" for split in ("train", "test") for kind in "ab" for n in range(3)])
    source = f"data.root={tmp_path}"
    alone = opened(source, "data.unlabeled=all").train
    pixels = photos(tmp_path / place, ["deep/er/0.png", "1.png"])
    splits = opened(source, "data.source=folder(unlabeled='unlabeled')")
    assert splits.classes == ("a", "b")
    assert splits.note == "6 train, 2 unlabeled (rest), no val, 6 test"
    assert splits.train.index.tolist() == alone.index.tolist()
    assert [splits.train.name(n) for n in range(6)] == [alone.name(n) for n in range(6)]
    assert {splits.unlabeled.name(n) for n in range(2)} == {
        str(tmp_path / place / "1.png"),
        str(tmp_path / place / "deep/er/0.png"),
    }
    found = next(n for n in range(2) if splits.unlabeled.name(n).endswith("er/0.png"))
    assert torch.equal(splits.unlabeled.read(found), torch.from_numpy(pixels[0]).permute(2, 0, 1))
    everything = opened(source, "data.source=folder(unlabeled='unlabeled')", "data.unlabeled=all").unlabeled
    assert len(everything) == 8
    left_out = opened(source, "data.source=folder(ignore='unlabeled')", "data.unlabeled=all")
    assert len(left_out.unlabeled) == 6


def test_a_pile_that_is_taken_for_a_class_is_told(tmp_path):
    photos(tmp_path, [f"{kind}/{n}.png" for kind in ("a", "b", "Unlabelled") for n in range(3)])
    told = "'Unlabelled' is a class here (else say folder(unlabeled='Unlabelled'))"
    assert told in opened(f"data.root={tmp_path}", "data.unlabeled=all").note
    assert told not in opened(f"data.root={tmp_path}", "data.source=folder(unlabeled='Unlabelled')").note
    with pytest.raises(DataError, match=r"unlabeled='more' names a folder, and .* has none of that name"):
        opened(f"data.root={tmp_path}", "data.source=folder(unlabeled='more')")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no images in .*empty, which unlabeled='empty' names"):
        opened(f"data.root={tmp_path}", "data.source=folder(unlabeled='empty')")


def test_no_image_without_a_label_is_one_line(tmp_path):
    photos(tmp_path / "photos", [f"{kind}/{n}.png" for kind in "ab" for n in range(3)])
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    before = contents(tmp_path)
    said = ("train", tmp_path / "recipe.yaml", f"data.root={tmp_path / 'photos'}", "--out", tmp_path / "run")
    line = one_line(*command(*said))
    assert line.startswith("data.unlabeled=rest: every training image keeps its label, so none is left")
    assert contents(tmp_path) == before


def test_a_stream_of_the_folder_that_is_judged_by_is_told(tmp_path):
    """Without a place of its own, a source of the stream reads data.root, val and test among it."""
    photos(tmp_path, [f"{kind}/{n}.png" for kind in "ab" for n in range(10)])
    splits = opened(f"data.root={tmp_path}", "data.unlabeled=folder(labels=None)", "data.val_fraction=0.2")
    assert (len(splits.unlabeled), len(splits.val), len(splits.test)) == (20, 4, 4)
    with pytest.warns(ManyviewWarning) as told:
        tell_twins(splits)
    lines = [str(each.message) for each in told]
    assert len(lines) == 2
    assert lines[0].startswith("data: of 4 val images, 4 are in unlabeled too, byte for byte (")
    assert lines[0].endswith("so val was trained on, if without its labels; leave copies out")
