"""Folders as people have them: split names of all kinds, classes called like splits, odd files, links, pipes."""

import os
import re
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_sources import cache, fails, open_, picture, table  # noqa: F401

from commands import png
from manyview.data import BadImage, Stored, decode, size_of
from manyview.data.folder import folder
from manyview.data.layout import role_of
from manyview.data.search import extensions, find, is_image
from manyview.errors import DataError

TWO = ("cat/1.png", "dog/2.png")


def tree(root: Path, *names: str) -> Path:
    """Files under a root, pictures where their name says so; `name/` is an empty folder."""
    for name in names:
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        elif path.suffix in (".png", ".jpg"):
            picture(path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("no picture")
    return root


def below(*folders: str) -> list[str]:
    return [f"{folder}/{name}" for folder in folders for name in TWO]


def opened(root: Path, **options):
    return open_("folder", root=root, options=options, val_fraction=0)


def paths(images) -> list[str]:
    return [os.path.relpath(images.name(row), images.root) for row in range(len(images))]


# ------------------------------------------------------------------------------------------------------- split or class


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "VALID", "TEST"),
        ("Training", "Validation", "Testing"),
        ("training_set", "dev_set", "test_set"),
        ("trn", "dev", "tst"),
        ("train-images", "valid images", "evaluation"),
        ("train2017", "val2017", "test2017"),
        ("Train Data", "validation", "eval"),
    ],
)
def test_usual_names_of_splits(tmp_path, train, val, test):
    splits = opened(tree(tmp_path, *below(train, val, test), f"{test}/dog/3.png"))
    assert splits.classes == ("cat", "dog")
    assert [len(part) for part in (splits.train, splits.val, splits.test)] == [2, 2, 3]
    assert splits.note == "2 train, 2 val, 3 test"


@pytest.mark.parametrize(
    "name", ["trainer", "vale", "testament", "contest", "steam train", "latest", "devices", "evals x"]
)
def test_names_that_are_no_split(name):
    assert role_of(name) is None


def test_a_lone_validation_set_is_for_the_final_figure(tmp_path):
    """As in ImageNet's layout, under any name; and on request it is what it is called."""
    tree(tmp_path, *below("Train", "Validation"))
    splits = opened(tmp_path)
    assert (len(splits.train), splits.val, len(splits.test)) == (2, None, 2)
    way = """data.source="folder(split='folders')\""""
    assert splits.note == f"2 train, no val, 2 test; 'Validation' taken for the test split (else say {way})"
    named = opened(tmp_path, split="folders")
    assert (len(named.val), named.test, named.note) == (2, None, "2 train, 2 val, no test")


@pytest.mark.parametrize("labels", ["folders", None])
@pytest.mark.parametrize("name", ["train", "test", "val", "Training"])
def test_a_class_called_like_a_split(tmp_path, name, labels):
    """VOC, COCO and CIFAR-100 have a class `train`; neither it nor the others may vanish, with labels or without."""
    tree(tmp_path, f"{name}/1.png", "bus/2.png", "bus/3.png", "car/4.png")
    splits = opened(tmp_path, labels=labels)
    assert len(splits.train) == 4
    assert splits.classes == (tuple(sorted((name, "bus", "car"))) if labels else ())
    told = f"'{name}' taken for classes, not splits, beside 'bus' and 'car' (else say data.source="
    assert told in splits.note
    assert "folder(split='folders')" in splits.note
    assert told not in opened(tmp_path, labels=labels, split="none").note


def test_the_other_reading_can_be_had(tmp_path):
    tree(tmp_path, "train/1.png", "bus/2.png", "car/3.png")
    forced = opened(tmp_path, split="folders")
    assert forced.train.labels.tolist() == [-1]
    assert "'bus' and 'car' beside the splits left out (else say" in forced.note
    tree(tmp_path / "both", *below("train", "test"))
    classes = opened(tmp_path / "both", split="none")
    assert (classes.classes, len(classes.train)) == (("test", "train"), 4)


def test_splits_without_labels_say_how_they_were_read(tmp_path):
    note = opened(tree(tmp_path, "train/1.png", "test1/2.png")).note
    assert note.startswith(
        "1 train without labels, no val, 1 test without labels; 'train' and 'test1' taken for splits"
    )
    assert "folder(split='none')" in note


