"""Images without labels: how they are read, split and counted, trained on, and refused where labels are needed."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from test_sources import (
    SHADES,
    Spec,
    arrays,
    cache,  # noqa: F401
    fails,
    open_,
    png,
    same,
    table,
    unchecked,
    write_cifar,
    write_stl10,
    write_svhn,
)

from commands import contents, done, manyview, one_line
from manyview.data import ArrayImages, RawSplits, Subset, check_labels, hold_out, labelled, make_splits
from manyview.data.loader import Batches
from manyview.errors import DataError
from manyview.load import parse_recipe
from manyview.step import Step
from manyview.training.run import Run


def part(*labels, split="train"):
    """Images with these labels; pixel values tell the position."""
    pixels = torch.arange(len(labels)).to(torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2).contiguous()
    return ArrayImages(pixels, np.array(labels, dtype=np.int64), np.arange(len(labels)), split)


def mixed(*counts, bare):
    """`counts[c]` images of class c and `bare` without a label, shuffled."""
    values = np.repeat(np.arange(-1, len(counts)), (bare, *counts))
    return part(*np.random.default_rng(0).permutation(values))


def split(train, val=None, test=None, classes="abc", carve_test=False, seed=0, **choice):
    return make_splits(RawSplits(train, val, test, tuple(classes), carve_test), Spec(**choice), seed)


def counts(images):
    return np.bincount(images.labels + 1).tolist()


def refused(line, call, *args, **kwargs):
    with pytest.raises(DataError) as caught:
        call(*args, **kwargs)
    assert re.fullmatch(line, str(caught.value)), str(caught.value)


def photo(path, shade=0, size=16):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (shade, shade, shade)).save(path)
    return path


# --- splits ---


def test_val_and_test_are_held_out_of_the_labelled():
    splits = split(mixed(40, 20, 10, bare=300), carve_test=True)
    assert [counts(images) for images in (splits.train, splits.val, splits.test)] == [
        [300, 32, 16, 8],
        [0, 4, 2, 1],
        [0, 4, 2, 1],
    ]
    everything = [*splits.train.index, *splits.val.index, *splits.test.index]
    assert sorted(everything) == list(range(370))
    assert (np.diff(splits.train.index) > 0).all()
    how = "(10 % of all labelled images, seed 0)"
    assert splits.note == f"356 train of which 300 without labels, 7 val {how}, 7 test {how}"


def test_the_unlabelled_do_not_change_what_is_held_out_or_thinned():
    train = mixed(40, 20, 10, bare=300)
    alone = labelled(train)
    for choice in ({}, {"labels_per_class": 5}, {"imbalance": 4}):
        left, right = split(train, **choice), split(alone, **choice)
        assert left.val.index.tolist() == right.val.index.tolist()
        assert labelled(left.train).index.tolist() == right.train.index.tolist()
        assert set(left.train.index[left.train.labels < 0]) == set(train.index[train.labels < 0])


def test_without_any_label_nothing_is_held_out():
    train = mixed(bare=50)
    splits = split(train, classes="", carve_test=True, limit=30)
    assert splits.note == "30 train without labels (limit 30, seed 0), no val, no test"
    assert splits.classes == ()
    assert len(splits.train) == 30
    assert split(train, classes="").train is train


def test_limit_gives_the_unlabelled_their_share():
    splits = split(mixed(40, 20, 10, bare=30), val_fraction=0, limit=10)
    assert counts(splits.train) == [3, 4, 2, 1]
    assert splits.note == "10 train of which 3 without labels (limit 10, seed 0), no val, no test"
    line = r"data\.limit is 3, fewer than the 4 classes and the unlabelled together; give each at least one image"
    refused(line, split, mixed(40, 20, 10, bare=30), limit=3)


@pytest.mark.parametrize("choice", ["labels_per_class", "imbalance"])
def test_choices_about_classes_need_classes(choice):
    line = rf"data\.{choice} is about classes, but no training image has a label; use data\.limit"
    refused(line, split, mixed(bare=9), classes="", **{choice: 1})


def test_given_splits_that_judge_keep_their_labelled_images():
    val, test = part(0, -1, 1, 2, -1), part(-1, -1, split="test")
    splits = split(mixed(5, 5, 5, bare=0), val=val, test=test)
    assert splits.val.labels.tolist() == [0, 1, 2]
    assert splits.val.index.tolist() == [0, 2, 3]
    assert splits.test is test
    assert splits.note == "15 train, 3 val (2 without a label left out), 2 test without labels"


def test_labels_that_are_neither_a_class_nor_none():
    line = r"train row 1: label -2 is not one of 0 to 2 \(3 classes\), nor -1 \(no label\)"
    refused(line, split, part(0, -2, 1))
    refused(r"train row 2: label 0 is not -1 \(no label\)", split, part(-1, -1, 0), classes="")
    refused(r"train has only one class \('b'\); at least two are needed, .*", split, part(-1, 1, 1, -1))


def test_hold_out_of_labelled_images_is_what_it_was():
    # published splits: these are the positions that this library gave before it knew unlabelled images
    labels = np.arange(40) % 4
    assert hold_out(labels, 8, 0, "val")[1].tolist() == [1, 12, 16, 17, 19, 26, 27, 38]
    sparse = hold_out(labels * 5, 8, 0, "val")[1]
    assert sparse.tolist() == [1, 12, 16, 17, 19, 26, 27, 38]


def test_labelled_is_a_subset_or_the_images_themselves():
    train = part(-1, 2, -1, 0)
    assert labelled(train).labels.tolist() == [2, 0]
    assert labelled(train).index.tolist() == [1, 3]
    assert int(labelled(train).read(1).max()) == 3
    assert isinstance(labelled(train), Subset)
    full = arrays([2, 2])
    assert labelled(full) is full
    assert len(labelled(part(-1, -1))) == 0


# --- check_labels ---

LEARNS, JUDGES = ["cross_entropy(logits(a))"], ["knn(k=5)"]


def test_check_labels_passes_what_needs_none():
    bare = split(mixed(bare=20), classes="")
    check_labels(bare, [], [])
    check_labels(split(mixed(bare=20), classes="", val_fraction=0), [], JUDGES)  # there is nothing to judge
    check_labels(split(mixed(9, 9, 9, bare=20)), [], JUDGES)
    check_labels(split(mixed(9, 9, 9, bare=0)), LEARNS, JUDGES)


def test_check_labels_refuses_relations_that_learn_from_them():
    line = r"relations: cross_entropy\(logits\(a\)\) needs labels, and there are none \(data: 20 train without .*"
    refused(line, check_labels, split(mixed(bare=20), classes=""), LEARNS, [])
    line = r"relations: cross_entropy\(logits\(a\)\) needs labels, and 20 of 44 training images have none \(.*\)"
    refused(line, check_labels, split(mixed(9, 9, 9, bare=20)), LEARNS, [])


def test_check_labels_refuses_protocols_with_nothing_to_compare():
    hint = r"\(data: .*\); drop the protocol, as in evaluate=\[\], or the split"
    line = r"evaluate: knn\(k=5\) compares with labels, and {} has none " + hint
    check_labels(split(mixed(bare=20), classes=""), [], JUDGES)  # nothing is held out, so nothing is measured
    refused(line.format("train"), check_labels, split(mixed(bare=20), test=part(0, 1)), [], JUDGES)
    splits = split(mixed(9, 9, 9, bare=20), test=part(-1, -1))
    refused(line.format("test"), check_labels, splits, [], JUDGES)
    check_labels(splits, [], JUDGES, judged=("val",))


# --- folder ---


def test_images_directly_in_the_root_are_unlabelled(tmp_path):
    for number in (3, 1, 2):
        photo(tmp_path / f"{number}.png", number)
    (tmp_path / "notes.txt").write_text("no image")
    photo(tmp_path / ".hidden.png")
    (tmp_path / "empty").mkdir()
    splits = open_("folder", root=tmp_path, val_fraction=0)
    assert splits.classes == ()
    assert [splits.train.name(row) for row in range(3)] == [str(tmp_path / f"{n}.png") for n in (1, 2, 3)]
    assert splits.train.labels.tolist() == [-1, -1, -1]
    assert int(splits.train.read(2).max()) == 3
    left_out = "left out: 1 hidden, 1 of other kinds (1 .txt)"
    assert splits.note == f"3 train without labels, no val, no test; no class folders; {left_out}"


def test_loose_images_beside_class_folders_are_left_out(tmp_path):
    for name in ("loose.png", "cat/1.png", "dog/1.png", "dog/deep/2.png"):
        photo(tmp_path / name)
    splits = open_("folder", root=tmp_path, val_fraction=0)
    assert splits.classes == ("cat", "dog")
    assert splits.train.labels.tolist() == [0, 1, 1]
    assert splits.note == "3 train, no val, no test; 1 beside class folders left out"


def test_all_images_below_the_root_on_request(tmp_path):
    names = ["cat/1.png", "dog/a/2.png", "dog/b.png", "loose.png", "z/.trash/x.png"]
    for name in names:
        photo(tmp_path / name)
    splits = open_("folder", root=tmp_path, val_fraction=0, options={"labels": None})
    assert [splits.train.name(row) for row in range(4)] == [str(tmp_path / name) for name in names[:4]]
    assert splits.train.labels.tolist() == [-1] * 4
    assert splits.note == "4 train without labels, no val, no test; left out: 1 hidden"


def test_splits_without_labels_in_folders(tmp_path):
    for name in ("train/1.png", "train/2.png", "val/cat/1.png", "test/dog/1.png", "test/dog/2.png"):
        photo(tmp_path / name)
    splits = open_("folder", root=tmp_path)
    assert splits.classes == ("cat", "dog")
    assert [images.labels.tolist() for images in (splits.train, splits.val, splits.test)] == [[-1, -1], [0], [1, 1]]
    missing = "val has no image of 'dog'; test has no image of 'cat'"
    assert splits.note == f"2 train without labels, 1 val, 2 test; no class folders; {missing}"
    none = open_("folder", root=tmp_path, options={"labels": None})
    assert none.classes == ()
    assert {*none.val.labels, *none.test.labels} == {-1}


def test_folder_mistakes(tmp_path):
    line = r"data\.source: unknown value of labels 'none'; did you mean 'None'\? values: None, folders"
    fails(line, "folder", root=tmp_path, options={"labels": "none"})
    line = r"no {} in .*; expected root/train/CLASS/.* without labels .*"
    fails(line.format("class folders"), "folder", root=tmp_path)
    fails(line.format("images"), "folder", root=tmp_path, options={"labels": None})


# --- torchvision ---


def stl10(root, monkeypatch, bare=12):
    """STL-10's layout: pixels alone tell the 4 labelled images of each split from those without labels."""
    write_stl10(root, monkeypatch)
    pixels = np.repeat(np.arange(bare, dtype=np.uint8) + 100, 3 * 96 * 96)
    (root / "stl10_binary/unlabeled_X.bin").write_bytes(pixels.tobytes())


