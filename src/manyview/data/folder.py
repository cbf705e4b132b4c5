"""Folders of image files, a folder for each class, or without labels."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from manyview.data.decode import Stored
from manyview.data.images import FolderImages, pack
from manyview.data.splits import RawSplits
from manyview.errors import DataError, unknown

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
ARRAYS = (".npy",)  # read where images are taken as they are stored
LAYOUT = (
    "expected root/train/CLASS/*.jpg (val and test beside train are optional), or root/CLASS/*.jpg; "
    "without labels root/train/*.jpg or root/*.jpg"
)


def folder(
    root: Path | None, labels: str | None = "folders", *, download: bool, stored: Stored | None = None
) -> RawSplits:
    """Image files in one of two layouts; `download` is not used. `stored`: see `decode`.

    - `root/train/CLASS/…`, `root/val/CLASS/…` and `root/test/CLASS/…`: splits as given. Where only one of val and
      test is there, as in ImageNet's usual layout, it is the test split, kept for the one final figure; what is chosen
      during training is chosen on images held out of train.
    - `root/CLASS/…`: one set of images, from which test and val are taken, `val_fraction` each.

    Classes are the folders' names, sorted. In each, files are searched recursively in sorted order, by
    extension (`EXTENSIONS`, in any case, and with `stored` also `.npy`); what begins with a dot is skipped.

    A split has no labels if images lie in its own folder and in none of the folders there, or, whatever the folders,
    with `labels=None`: then all images below it are taken, sorted by path. Images that lie beside class folders with
    images are left out.
    Raises `DataError` if a folder is missing or has no images, or if val or test have a class of their own.
    """
    if labels not in ("folders", None):
        raise DataError(f"data.source: {unknown('value of labels', labels, ['folders', 'None'], 'values')}")
    if root is None:
        raise DataError(f"source 'folder' needs data.root; {LAYOUT}")
    if not root.is_dir():
        raise DataError(f"no folder {root}; {LAYOUT}")
    extensions = EXTENSIONS + ARRAYS if stored else EXTENSIONS
    divided = (root / "train").is_dir()
    parents = {"train": root}
    if divided:
        parents = {split: root / split for split in ("train", "val", "test") if (root / split).is_dir()}
    own = {split: _classes(parent, extensions) if labels else () for split, parent in parents.items()}
    classes = own["train"] or tuple(sorted(set().union(*own.values())))
    given: dict[str, FolderImages] = {}
    for split, parent in parents.items():
        extra = sorted(set(own[split]) - set(classes))
        if extra:
            raise DataError(f"{parent} has classes that train has not: {', '.join(extra)}")
        given[split] = _images(parent, classes if own[split] else (), extensions, stored)
    if "test" not in given and "val" in given:
        given["test"] = given.pop("val")
    remark = "no class folders" if labels and not own["train"] else ""
    if beside := sum(len(_loose(parents[split], extensions)) for split in parents if own[split]):
        remark = f"{beside:,} beside class folders left out"
    return RawSplits(given["train"], given.get("val"), given.get("test"), classes, not divided, remark)


def _classes(parent: Path, extensions: tuple[str, ...]) -> tuple[str, ...]:
    """Names of the class folders; none if images lie in `parent` itself, and in none of its folders."""
    found = sorted(entry.name for entry in os.scandir(parent) if entry.name[0] != "." and entry.is_dir())
    if _loose(parent, extensions) and not any(_files(parent, name, extensions) for name in found):
        return ()
    if not found:
        raise DataError(f"no class folders in {parent}; {LAYOUT}")
    return tuple(found)


def _loose(parent: Path, extensions: tuple[str, ...]) -> list[str]:
    """Image files in `parent` itself."""
    entries = [entry for entry in os.scandir(parent) if entry.name[0] != "."]
    return [entry.name for entry in entries if entry.name.lower().endswith(extensions) and entry.is_file()]


def _images(parent: Path, classes: tuple[str, ...], extensions: tuple[str, ...], stored: Stored | None) -> FolderImages:
    """The images of the classes, labelled in their order; without classes all images, unlabelled."""
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes) if classes else [(-1, "")]:
        found = _files(parent, name, extensions)
        if not found and (parent / name).is_dir():
            raise DataError(f"no images in {parent / name}; expected files that end in {' '.join(extensions)}")
        paths += found
        labels += [label] * len(found)
    return FolderImages(parent, pack(paths), np.array(labels, dtype=np.int64), np.arange(len(paths)), stored)


def _files(parent: Path, name: str, extensions: tuple[str, ...]) -> list[str]:
    found: list[str] = []
    for here, folders, files in os.walk(parent / name, followlinks=True):
        folders[:] = [folder for folder in folders if folder[0] != "."]
        below = "" if Path(here) == parent else os.path.relpath(here, parent)
        found += [os.path.join(below, file) for file in files if file[0] != "." and file.lower().endswith(extensions)]
    return sorted(found)
