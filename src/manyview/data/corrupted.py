"""Corrupted test sets as they are published: arrays like CIFAR-10-C's, or a tree of files like ImageNet-C's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, final

import numpy as np
import torch

from manyview.data.folder import folder
from manyview.data.images import ArrayImages, FolderImages
from manyview.errors import DataError, reason

SEVERITIES = 5
GROUPS = (".", "noise", "blur", "weather", "digital", "extra")
LAYOUT = (
    "expected labels.npy beside CORRUPTION.npy of severities 1 to 5 one after another, as in CIFAR-10-C, or "
    "CORRUPTION/SEVERITY/CLASS/*.JPEG as in ImageNet-C, also within noise/, blur/, weather/, digital/ and extra/"
)


@final
@dataclass(frozen=True)
class Corrupted:
    """A folder of images corrupted beforehand. It has arrays if `labels.npy` is there, else a tree of files."""

    root: Path

    @property
    def tree(self) -> bool:
        """Whether its images are files in folders by class."""
        return not (self.root / "labels.npy").is_file()

    def check(self, names: Sequence[str], severities: Sequence[int]) -> None:
        """Raises DataError, which says what layout is expected, unless all of these are there."""
        if not self.root.is_dir():
            raise DataError(f"no folder {self.root}; {LAYOUT}")
        for name in names:
            for severity in severities:
                self._place(name, severity)

    def images(self, name: str, severity: int, classes: Sequence[str]) -> ArrayImages | FolderImages:
        """The images of a corruption at a severity, with the labels that the data's `classes` give them.

        A tree's folders are matched by name; numbers of `labels.npy` stand for the classes in their order. Raises
        DataError for what is not there or cannot be read, and for classes that the data have not.
        """
        place = self._place(name, severity)
        if not self.tree:
            return self._rows(place, severity, classes)
        found = folder(place, split="none", download=False)
        known = {each: label for label, each in enumerate(classes)}
        strange = [each for each in found.classes if each not in known]
        if strange or not found.classes:
            what = f"has class '{strange[0]}', which the data have not" if strange else "has no class folders"
            raise DataError(f"{place} {what}; classes: {', '.join(classes[:5])}{', …' if len(classes) > 5 else ''}")
        labels = np.array([known[each] for each in found.classes], dtype=np.int64)
        assert isinstance(found.train, FolderImages)
        return replace(found.train, labels=labels[found.train.labels])

    def _place(self, name: str, severity: int) -> Path:
        """The array of a corruption, or the folder of one of its severities."""
        if not self.tree:
            if not (self.root / f"{name}.npy").is_file():
                raise DataError(f"{self.root} has no {name}.npy; {LAYOUT}")
            return self.root / f"{name}.npy"
        for group in GROUPS:
            place = self.root / group / name / str(severity)
            if place.is_dir():
                return place
        raise DataError(f"{self.root} has no {name}/{severity}; {LAYOUT}")

    def _rows(self, place: Path, severity: int, classes: Sequence[str]) -> ArrayImages:
        pixels, labels = _array(place), _array(self.root / "labels.npy")
        if (
            pixels.dtype != np.uint8
            or pixels.ndim != 4
            or pixels.shape[3] != 3
            or len(pixels) % SEVERITIES
            or not pixels.size
        ):
            raise DataError(
                f"{place} holds {pixels.dtype} {[*pixels.shape]}, not uint8 [{SEVERITIES} N, H, W, 3] of {SEVERITIES} "
                "severities"
            )
        if labels.shape != pixels.shape[:1] or labels.dtype.kind not in "iu":
            raise DataError(
                f"{self.root / 'labels.npy'} holds {labels.dtype} {[*labels.shape]} for {len(pixels)} images in "
                f"{place.name}"
            )
        labels = labels.astype(np.int64)
        if labels.min() < 0 or labels.max() + 1 != len(classes):
            raise DataError(
                f"{self.root / 'labels.npy'} numbers classes {labels.min()} to {labels.max()}; the data have "
                f"{len(classes)}, so these are not theirs"
            )
        count = len(pixels) // SEVERITIES
        rows = slice((severity - 1) * count, severity * count)
        return ArrayImages(
            torch.from_numpy(pixels[rows].transpose(0, 3, 1, 2).copy()),
            labels[rows],
            np.arange(count),
            f"{place} severity {severity}",
        )


def _array(path: Path) -> Any:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} cannot be read as an array: {reason(error)}") from None