@pytest.mark.parametrize("names", [("val", "test"), ("Test",), ("validation", "testing")])
@pytest.mark.parametrize("flat", [False, True])
def test_splits_without_train_are_never_classes(tmp_path, names, flat):
    tree(tmp_path, *([f"{name}/1.png" for name in names] if flat else below(*names)))
    fails(r".* has '.*', but no folder for train; add one, .*folder\(split='none'\).*", "folder", root=tmp_path)
    assert opened(tmp_path, labels=None, split="none").note.endswith("no val, no test")


def test_layouts_that_can_be_read_two_ways_are_refused(tmp_path):
    tree(tmp_path, *below("train"), "bus/3.png")
    ways = re.escape("""data.source="folder(split='folders')" or data.source="folder(split='none')\"""")
    line = rf".*: 'train' may be splits, or classes beside 'bus'; say which, {ways}"
    fails(line, "folder", root=tmp_path)
    assert opened(tmp_path, split="none").classes == ("bus", "train")
    tree(tmp_path / "more", *below("train", "val", "dev"))
    line = r".*: 'dev' and 'val' are names of one split, val; leave one out, .*folder\(ignore='dev'\).*"
    fails(line, "folder", root=tmp_path / "more")
    assert opened(tmp_path / "more", ignore="dev").note.startswith("2 train, no val, 2 test")


def test_what_lies_beside_splits_is_told(tmp_path):
    tree(tmp_path, *below("train", "val", "test"), "unlabeled/1.png", "loose.png", "annotations/a.xml", "README.md")
    note = opened(tmp_path).note
    assert note.startswith("2 train, 2 val, 2 test; 'unlabeled' beside the splits left out (else say ")
    assert "1 beside the folders of splits left out" in note


def test_splits_with_a_prefix(tmp_path):
    splits = opened(tree(tmp_path / "a", *below("seg_train", "seg_test")))
    assert splits.note.startswith("2 train, no val, 2 test; 'seg_train' and 'seg_test' taken for splits (else say ")
    trains = tree(tmp_path / "b", "freight train/1.png", "bullet train/2.png", "crash test/3.png")
    assert opened(trains).classes == ("bullet train", "crash test", "freight train")


def test_a_root_one_folder_too_high(tmp_path):
    tree(tmp_path, *below("images/train", "images/val"))
    line = r"all images lie in one folder of .*; say data\.root=.*/images; expected .*"
    fails(line, "folder", root=tmp_path)
    assert opened(tmp_path / "images").note.startswith("2 train, no val, 2 test")


def test_splits_inside_each_class_are_told(tmp_path):
    note = opened(tree(tmp_path, "cat/train/1.png", "cat/test/2.png", "dog/train/3.png", "dog/test/4.png")).note
    assert note == "4 train, no val, no test; 'test' and 'train' in each class are read as one"


def test_split_and_ignore_are_checked(tmp_path):
    line = r"data\.source: unknown value of split 'folder'; did you mean 'folders'\? values: auto, folders, none"
    fails(line, "folder", root=tree(tmp_path, *TWO), options={"split": "folder"})
    line = r"data\.source: ignore=3 in 'folder' must be a string, or several in \( \)"
    fails(line, "folder", root=tmp_path, options={"ignore": 3})
    fails(r"data\.source: ignore=\('a', 3\) in 'folder' .*", "folder", root=tmp_path, options={"ignore": ("a", 3)})


# --------------------------------------------------------------------------------------------------- what is left out


def test_folders_without_images_are_refused_with_a_way_to_leave_them_out(tmp_path):
    tree(tmp_path, *TWO, "annotations/1.xml", "cow/")
    way = """data.source="folder(ignore=('annotations', 'cow'))\""""
    where = r"'annotations' and 'cow' of .* \(left out: 1 of other kinds \(1 \.xml\)\)"
    line = rf"no images in {where}; .* say {re.escape(way)}"
    fails(line, "folder", root=tmp_path)
    splits = opened(tmp_path, ignore=("annotations", "cow"))
    assert splits.classes == ("cat", "dog")
    assert splits.note == "2 train, no val, no test; left out: 2 ignored (1 annotations, 1 cow)"
    tree(tmp_path, "cat_masks/1.png", "cat/deep/masks/2.png")
    assert opened(tmp_path, ignore=("ann*", "*masks", "cow")).classes == ("cat", "dog")
    assert len(opened(tmp_path, ignore=("ann*", "*masks", "cow")).train) == 2


def test_an_empty_class_of_test_is_told(tmp_path):
    tree(tmp_path, *below("train"), "test/cat/1.png", "test/dog/", "test/notes/")
    assert opened(tmp_path).note == "2 train, no val, 1 test; test has no image of 'dog'"


