"""The data sets of torchvision, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from manyview.data.decode import Stored
from manyview.data.folder import own_images
from manyview.data.images import ArrayImages, FolderImages, Images, pack
from manyview.data.nearby import nearby
from manyview.data.splits import RawSplits
from manyview.errors import DataError, reason, shown, unknown
from manyview.foundation.lock import alone_at

Read = Callable[[Any, str, Stored | None], Images]


def vision(
    root: Path | None, name: str, split: str | None = None, *, download: bool, stored: Stored | None = None
) -> RawSplits:
    """A data set of `DATASETS`, by its name in `torchvision.datasets` in any case. `stored`: see `decode`.

    Looks for the files where torchvision puts them under `root`; with `download`, puts them there. `split`: what is
    trained on in place of the usual split, by torchvision's name for it, such as STL-10's "train+unlabeled" or SVHN's
    "extra". Raises `DataError` for an unknown name or split, and for files that are missing or broken.
    """
    names = {known.lower(): known for known in DATASETS}
    if str(name).lower() not in names:
        raise DataError(unknown("torchvision dataset", str(name).lower(), names))
    name = names[name.lower()]
    if root is None:
        raise DataError(f"{name} needs data.root: the folder where its files are (data.download=true puts them there)")
    with _alone(root) if download else nullcontext():  # one brings the files, others wait and find them
        return _opened(root, name, split, download, stored)


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    with ExitStack() as held:
        with suppress(OSError):  # a folder that cannot be written to holds all there will be
            held.enter_context(alone_at(root / ".download.lock"))
        yield


def _opened(root: Path, name: str, split: str | None, download: bool, stored: Stored | None) -> RawSplits:
    """A data set by torchvision's name."""
    import torchvision.datasets

    splits, read = DATASETS[name]
    if split is not None:
        if "split" not in splits["train"]:
            raise DataError(f"data.source: {name} has no other split to train on, got split={split!r}")
        splits = splits | {"train": {"split": split}}
    options = {"loader": str} if read is _files else {}
    opened: dict[str, Images] = {}
    classes: tuple[str, ...] = ()
    for part, arguments in splits.items():
        try:
            data = getattr(torchvision.datasets, name)(root, **arguments, **options, download=download)
            opened[part] = read(data, f"{name} {part}", stored)
        except Exception as error:  # each class has its own ways to fail on missing or broken files
            said = reason(error).partition(" You can use")[0].rstrip(".")
            hint = "" if download else "; nothing is downloaded unless data.download=true"
            if download and isinstance(error, OSError):  # such as urllib's, where no network answers
                made = f"torchvision.datasets.{name}('DIR', download=True)"
                hint = f"; where there is a network, {made} makes a folder to bring here as data.root"
            hint += _elsewhere(root, name)
            raise DataError(f"{name} cannot be opened under {shown(root)} ({said}){hint}") from error
        classes = classes or _class_names(data, opened[part])
    return RawSplits(opened["train"], opened.get("val"), opened.get("test"), classes, carve_test="test" not in opened)


def _elsewhere(root: Path, name: str) -> str:
    """What to say where the files are not where torchvision puts them, but nearby, or are somebody's own."""
    return nearby(root, lambda folder: (folder / PLACES[name]).exists()) or own_images(root)


def _arrays(axes: str, labels: str) -> Read:
    """Reads a class that holds all pixels in `data`, with these axes, and its labels in an attribute."""

    def read(data: Any, split: str, stored: Stored | None) -> ArrayImages:
        pixels = torch.as_tensor(data.data)
        if axes == "NHW":
            pixels = pixels[:, None].expand(-1, 1 if stored else 3, -1, -1)
        elif axes == "NHWC":
            pixels = pixels.permute(0, 3, 1, 2).contiguous()
        values = np.asarray(getattr(data, labels), dtype=np.int64)
        return ArrayImages(pixels, values, np.arange(len(values)), split)

    return read


def _files(data: Any, split: str, stored: Stored | None) -> FolderImages:
    """Reads a class that was given `loader=str`: its "images" are paths, and our decoder sees the files."""
    return _folder([data[position] for position in range(len(data))], stored)


def _pets(data: Any, split: str, stored: Stored | None) -> FolderImages:
    return _folder(list(zip(data._images, data._labels, strict=True)), stored)


def _signs(data: Any, split: str, stored: Stored | None) -> FolderImages:
    return _folder(data._samples, stored)


def _folder(samples: list[tuple[Any, int]], stored: Stored | None) -> FolderImages:
    labels = np.array([label for _, label in samples], dtype=np.int64)
    return FolderImages(Path(), pack([str(path) for path, _ in samples]), labels, np.arange(len(samples)), stored)


def _class_names(data: Any, train: Images) -> tuple[str, ...]:
    names = getattr(data, "classes", None) or range(int(train.labels.max(initial=-1)) + 1)
    return tuple(str(name[0] if isinstance(name, tuple) else name) for name in names)


_BY_FLAG = {"train": {"train": True}, "test": {"train": False}}
_TRAIN_TEST = {"train": {"split": "train"}, "test": {"split": "test"}}
_TRAIN_VAL_TEST = {"train": {"split": "train"}, "val": {"split": "val"}, "test": {"split": "test"}}

DATASETS: dict[str, tuple[dict[str, dict[str, Any]], Read]] = {
    "CIFAR10": (_BY_FLAG, _arrays("NHWC", "targets")),
    "CIFAR100": (_BY_FLAG, _arrays("NHWC", "targets")),
    "Country211": (_TRAIN_VAL_TEST | {"val": {"split": "valid"}}, _files),
    "DTD": (_TRAIN_VAL_TEST, _files),
    "EuroSAT": ({"train": {}}, _files),
    "FGVCAircraft": (_TRAIN_VAL_TEST, _files),
    "FashionMNIST": (_BY_FLAG, _arrays("NHW", "targets")),
    "Flowers102": (_TRAIN_VAL_TEST, _files),
    "Food101": (_TRAIN_TEST, _files),
    "GTSRB": (_TRAIN_TEST, _signs),
    # Papers report Imagenette on its val, so it is the test split here.
    "Imagenette": (_TRAIN_TEST | {"test": {"split": "val"}}, _files),
    "KMNIST": (_BY_FLAG, _arrays("NHW", "targets")),
    "MNIST": (_BY_FLAG, _arrays("NHW", "targets")),
    "OxfordIIITPet": (_TRAIN_TEST | {"train": {"split": "trainval"}}, _pets),
    "STL10": (_TRAIN_TEST, _arrays("NCHW", "labels")),
    "SVHN": (_TRAIN_TEST, _arrays("NCHW", "labels")),
    "StanfordCars": (_TRAIN_TEST, _files),
}
"""Name in torchvision -> (the constructor's arguments for each split, how the images are read)."""

PLACES = {
    "CIFAR10": "cifar-10-batches-py",
    "CIFAR100": "cifar-100-python",
    "Country211": "country211",
    "DTD": "dtd/dtd",
    "EuroSAT": "eurosat",
    "FGVCAircraft": "fgvc-aircraft-2013b",
    "FashionMNIST": "FashionMNIST/raw",
    "Flowers102": "flowers-102",
    "Food101": "food-101",
    "GTSRB": "gtsrb",
    "Imagenette": "imagenette2",
    "KMNIST": "KMNIST/raw",
    "MNIST": "MNIST/raw",
    "OxfordIIITPet": "oxford-iiit-pet",
    "STL10": "stl10_binary",
    "SVHN": "train_32x32.mat",
    "StanfordCars": "stanford_cars",
}
"""Name in torchvision -> where it looks under `root`."""
