"""Data sets that are given in Python: torch's and torchvision's, Hugging Face's, arrays, lists of (image, label).

Whatever it is, it becomes `Images`: files where torchvision has read none yet, rows of a table, or items by number.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import ConcatDataset, IterableDataset
from torch.utils.data import Subset as TorchSubset

from manyview.data.decode import BadImage, Stored
from manyview.data.huggingface import open_table
from manyview.data.images import FolderImages, Images, Ints, Subset, pack
from manyview.data.item_images import Reading, items_as_images, spread
from manyview.data.items import LABEL_KEYS, Pairs
from manyview.data.layout import ROLES, listed, role_of
from manyview.data.splits import RawSplits
from manyview.errors import DataError, reason, unknown, warn
from manyview.foundation.words import counted
from manyview.views.streams import UNLABELED


@dataclass(frozen=True)
class _Given:
    """One split: its images, what they are items of, and the names of its classes, where the data set has them."""

    images: Images
    root: Any
    classes: tuple[str, ...] | None
    remark: str = ""


def given_splits(data: Mapping[str, Any], spec: Reading) -> RawSplits:
    """Splits of data sets by name: train, and val, test and the stream `unlabeled` where there are any.

    A data set is map-style, with items (image, label), {"image": …, "label": …}, or images alone; or a Hugging Face
    Dataset; or a tuple of arrays (images, labels). All that can be known to be wrong is refused here, in one line:
    `DataError`. Some items are read twice, since what a data set draws at random could not be drawn again.
    """
    named, remarks = _by_role(data)
    found = {role: _open(dataset, role, spec) for role, dataset in named.items()}
    unlabeled = found.pop(UNLABELED, None)
    _check_apart(found)
    classes = _classes(found)
    told = ", ".join(f"{role} {_title(one.root)}" for role, one in found.items())
    remarks = [f"given in Python ({told})", *filter(None, (one.remark for one in found.values())), *remarks]
    images = {role: one.images for role, one in found.items()}
    return RawSplits(
        images["train"],
        images.get("val"),
        images.get("test"),
        classes,
        remark=", ".join(remarks),
        given=True,
        unlabeled=None if unlabeled is None else unlabeled.images,
    )


def _by_role(data: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Data sets by train, val and test, and what is to be told. Raises DataError for other names."""
    cure = 'data={"train": dataset, "val": …, "test": …}'
    if not isinstance(data, Mapping):
        raise DataError(f"data is a {type(data).__name__}; write {cure}")
    given = {name: dataset for name, dataset in data.items() if dataset is not None}
    remarks = []
    if type(data).__name__ in ("DatasetDict", "IterableDatasetDict"):  # whose splits have the hub's names
        roles = {name: role_of(name) for name in given}
        left = [name for name, role in roles.items() if role is None]
        remarks = [f"{listed(left)} not read"] if left else []
        given = {role: given[name] for name, role in roles.items() if role is not None}
    for name in given:
        if name not in (*ROLES, UNLABELED):
            meant = role_of(str(name))
            told = f"'{name}' is called '{meant}' here" if meant else unknown("split", str(name), (*ROLES, UNLABELED))
            raise DataError(f"data: {told}")
    if "train" not in given:
        raise DataError(f"data has no 'train', only {listed(given) if given else 'nothing'}; write {cure}")
    return given, remarks


# ------------------------------------------------------------------------------------------------------- one data set


def _open(dataset: Any, split: str, spec: Reading) -> _Given:
    """One split's images. Raises DataError."""
    stored = None if spec.channels is None else Stored(spec.channels)
    check_kind(dataset, split)
    root, at = numbers_in(dataset)
    if _is_table(root):
        table, classes, remark = open_table(root, split, stored)
        return _Given(table if at is None else Subset(table, at), root, classes, remark)
    classes = _names(root, split)
    if (files := _files(root, stored)) is not None:
        return _Given(files if at is None else Subset(files, at), root, classes)
    index = np.arange(_length(root, split)) if at is None else at
    if not len(index):
        raise DataError(f"split '{split}' has no images")
    _check_travels(root, split, spec)
    images, remark = items_as_images(root, index, split, stored, spec)
    return _Given(images, root, classes, remark)