def test_what_a_system_adds_is_left_out_and_counted(tmp_path):
    tree(tmp_path, *TWO, "__MACOSX/cat/1.png", "cat/._1.png", "cat/.DS_Store", "dog/Thumbs.db", "@eaDir/x.jpg")
    splits = opened(tmp_path)
    assert (splits.classes, len(splits.train)) == (("cat", "dog"), 2)
    assert splits.note.endswith("left out: 2 hidden, 2 of an operating system, 1 of other kinds (1 .db)")


def test_what_decodes_is_read(tmp_path):
    """By an extension that Pillow knows, in any case, or by the bytes; and every image can then be decoded."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8))
    kinds = {"a.pgm": "PPM", "b.JFIF": "JPEG", "c.jp2": "JPEG2000", "d.avif": "AVIF", "e": "PNG", "f.dat": "JPEG",
             "g.pnm": "PPM", "h.tga": "TGA", "i.Bmp": "BMP", "j.jpe": "JPEG", "k.ico": "ICO", "l.png_small": "PNG",
             "m.0001": "TIFF", "n.img": "WEBP", "o.qoi": "QOI", "p.pcx": "PCX", "q.dds": "DDS", "r.sgi": "SGI",
             }  # fmt: skip
    (tmp_path / "cat").mkdir()
    extensions()  # by which Pillow looks for all that it can write
    kinds = {name: kind for name, kind in kinds.items() if kind in Image.SAVE}
    for name, kind in kinds.items():
        sizes = {"sizes": [image.size]} if kind == "ICO" else {}  # Pillow's own begin at 16 pixels
        image.convert("L" if kind == "PPM" else "RGB").save(tmp_path / "cat" / name, kind, **sizes)
    others = ["1.txt", "2", "3.heic", "4.zip", "5.png~", "6.jpg.part", "7.jpg.bak", "8.nef"]
    for name in others:
        (tmp_path / "cat" / name).write_bytes((tmp_path / "cat" / "e").read_bytes() if name != "2" else b"\x00" * 64)
    (tmp_path / "cat" / "9").touch()
    picture(tmp_path / "dog/1.png")
    splits = opened(tmp_path)
    assert paths(splits.train) == [*(f"cat/{name}" for name in sorted(kinds)), "dog/1.png"]
    for row in range(len(splits.train)):
        assert splits.train.read(row).shape[0] == 3
    assert splits.note.endswith("left out: 9 of other kinds (2 without extension, 1 .bak, 1 .heic, 1 .nef, …)")


def test_extensions_are_those_that_pillow_decodes():
    assert extensions() >= {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif"}
    assert not extensions() & {".pdf", ".mpg", ".eps", ".h5", ".txt", ".npy", ""}


def test_a_named_image_that_is_none_is_a_bad_image(tmp_path):
    """Not passed over: `data.on_bad_image` says what becomes of it."""
    tree(tmp_path, *TWO)
    (tmp_path / "cat/2.jpg").write_text("<html>404</html>")
    train = opened(tmp_path).train
    with pytest.raises(BadImage, match="not an image"):
        train.read(paths(train).index("cat/2.jpg"))


def test_what_cannot_be_read_is_told(tmp_path):
    """Rights do not bind root, so it is a folder, and a file without extension, whose paths are too long to open."""
    tree(tmp_path, *TWO)
    place = os.open(tmp_path / "cat", os.O_RDONLY)
    for _ in range(25):
        os.close(os.open("y" * 200, os.O_CREAT, dir_fd=place))
        os.mkdir("x" * 200, dir_fd=place)
        inner = os.open("x" * 200, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)
    splits = opened(tmp_path)
    assert len(splits.train) == 2
    assert re.search(r"1 file that cannot be read \(1 y+: File name too long\)", splits.note)
    assert re.search(r"1 folder that cannot be read \(1 cat/x[x/]+: File name too long\)", splits.note)


@pytest.mark.parametrize("root", ["~nobody-of-this-name/photos", "x" * 5000, "/" + "y/" * 3000, "a\0b"])
@pytest.mark.parametrize("source", ["folder", "hf", "cifar10"])
def test_roots_that_cannot_be_there(source, root):
    fails(
        r"(no folder|no file or folder|CIFAR10 cannot be opened under|data\.root=.* cannot be read:) .*",
        source,
        root=root,
    )


def test_a_class_folder_that_cannot_be_read_is_no_class_less(tmp_path, monkeypatch):
    tree(tmp_path, *TWO, "cow/1.png")
    scan = os.scandir

    def denied(place):
        if str(place).endswith("cow"):
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(os, "scandir", denied)
    line = r"no images in 'cow' of .* \(left out: 1 folder that cannot be read \(1 cow: Permission denied\)\); .*"
    fails(line, "folder", root=tmp_path)
    fails(r".*/cow cannot be read: Permission denied", "folder", root=tmp_path / "cow")


# ------------------------------------------------------------------------------------------------------ links and pipes


def test_links_multiply_nothing_and_end(tmp_path):
    tree(tmp_path / "all", *TWO)
    outside = tree(tmp_path / "outside", "far/3.png", "4.png", "5.png")
    root = tmp_path / "all"
    links = {"cat/self": ".", "cat/up": "..", "dog/higher": "../..", "dog/other": "../cat", "dog/far": outside / "far",
             "dog/again": outside / "far", "dog/4.png": outside / "4.png", "dog/5.png": outside / "5.png",
             "dog/6.png": "../cat/1.png", "dog/7.png": outside / "4.png", "cat/gone.png": "nowhere.png",
             "cat/loop": "loop", "cat/loop.png": "loop.png", "kitten": "cat", "back": "."}  # fmt: skip
    for name, target in links.items():
        (root / name).symlink_to(target)
    (outside / "far/round").symlink_to(root)
    splits = opened(root)
    assert splits.classes == ("cat", "dog")
    assert paths(splits.train) == ["cat/1.png", "dog/2.png", "dog/4.png", "dog/5.png", "dog/again/3.png"]
    assert splits.note.endswith(
        "left out: 3 broken links, 4 links to a folder above (1 back, 1 cat/self, 1 cat/up, 1 dog/higher), "
        "6 links to what is read already (2 files, 1 dog/again/round, 1 dog/far, 1 dog/other, …)"
    )


def test_classes_may_be_links(tmp_path):
    tree(tmp_path / "pool", *TWO)
    for name in ("cat", "dog"):
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / name).symlink_to(tmp_path / "pool" / name)
    (tmp_path / "linked").symlink_to(tmp_path / "mine")
    splits = opened(tmp_path / "linked")
    assert splits.classes == ("cat", "dog")
    assert splits.note == "2 train, no val, no test"


def test_no_image_is_in_two_splits_by_a_link(tmp_path):
    tree(tmp_path, *below("train", "test"))
    (tmp_path / "train/cat/more").symlink_to(tmp_path / "test/cat")
    (tmp_path / "train/dog/3.png").symlink_to(tmp_path / "test/dog/2.png")
    (tmp_path / "val").symlink_to("test")
    splits = opened(tmp_path)
    assert (len(splits.train), splits.val, len(splits.test)) == (2, None, 2)
    assert "'val' left out, being links to what is read already" in splits.note
    assert splits.note.endswith("left out: 2 links to what is read already (1 cat/more, 1 files)")


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are files of POSIX")
def test_only_regular_files_are_read(tmp_path):
    tree(tmp_path, *TWO)
    os.mkfifo(tmp_path / "cat/pipe.png")
    os.mkfifo(tmp_path / "dog/pipe")
    (tmp_path / "cat/null.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as here:
        previous = Path.cwd()
        os.chdir(tmp_path / "cat")  # a socket's path is short
        try:
            here.bind("s.png")
        finally:
            os.chdir(previous)
        (tmp_path / "cat/folder.png").mkdir()
        splits = opened(tmp_path)
    assert len(splits.train) == 2
    assert splits.note.endswith("left out: 4 neither file nor folder")
    for stored in (None, Stored(3)):
        with pytest.raises(BadImage, match=r"pipe\.png: neither a file nor a link to one$"):
            decode(tmp_path / "cat/pipe.png", "pipe.png", stored)
    with pytest.raises(BadImage, match="neither a file nor"):
        decode(Path("/dev/zero"), "zero")
    assert size_of(tmp_path / "cat/pipe.png") is None


def test_the_order_is_that_of_names(tmp_path):
    """Whatever order the system lists files in, and as it was before: classes, then paths, by code point."""
    names = ["b/2.png", "b/10.png", "b/a/1.png", "b/a-b/1.png", "B/1.png", "a/Z.png", "a/a.png", "a b/1.png"]
    splits = opened(tree(tmp_path, *names))
    assert splits.classes == ("B", "a", "a b", "b")
    assert paths(splits.train) == ["B/1.png", "a/Z.png", "a/a.png", "a b/1.png", "b/10.png", "b/2.png", "b/a-b/1.png",
                                   "b/a/1.png"]  # fmt: skip


def test_searching_many_files_opens_none_with_a_known_extension(tmp_path, monkeypatch):
    tree(tmp_path, *TWO, "cat/1.txt", "dog/x.xml")
    monkeypatch.setattr(Image, "open", lambda *a, **k: pytest.fail("a file was opened"))
    assert len(find([tmp_path]).files[0]) == 2
    assert not is_image(str(tmp_path / "cat/1.txt"))


# ------------------------------------------------------------------------------------------------------- other sources


@pytest.mark.parametrize("source", ["cifar10", "food101", "hf", "digits"])
def test_a_folder_of_images_for_another_source_is_told_with_its_cure(tmp_path, source):
    root = tree(tmp_path / "my photos", *TWO)
    fails(rf".* say data\.source=folder data\.root='{re.escape(str(root))}'", source, root=root)


def test_splits_of_a_table_that_are_not_read_are_told(tmp_path):
    for split in ("train", "validation", "extra"):
        table(4, tmp_path / f"{split}.parquet")
    fails(r"no class folders in .*; parquet files are read with data\.source=hf", "folder", root=tmp_path)
    note = open_("hf", root=tmp_path, val_fraction=0).note
    way = """data.source="hf(val='validation')\""""
    assert note == f"4 train, no val, no test; 'extra' and 'validation' not read (else say {way})"
    given = {"val": "validation", "test": "extra"}
    assert open_("hf", root=tmp_path, options=given).note == "4 train, 4 val, 4 test"


