"""Folders of image files, a folder for each class, or without labels."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import final

import numpy as np

from manyview.data.decode import Stored
from manyview.data.images import FolderImages, pack
from manyview.data.layout import layout_of, listed, role_of
from manyview.data.search import Found, find, folders_in, has_images, images_in
from manyview.data.splits import RawSplits
from manyview.errors import DataError, shown, unknown

LAYOUT = (
    "expected root/train/CLASS/*.jpg (val and test beside train are optional), or root/CLASS/*.jpg; "
    "without labels root/train/*.jpg or root/*.jpg"
)

_BARE = re.compile(r"un-?labell?ed([ _-].*)?", re.IGNORECASE)
CALL = "data.source=folder data.root=DIR"


def folder(
    root: Path | None,
    labels: str | None = "folders",
    split: str = "auto",
    ignore: str | tuple[str, ...] = (),
    unlabeled: str | None = None,
    *,
    download: bool,
    stored: Stored | None = None,
) -> RawSplits:
    """Image files in one of two layouts; `download` is not used. `stored`: see `decode`.

    - `root/train/CLASS/…`, `root/val/CLASS/…` and `root/test/CLASS/…`: splits as given, under any usual name of theirs
      (`Training`, `valid`, `dev`, `Test_set`, …). Where only one of val and test is there, as in ImageNet's usual
      layout, it is the test split, kept for the one final figure; what is chosen during training is chosen on images
      held out of train.
    - `root/CLASS/…`: one set of images, from which test and val are taken, `val_fraction` each.

    `split`: "auto" decides between them by names and by what lies in the folders, says so where there is a doubt, and
    refuses where both are as likely; "folders" makes splits of folders with such names, and leaves a val a val; "none"
    makes all folders classes, also one called `train`. `ignore`: folders that are left out, at any depth: a name, a
    pattern such as '*_masks', or several, as in ('annotations', 'masks'). `unlabeled`: the name of a folder, right in
    `root` or beside the classes of train, all images below which are for training, without labels.

    Classes are the folders' names, sorted. In each, files are searched recursively, in sorted order: all that Pillow
    reads, by extension, or by its first bytes where the extension is none that is known, and with `stored` also `.npy`.
    What begins with a dot is left out. Links are followed; each real folder or file is read once. The run's line on
    its data counts what was left out.

    A split has no labels if images lie in its own folder and in none of the folders there, or, whatever the folders,
    with `labels=None`: then all images below it are taken, sorted by path. Images that lie beside class folders with
    images are left out.
    Raises `DataError` if a folder is missing or has no images, or if val or test have a class of their own.
    """
    if labels not in ("folders", None):
        raise DataError(f"data.source: {unknown('value of labels', labels, ['folders', 'None'], 'values')}")
    if root is None:
        raise DataError(f"source 'folder' needs data.root; {LAYOUT}; say {CALL}")
    if not root.is_dir():
        what = "a file, not a folder:" if root.is_file() else "no folder"
        raise DataError(f"{what} {shown(root)}; {LAYOUT}; say {CALL}")
    patterns, arrays = (ignore,) if isinstance(ignore, str) else ignore, stored is not None
    said, patterns = patterns, patterns if unlabeled is None else (*patterns, unlabeled)
    layout = layout_of(root, split, arrays, patterns)
    places = {role: root / name for role, name in layout.splits.items()} or {"train": root}
    deeper = {role: _one_deeper(place, arrays, patterns) for role, place in places.items()}
    descends = bool(labels and layout.splits and all(deeper.values()))
    places = {role: deeper[role] or place for role, place in places.items()} if descends else places
    piles = [] if unlabeled is None else _piles(unlabeled, root, places["train"])
    found = find([*places.values(), *piles], arrays, patterns)
    found.left_out.pop(("ignored", str(unlabeled)), None)
    parts = {role: _part(place, found, number) for number, (role, place) in enumerate(places.items())}
    _check(parts, found, labels, partial(_without, labels, split, said))
    own = {role: part.classes if labels else () for role, part in parts.items()}
    classes = own["train"] or tuple(sorted(set().union(*own.values())))
    splits = {role: part.images(classes if own[role] else (), stored) for role, part in parts.items()}
    bare = dict(zip(piles, found.files[len(places) :], strict=True))
    if piles and not any(bare.values()):
        raise DataError(f"no images in {shown(piles[0])}, which unlabeled={unlabeled!r} names")
    splits["train"] = _beside(splits["train"], bare, root) if bare else splits["train"]
    remarks = [layout.remark, "" if not labels or own["train"] else "no class folders"]
    if descends:
        inside = listed(os.path.relpath(place, root) for place in places.values())
        remarks.append(f"classes lie one folder deeper, in {inside}")
    if unmeant := [name for name in classes if _BARE.fullmatch(name)]:
        remarks.append(f"{listed(unmeant)} is a class here (else say folder(unlabeled={unmeant[0]!r}))")
    if unused := _unused(said, root, found):
        remarks.append(f"ignore: no folder is called {listed(unused)}")
    if beside := sum(len(part.loose) for role, part in parts.items() if own[role]):
        remarks.append(f"{beside:,} beside class folders left out")
    if layout.splits and (beside := images_in(root, arrays)):
        remarks.append(f"{beside:,} beside the folders of splits left out")
    for role in splits:
        if own[role] and (missing := sorted(set(classes) - set(own[role]))):
            remarks.append(f"{role} has no image of {listed(missing)}")
    if not layout.splits and labels:
        remarks.append(_splits_inside(parts["train"]))
    remark = "; ".join(filter(None, [*remarks, found.note()]))
    return RawSplits(splits["train"], splits.get("val"), splits.get("test"), classes, not layout.splits, remark)


def _piles(name: str, root: Path, train: Path) -> list[Path]:
    """The folders of that name in the root, and in that of train. Raises `DataError` where there is none."""
    piles = [place / name for place in dict.fromkeys((root, train)) if (place / name).is_dir()]
    if not piles:
        raise DataError(f"data.source: unlabeled={name!r} names a folder, and {shown(root)} has none of that name")
    return piles


def _beside(images: FolderImages, bare: Mapping[Path, Sequence[str]], root: Path) -> FolderImages:
    """The images, and behind them those without a label, which lie below some folders."""
    folders: list[tuple[Path, Iterable[str]]] = [(images.root, images.paths), *bare.items()]
    names = pack(
        os.path.normpath(f"{place.relative_to(root)}{os.sep}{path}") for place, paths in folders for path in paths
    )
    labels = np.concatenate([images.labels, np.full(len(names) - len(images), -1)])
    return FolderImages(root, names, labels, np.arange(len(names)), images.stored)


def own_images(root: Path) -> str:
    """What to say where another source was looked for in a folder of images; empty if it is none."""
    if not root.is_dir() or not has_images(root):
        return ""
    return f"; for images of your own say data.source=folder data.root={shlex.quote(str(root))}"


@final
@dataclass(frozen=True)
class _Part:
    """What lies in the folder of one split: images right in it, and those of each folder there, none perhaps."""

    place: Path
    loose: list[str]
    by_folder: dict[str, list[str]]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the folders with images, sorted."""
        return tuple(sorted(name for name, files in self.by_folder.items() if files))

    @property
    def empty(self) -> list[str]:
        """Names of the folders without."""
        return sorted(name for name, files in self.by_folder.items() if not files)

    def images(self, classes: tuple[str, ...], stored: Stored | None) -> FolderImages:
        """The images of the classes, labelled in their order; without classes all images, unlabelled."""
        groups = [self.by_folder.get(name, []) for name in classes]
        labels = np.repeat(np.arange(len(groups)), [len(files) for files in groups])
        paths: Iterable[str] = chain.from_iterable(groups)
        if not classes:
            paths = sorted(chain(self.loose, *self.by_folder.values()))
            labels = np.full(len(paths), -1)
        return FolderImages(self.place, pack(paths), labels.astype(np.int64), np.arange(len(labels)), stored)


