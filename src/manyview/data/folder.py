"""Folders of image files, a folder for each class."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from manyview.data.decode import Stored
from manyview.data.images import FolderImages, pack
from manyview.data.splits import RawSplits
from manyview.errors import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")
ARRAYS = (".npy",)  # read where images are taken as they are stored
LAYOUT = "expected root/train/CLASS/*.jpg (val and test beside train are optional), or root/CLASS/*.jpg"


def folder(root: Path | None, *, download: bool, stored: Stored | None = None) -> RawSplits:
    """Image files in one of two layouts; `download` is not used. `stored`: see `decode`.

    - `root/train/CLASS/…`, `root/val/CLASS/…` and `root/test/CLASS/…`: splits as given. Where only one of val and
      test is there, as in ImageNet's usual layout, it is the test split, kept for the one final figure; what is chosen
      during training is chosen on images held out of train.
    - `root/CLASS/…`: one set of images, from which test and val are taken, `val_fraction` each.

    Classes are the folders' names, sorted. In each, files are searched recursively in sorted order, by
    extension (`EXTENSIONS`, in any case, and with `stored` also `.npy`); what begins with a dot is skipped.
    Raises `DataError` if a folder is missing or has no images, or if val or test have a class of their own.
    """
    if root is None:
        raise DataError(f"source 'folder' needs data.root; {LAYOUT}")
    if not root.is_dir():
        raise DataError(f"no folder {root}; {LAYOUT}")
    if not (root / "train").is_dir():
        classes = _classes(root)
        return RawSplits(_images(root, classes, stored), None, None, classes, carve_test=True)
    classes = _classes(root / "train")
    given: dict[str, FolderImages | None] = {}
    for split in ("val", "test"):
        if (root / split).is_dir():
            extra = sorted(set(_classes(root / split)) - set(classes))
            if extra:
                raise DataError(f"{root / split} has classes that train has not: {', '.join(extra)}")
            given[split] = _images(root / split, classes, stored)
    if "test" not in given:
        given["test"] = given.pop("val", None)
    return RawSplits(_images(root / "train", classes, stored), given.get("val"), given["test"], classes)


def _classes(parent: Path) -> tuple[str, ...]:
    found = sorted(entry.name for entry in os.scandir(parent) if entry.is_dir() and entry.name[0] != ".")
    if not found:
        raise DataError(f"no class folders in {parent}; {LAYOUT}")
    return tuple(found)


def _images(parent: Path, classes: tuple[str, ...], stored: Stored | None) -> FolderImages:
    extensions = EXTENSIONS + ARRAYS if stored else EXTENSIONS
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
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
        found += [
            os.path.join(os.path.relpath(here, parent), file)
            for file in files
            if file[0] != "." and file.lower().endswith(extensions)
        ]
    return sorted(found)