def test_only_regular_parquet_files_are_opened(tmp_path):
    table(4, tmp_path / "train.parquet")
    os.mkfifo(tmp_path / "test.parquet")
    (tmp_path / "._train-00000-of-00002.parquet").write_text("what macOS adds")
    assert open_("hf", root=tmp_path, val_fraction=0).note == "4 train, no val, no test"


# ---------------------------------------------------------------------------------------------- one folder deeper


def laid(root, *folders):
    """A folder with two images in each of these."""
    for number, name in enumerate(folders):
        for image in range(2):
            png(root / name / f"{image}.png", seed=10 * number + image)
    return folder(root, download=False)


@pytest.mark.parametrize(
    "places",
    [("train/images/{}", "val/images/{}", "test/images/{}"), ("train/train/{}", "test/test/{}"),
     ("seg_train/seg_train/{}", "seg_test/seg_test/{}")],
)  # fmt: skip
def test_classes_one_folder_deeper_are_found(tmp_path, places):
    splits = laid(tmp_path, *(place.format(name) for place in places for name in ("cat", "dog")))
    assert splits.classes == ("cat", "dog")
    assert len(splits.train) == len(splits.test) == 4
    assert "classes lie one folder deeper, in " in splits.remark


def test_splits_of_one_prefix_leave_out_what_is_beside_them(tmp_path):
    splits = laid(tmp_path, "seg_train/cat", "seg_train/dog", "seg_test/cat", "seg_test/dog", "seg_pred")
    assert (splits.classes, len(splits.train), len(splits.test)) == (("cat", "dog"), 4, 4)
    assert "'seg_pred' beside the splits left out" in splits.remark