def check_kind(dataset: Any, split: str) -> None:
    """Raises DataError for what has no items by number."""
    kind, numbered = type(dataset).__name__, hasattr(dataset, "__getitem__")
    streams = isinstance(dataset, IterableDataset) or kind == "IterableDataset"  # torch's and Hugging Face's
    if streams or (hasattr(dataset, "__iter__") and not numbered):
        raise DataError(
            f"data: {split} is a {kind}, which gives images in its own order; order and draws are functions of an "
            f"image's number here (so that a run can be resumed and replayed): give a map-style data set, which has "
            f"__len__ and __getitem__"
        )
    if isinstance(dataset, str | Path):
        raise DataError(f"data: {split} is a {kind}; a folder of files is data.source=folder data.root={dataset}")
    if isinstance(dataset, Mapping | bytes) or not (numbered and hasattr(dataset, "__len__")):
        raise DataError(f"data: {split} is a {kind}, not a map-style data set, which has __len__ and __getitem__")


def numbers_in(dataset: Any) -> tuple[Any, Ints | None]:
    """What a data set's items are items of, and their numbers there, int64 [N]; None for all.

    Of torch's subsets that is the whole; where an image comes more than once, each time is an image of its own.
    """
    root, at = _within(dataset)
    return (root, at) if at is None or len(np.unique(at)) == len(at) else (dataset, None)


def _within(dataset: Any) -> tuple[Any, Ints | None]:
    """What torch's subsets are subsets of, and the numbers of the images there; None for all."""
    if isinstance(dataset, tuple):
        return Pairs.of(dataset), None
    if type(dataset) is not TorchSubset:
        return dataset, None
    root, outer = _within(dataset.dataset)
    at, count = np.asarray(dataset.indices, dtype=np.int64), len(root) if outer is None else len(outer)
    if len(at) and not -count <= at.min() <= at.max() < count:
        raise DataError(f"data: a Subset names item {at[np.abs(at).argmax()]} of {count:,}")
    at = at % max(1, count)  # as Python counts from the end
    return root, at if outer is None else outer[at]


def _length(dataset: Any, split: str) -> int:
    try:
        return len(dataset)
    except Exception as error:
        raise DataError(f"data: the length of {split} cannot be known ({reason(error)}); it needs __len__") from None


def _files(dataset: Any, stored: Stored | None) -> FolderImages | None:
    """torchvision's folders of files, which our decoder reads, unless they change what they read."""
    from torchvision.datasets import DatasetFolder
    from torchvision.datasets.folder import default_loader

    plain = isinstance(dataset, DatasetFolder) and type(dataset).__getitem__ is DatasetFolder.__getitem__
    if not plain or dataset.loader is not default_loader or dataset.transforms is not None:
        return None
    paths, labels = pack([str(path) for path, _ in dataset.samples]), [label for _, label in dataset.samples]
    return FolderImages(Path(), paths, np.array(labels, dtype=np.int64), np.arange(len(paths)), stored)


# ------------------------------------------------------------------------------------------------------------- labels


def _names(dataset: Any, split: str) -> tuple[str, ...] | None:
    """The names of a data set's classes, where it has them."""
    if isinstance(dataset, ConcatDataset | TorchSubset):
        parts = dataset.datasets if isinstance(dataset, ConcatDataset) else [dataset.dataset]
        names = {found for part in parts if (found := _names(part, split)) is not None}
        if len(names) > 1:
            raise DataError(f"data: the parts of {split} have unlike classes, and so unlike labels")
        return next(iter(names), None)
    if _is_table(dataset):
        return open_table(dataset, split, None)[1]
    if isinstance(kinds := getattr(dataset, "features", None), Mapping):  # rows of a table that a function makes
        return next((tuple(kinds[key].names) for key in LABEL_KEYS if hasattr(kinds.get(key), "names")), None)
    names_of, numbers = getattr(dataset, "classes", None), getattr(dataset, "class_to_idx", None)
    if names_of is None and isinstance(numbers, Mapping) and sorted(numbers.values()) == list(range(len(numbers))):
        names_of = sorted(numbers, key=numbers.__getitem__)
    if not isinstance(names_of, list | tuple):
        return None
    return tuple(str(name[0] if isinstance(name, tuple) else name) for name in names_of)