def _part(place: Path, found: Found, number: int) -> _Part:
    part = _Part(place, [], {name: [] for name in found.folders[number]})
    for path in found.files[number]:
        first, below, _ = path.partition(os.sep)
        (part.by_folder[first] if below else part.loose).append(path)
    return part


def _check(parts: dict[str, _Part], found: Found, labels: str | None, without: Callable[..., str]) -> None:
    """Raises `DataError` for splits without images, and for folders that can be no classes. without: what to say."""
    left_out = f" ({found.note()})" if found.left_out else ""
    train = parts["train"]
    for role, part in parts.items():
        if not part.loose and not part.classes:
            cure = "" if role == "train" else f"; to leave it out, say {without(part.place.name)}"
            if any(detail == ".parquet" for _, detail in found.left_out):
                cure = "; parquet files are read with data.source=hf"
            where = shown(part.place / part.empty[0] if part.empty else part.place)
            what = "images" if part.empty or not labels else "class folders"
            raise DataError(f"no {what} in {where}{left_out}; {LAYOUT}{cure}")
        extra = sorted(set(part.classes) - set(train.classes)) if labels and train.classes else []
        if extra:
            raise DataError(
                f"{shown(part.place)} has classes that train has not: {', '.join(map(shown, extra))}{left_out}; "
                f"{_cure_of_extra(extra, part, train, without)}"
            )
    if labels and train.classes and train.empty:
        raise DataError(
            f"no images in {listed(train.empty)} of {shown(train.place)}{left_out}; a class needs some; to leave out "
            f"what is no class, say {without(*train.empty)}"
        )
    if labels and len(parts) == len(train.classes) == 1 and not train.loose:
        inside = {path.split(os.sep)[1] for path in train.by_folder[train.classes[0]] if path.count(os.sep) > 1}
        if len(inside) > 1:
            place = shown(train.place / train.classes[0])
            raise DataError(
                f"all images lie in one folder of {shown(train.place)}; say data.root={shlex.quote(place)}; {LAYOUT}"
            )