def test_classes_that_are_named_like_splits_are_told(tmp_path):
    splits = laid(tmp_path, "trainA", "trainB", "testA", "testB")
    assert len(splits.classes) == 4
    assert "'testA', 'testB', 'trainA' and 'trainB' taken for classes, whatever their names" in splits.remark


@pytest.mark.parametrize(
    ("folders", "cure"),
    [
        (
            ("train/n01/images", "train/n02/images", "val/images"),
            "to leave them out, say data.source=\"folder(ignore='val')\"",
        ),
        (("train/Cat", "train/Dog", "test/cat", "test/dog"), "they differ in upper and lower case alone; rename them"),
        (
            ("train/cat", "train/dog", "test/cat", "test/masks"),
            "to leave out what is no class, say data.source=\"folder(ignore='masks')\"",
        ),
    ],
)
def test_the_cure_of_folders_that_train_has_not(tmp_path, folders, cure):
    with pytest.raises(DataError) as caught:
        laid(tmp_path, *folders)
    assert str(caught.value).endswith(cure)


def test_a_pattern_that_fits_nothing_is_told(tmp_path):
    laid(tmp_path, "cat", "dog", "masks")
    splits = folder(tmp_path, download=False, ignore=("masks", "msaks"))
    assert splits.classes == ("cat", "dog")
    assert "ignore: no folder is called 'msaks'" in splits.remark