def _classes(found: Mapping[str, _Given]) -> tuple[str, ...]:
    """Names of the classes; numbers, where data sets name none, and gaps in them are told.

    Raises DataError where splits differ, and where most numbers would be gaps.
    """
    named = {role: one.classes for role, one in found.items() if one.classes is not None}
    for role, names in named.items():
        first = next(iter(named))
        if names != named[first]:
            at = next((i for i, pair in enumerate(zip(names, named[first], strict=False)) if pair[0] != pair[1]), None)
            told = f"{len(names)} and {len(named[first])}"
            told = told if at is None else f"label {at} is '{names[at]}' and '{named[first][at]}'"
            raise DataError(f"data: the classes of {role} are not those of {first}: {told}")
    if named:
        return next(iter(named.values()))
    labels = next((one.images.labels for one in found.values() if (one.images.labels >= 0).any()), np.zeros(0, int))
    present = np.unique(labels[labels >= 0])
    count = int(present.max(initial=-1)) + 1
    if count > len(present):
        absent = listed(map(str, np.setdiff1d(np.arange(count), present).tolist()))
        told = f"data: labels go up to {count - 1}, but no image has {absent}"
        if count > 2 * len(present):
            raise DataError(f"{told}; these are no numbers of classes, which are 0 to {len(present) - 1}")
        cure = f"if that is not meant, number the classes 0 to {len(present) - 1}"
        warn(f"{told}: {count} classes are made; {cure}")
    return tuple(map(str, range(count)))


# ------------------------------------------------------------------------------------------------------------- checks


def _check_apart(found: Mapping[str, _Given]) -> None:
    """Raises DataError where a split that judges has the very images of another."""
    roles = list(found)
    for at, role in enumerate(roles):
        for other in roles[:at]:
            one, two = found[role], found[other]
            if one.root is two.root:
                shared = len(np.intersect1d(one.images.index, two.images.index))
            else:
                shared = len(one.images) if _same(one.images, two.images) else 0
            if shared:
                raise DataError(
                    f"data: {role} has {counted(shared, 'image')} of {other}, and nothing can be judged by what was "
                    f"learnt from; leave it out (data.val_fraction holds out a part of train), or split the data "
                    f"set, as by torch.utils.data.random_split"
                )


def _same(one: Images, two: Images) -> bool:
    """Whether two splits look the same: labels, and the pixels of some images."""
    if len(one) != len(two) or not np.array_equal(one.labels, two.labels):
        return False
    try:
        return all(torch.equal(one.read(position), two.read(position)) for position in spread(len(one)))
    except BadImage:
        return False


def _check_travels(dataset: Any, split: str, spec: Reading) -> None:
    """Raises DataError for what cannot be handed to workers, where these are not forked."""
    started = multiprocessing.get_start_method(allow_none=True) or multiprocessing.get_all_start_methods()[0]
    if not spec.workers or started == "fork":
        return
    try:
        ForkingPickler.dumps(dataset)
    except Exception as error:  # each object has its own reasons
        raise DataError(
            f"data: {split} cannot be handed to worker processes ({reason(error)}); define it, and the functions it "
            f"holds, at the top of a module, or set data.workers=0"
        ) from None


def _is_table(dataset: Any) -> bool:
    """Whether it is a Dataset of Hugging Face, whose rows are not made by the user's own function."""
    kind = type(dataset)
    is_one = kind.__name__ == "Dataset" and kind.__module__.partition(".")[0] == "datasets"
    return is_one and dataset.format["type"] != "custom" and any(map(_is_picture, dataset.features.values()))


def _is_picture(feature: Any) -> bool:
    return type(feature).__name__ == "Image"


def _title(dataset: Any) -> str:
    """What a data set is called in the note."""
    return dataset.title if isinstance(dataset, Pairs) else type(dataset).__name__