def _cure_of_extra(extra: list[str], part: _Part, train: _Part, without: Callable[..., str]) -> str:
    """What would be right where a split has folders that train's classes lack."""
    if {name.lower() for name in extra} <= {name.lower() for name in train.classes}:
        return "they differ in upper and lower case alone; rename them"
    below = {path.split(os.sep)[1] for files in train.by_folder.values() for path in files if path.count(os.sep) > 1}
    if set(extra) & below:  # ignored, they would be missing in train, too
        return f"its images lie in no folders of train's classes; to leave them out, say {without(part.place.name)}"
    return f"to leave out what is no class, say {without(*extra)}"


def _one_deeper(place: Path, arrays: bool, ignore: Sequence[str]) -> Path | None:
    """The one folder of a split that has images, where these lie in several folders of that: `train/images/cat`."""
    holding = (name for name in folders_in(place, ignore)[0] if has_images(place / name, arrays, ignore))
    held = [*islice(holding, 2)]  # more need not be looked into
    if len(held) != 1 or images_in(place, arrays):
        return None
    inside = folders_in(place / held[0], ignore)[0]
    several = sum(has_images(place / held[0] / name, arrays, ignore) for name in inside) > 1
    return place / held[0] if several and not images_in(place / held[0], arrays) else None


def _unused(patterns: Sequence[str], root: Path, found: Found) -> list[str]:
    """The patterns of `ignore` that fit no folder."""
    names = [*folders_in(root)[0], *(detail for reason, detail in found.left_out if reason == "ignored")]
    return [pattern for pattern in patterns if not any(fnmatchcase(name, pattern) for name in names)]


def _without(labels: str | None, split: str, ignored: tuple[str, ...], *names: str) -> str:
    """What to say to leave out folders, beside all that was said."""
    ignore = (*ignored, *names)
    said = [] if labels else ["labels=None"]
    said += [] if split == "auto" else [f"split={split!r}"]
    return f'data.source="folder({", ".join([*said, f"ignore={ignore[0] if len(ignore) == 1 else ignore!r}"])})"'


def _splits_inside(train: _Part) -> str:
    """A remark if each class has folders for splits of its own, which are read as one."""
    inside = [{path.split(os.sep)[1] for path in files if path.count(os.sep) > 1} for files in train.by_folder.values()]
    shared = sorted(set.intersection(*inside)) if inside else []
    if len({*map(role_of, shared)} - {None}) > 1:
        return f"{listed(shared)} in each class are read as one"
    return ""