def test_stl10_trains_on_its_unlabelled_images_too(tmp_path, monkeypatch):
    stl10(tmp_path, monkeypatch)
    splits = open_("stl10", "train+unlabeled", root=tmp_path, val_fraction=0.5)
    assert splits.classes == ("cat", "dog")
    how = "(50 % of labelled train, seed 0)"
    assert splits.note == f"14 train of which 12 without labels, 2 val {how}, 4 test"
    known = dict(zip(SHADES, (0, 1, 0, 1), strict=True)) | dict.fromkeys(range(100, 112), -1)
    for images in (splits.train, splits.val, splits.test):
        for row in range(len(images)):
            assert images.labels[row] == known[int(images.read(row).unique())]
    alone = open_("stl10", root=tmp_path, val_fraction=0.5)
    assert alone.val.index.tolist() == splits.val.index.tolist()
    assert (alone.train.labels >= 0).all()
    bare = open_("torchvision", "STL10", "unlabeled", root=tmp_path, val_fraction=0)
    assert bare.note == "12 train without labels, no val, 4 test"


def test_other_splits_of_torchvision(tmp_path, monkeypatch):
    write_svhn(tmp_path, monkeypatch)
    (tmp_path / "train_32x32.mat").rename(tmp_path / "extra_32x32.mat")
    assert open_("svhn", root=tmp_path, options={"split": "extra"}, val_fraction=0).note == "4 train, no val, 4 test"
    write_cifar(tmp_path, monkeypatch)
    line = r"data\.source: CIFAR10 has no other split to train on, got split='extra'"
    fails(line, "cifar10", "extra", root=tmp_path)
    stl10(tmp_path, monkeypatch)
    fails(r"STL10 cannot be opened under .*'trian'.*", "stl10", "trian", root=tmp_path)
    fails(r"data\.source: split=1 in 'stl10' must be a string", "stl10", 1, root=tmp_path)


def test_the_real_checksum_of_stl10_is_asked_for(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        stl10(tmp_path, patch)
    fails(r"STL10 cannot be opened under .*corrupted.*", "stl10", "train+unlabeled", root=tmp_path)
    unchecked(monkeypatch)
    assert len(open_("stl10", "train+unlabeled", root=tmp_path, val_fraction=0).train) == 16


# --- tables ---


def parquet(path, columns):
    import datasets

    size = len(next(iter(columns.values()), [])) or 6
    rows = {"image": [{"bytes": png(number), "path": None} for number in range(size)], **columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(rows).to_parquet(str(path))
    return path


def test_a_table_without_a_label_column(tmp_path):
    parquet(tmp_path / "train.parquet", {})
    splits = open_("hf", root=tmp_path, val_fraction=0)
    assert splits.classes == ()
    assert splits.train.labels.tolist() == [-1] * 6
    assert int(splits.train.read(4).max()) == 4
    assert splits.note == "6 train without labels, no val, no test; train has no column 'label'"
    table(4, tmp_path / "test.parquet")
    splits = open_("hf", root=tmp_path, val_fraction=0)
    assert splits.classes == ("cat", "dog")
    assert splits.test.labels.tolist() == [0, 1, 0, 1]


def test_a_label_column_that_was_named_must_be_there(tmp_path):
    parquet(tmp_path / "train.parquet", {"fine": [0, 1, 0, 1]})
    line = r"label: unknown column 'fin'; did you mean 'fine'\? columns: .*"
    fails(line, "hf", root=tmp_path, options={"label": "fin"})
    splits = open_("hf", root=tmp_path, options={"label": None}, val_fraction=0)
    assert splits.note == "4 train without labels, no val, no test"
    assert open_("hf", root=tmp_path, options={"label": "fine"}, val_fraction=0).classes == ("0", "1")


def test_rows_without_a_label(tmp_path):
    parquet(tmp_path / "train.parquet", {"label": [0, -1, 2, 1, -1, -1]})
    splits = open_("hf", root=tmp_path, val_fraction=0)
    assert splits.train.labels.tolist() == [0, -1, 2, 1, -1, -1]
    assert splits.classes == ("0", "1", "2")
    parquet(tmp_path / "train.parquet", {"label": [-1, -1]})
    assert open_("hf", root=tmp_path, val_fraction=0).classes == ()


def test_a_source_option_of_another_kind(tmp_path):
    fails(r"data\.source: train=None in 'hf' must be a string", "hf", root=tmp_path, options={"train": None})


# --- what comes after ---

RECIPE = """
data: {{source: "{source}", root: "{root}", val_fraction: 0.2}}
views:
  a: {{from: image, make: "crop(16, scale=(0.5, 1)) | flip(0.5){mix}"}}
  b: {{like: a}}
branches:
  net: {{backbone: resnet10t, z: "projector(h, 16)"}}
relations: ["nt_xent(z(a), z(b))"]
train: {{epochs: 1, batch_size: 8, optimizer: "sgd(lr=0.01)"}}
"""


def recipe(root, source="folder", mix=""):
    return RECIPE.format(root=root, source=source, mix=mix)


@pytest.mark.parametrize("mix", ["", " | mixup(1.0)"])
def test_batches_carry_minus_one_and_views_have_no_target(tmp_path, mix):
    parsed = parse_recipe(recipe(tmp_path, mix=mix))
    known = part(*[0, 1] * 8)
    images = part(*[0, -1] * 8)
    batches = [Batches(each, 16, 1, 0, views=parsed.seen_views, classes=2) for each in (images, known)]
    batch, other = (made[0] for made in batches)
    assert batch.labels.tolist() == [int(images.labels[row]) for row in batch.index.tolist()]
    assert set(batch.labels.tolist()) == {0, -1}
    assert batch.targets is None
    assert other.targets is other.labels
    for name, view in batch.images.items():
        assert torch.equal(view.pixels, other.images[name].pixels)
        assert view.target is None
        assert other.images[name].target is not None
    step = Step(parsed, 2)
    outputs = [
        step(batch.images, batch.targets),
        step(torch.stack([images.read(row) for row in batch.index.tolist()]), index=batch.index, epoch=0),
    ]
    assert float(outputs[0]["loss"].detach()) == pytest.approx(float(outputs[1]["loss"].detach()), rel=1e-5)
    assert torch.isfinite(outputs[0]["loss"])


def test_an_unlabelled_run_trains_is_read_again_and_has_no_classes(tmp_path):
    for number in range(20):
        photo(tmp_path / f"photos/{number:02}.png", 10 * number)
    (tmp_path / "r.yaml").write_text(recipe(tmp_path / "photos"))
    run = tmp_path / "run"
    printed = done("train", tmp_path / "r.yaml", "--out", run)
    assert "nothing was measured: no labelled image was held out" in printed
    assert not [line for line in (run / "metrics.jsonl").read_text().splitlines() if '"val"' in line]
    assert Run(run).classes() == []
    result = Run(run).finished()
    assert result["data"] == "20 train without labels, no val, no test; no class folders"
    assert result["eval"] == {}
    splits = Run(run).splits(Run(run).recipe())
    assert splits.train.labels.tolist() == [-1] * 20
    before = contents(run)
    line = one_line(*manyview("predict", run, tmp_path / "photos/00.png"))
    assert line == f"{run} trained no classifier, so it cannot predict classes"
    assert contents(run) == before
    done("export", run, tmp_path / "exported")
    import timm

    model = timm.create_model(f"local-dir:{tmp_path / 'exported'}", pretrained=True)
    assert model.num_classes == 0


def test_columns_without_classes_are_no_classifier(tmp_path):
    for number in range(8):
        photo(tmp_path / f"photos/{number}.png", 10 * number)
    text = recipe(tmp_path / "photos").replace("z(", "logits(").replace('z: "projector', 'logits: "projector')
    (tmp_path / "r.yaml").write_text(text)
    done("train", tmp_path / "r.yaml", "data.val_fraction=0", "--out", tmp_path / "run", "--quiet")
    line = one_line(*manyview("predict", tmp_path / "run", tmp_path / "photos"))
    assert line.endswith("run trained no classifier, so it cannot predict classes")


def test_the_same_images_with_and_without_labels(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        photo(tmp_path / name, len(name))
    with_labels = open_("folder", root=tmp_path, val_fraction=0).train
    without = open_("folder", root=tmp_path, val_fraction=0, options={"labels": None}).train
    same(without, replace(with_labels, labels=np.full(4, -1)))
