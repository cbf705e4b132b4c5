"""Items of map-style data sets as images: what they are is found out once, and held to at every reading."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol, final

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, TensorDataset
from torch.utils.data import Subset as TorchSubset

from manyview.data.decode import BadImage, Stored
from manyview.data.images import Images, Ints, Subset
from manyview.data.items import Item, Pairs, item_of, label_of, labels_of
from manyview.data.loader import load
from manyview.data.pixels import is_float, pixels_of
from manyview.errors import DataError, warn
from manyview.foundation.words import counted

LOOKED_AT = 16  # items that are read twice when a data set is given
LONG = 20_000  # items, to learn whose labels takes a time that is told
SKIP = "; mend it, or leave such items out with data.on_bad_image=skip"
TOGETHER = 64  # items of which a process learns the labels in one go


class Reading(Protocol):
    """What a recipe says about how data are read, as far as it matters here."""

    @property
    def channels(self) -> int | None:
        """None for RGB; else images are taken as they are stored, with this many channels."""

    @property
    def on_bad_image(self) -> str:
        """raise, or skip."""

    @property
    def workers(self) -> int:
        """Processes that read."""


@final
@dataclass(frozen=True, eq=False)
class GivenImages:
    """Items of a map-style data set, by number: `index` holds the numbers. `stored`: see `decode`."""

    dataset: Any
    labels: Ints
    index: Ints
    split: str
    stored: Stored | None = None

    @property
    def size(self) -> None:
        """Unknown before reading."""

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.stored.channels if self.stored else 3

    def __len__(self) -> int:
        return len(self.labels)

    def item(self, position: int) -> Item:
        """What the data set gives. Raises BadImage where it raises, and DataError for what is no item."""
        return item_of(self.dataset, int(self.index[position]), self.name(position))

    def read(self, position: int, scale: int = 1) -> Tensor:
        """The image, `[C, H, W]`. Raises BadImage, and DataError if its label is another than before."""
        item, name = self.item(position), self.name(position)
        label = label_of(item.label, name) if item.has_label else -1
        if label != self.labels[position]:
            told = f"its label is {label} now, and was {self.labels[position]} before"
            raise DataError(f"{name}: {told}; an item must be the same at every reading")
        return pixels_of(item.image, name, self.stored)

    def size_of(self, position: int) -> None:
        """Nothing is read at a smaller scale."""

    def name(self, position: int) -> str:
        """The split and the item's number."""
        return f"{self.split} item {self.index[position]}"


def items_as_images(root: Any, index: Ints, split: str, stored: Stored | None, spec: Reading) -> tuple[Images, str]:
    """Those items of a data set that have the numbers `index`, some of which were looked at; and what to tell of them.

    Raises DataError for what cannot be meant.
    """
    skip, remarks = spec.on_bad_image == "skip", []
    bare = GivenImages(root, np.full(len(index), -1), index, split, stored)
    seen = _look(bare, skip)
    known = _told(root, split)
    if known is None or any(known[index[position]] != label for position, (label, _) in seen.items()):
        labels, lost = _learn(bare, spec)
        images: Images = GivenImages(root, labels, index, split, stored)
        if len(lost):
            remarks.append(f"{split}: {counted(len(lost), 'item')} left out, which could not be read")
            images = Subset(images, np.setdiff1d(np.arange(len(index)), lost))
    else:
        images = GivenImages(root, known[index], index, split, stored)
    if stored is None and any(floats for _, floats in seen.values()):
        remarks.append(f"{split}: floats that were k/255 are the 8 bits they came from")
    return images, ", ".join(remarks)


def _look(images: GivenImages, skip: bool) -> dict[int, tuple[int, bool]]:
    """Reads some items twice: position -> (label, whether it is of floats).

    Raises DataError for what cannot be read, unless it is to be skipped and others can, and for what differs.
    """
    seen: dict[int, tuple[int, bool]] = {}
    errors: list[BadImage] = []
    for position in spread(len(images)):
        name = images.name(position)
        try:
            twice = [images.item(position) for _ in range(2)]
            labels = [label_of(item.label, name) if item.has_label else -1 for item in twice]
            first, again = (pixels_of(item.image, name, images.stored) for item in twice)
        except BadImage as error:
            errors.append(error)
            continue
        if labels[0] != labels[1] or not torch.equal(first, again):
            raise DataError(
                f"{name} is another at each reading; a data set must not draw at random, since views are the recipe's "
                f"to draw, by seed and number, so that they can be replayed: drop its random transforms"
            )
        seen[position] = labels[0], is_float(twice[0].image)
    if errors and not seen:
        raise errors[0]
    if errors and not skip:
        raise BadImage(f"{errors[0]}{SKIP}")
    return seen


def spread(count: int) -> list[int]:
    """At most `LOOKED_AT` of so many positions, the first and the last among them."""
    return sorted({*np.linspace(0, count - 1, min(count, LOOKED_AT)).astype(int).tolist()})


def _told(dataset: Any, split: str) -> Ints | None:
    """The labels of all items, where a data set has them in one place."""
    if isinstance(dataset, np.ndarray | Tensor):
        return np.full(len(dataset), -1)
    if isinstance(dataset, ConcatDataset):
        parts = [_told(part, split) for part in dataset.datasets]
        return None if any(part is None for part in parts) else np.concatenate(parts)  # type: ignore[arg-type]
    if type(dataset) is TorchSubset:
        whole = _told(dataset.dataset, split)
        return None if whole is None else whole[np.asarray(dataset.indices, dtype=np.int64)]
    if type(dataset) is TensorDataset:
        tensors = dataset.tensors
        return np.full(len(dataset), -1) if len(tensors) == 1 else labels_of(tensors[1], split)
    if isinstance(dataset, Pairs):
        return labels_of(dataset.labels, split)
    if getattr(dataset, "target_transform", None) is not None:
        return None
    for name in ("targets", "labels"):
        with suppress(DataError, TypeError, ValueError):
            found = labels_of(getattr(dataset, name, None), split)
            if len(found) == len(dataset):
                return found
    return None


@dataclass(frozen=True)
class _Labels:
    """Part number n: the labels of the n-th `TOGETHER` items, and positions of those that could not be read."""

    images: GivenImages
    skip: bool

    def __len__(self) -> int:
        return -(-len(self.images) // TOGETHER)

    def __getitem__(self, number: int) -> tuple[list[int], list[int]]:
        labels: list[int] = []
        lost: list[int] = []
        for position in range(number * TOGETHER, min((number + 1) * TOGETHER, len(self.images))):
            try:
                item = self.images.item(position)
            except BadImage as error:
                if not self.skip:
                    raise BadImage(f"{error}{SKIP}") from None
                lost.append(position)
                labels.append(-1)
            else:
                labels.append(label_of(item.label, self.images.name(position)) if item.has_label else -1)
        return labels, lost


def _learn(images: GivenImages, spec: Reading) -> tuple[Ints, Ints]:
    """Labels of items, int64 [N], each of which is read for it; and positions of those that cannot be read."""
    if len(images) > LONG:
        told = f"{images.split} has {len(images):,} items, each of which is read for its label before anything begins"
        warn(f"data: {told}; `targets`, the labels of all, in the data set would save that")
    plan = _Labels(images, spec.on_bad_image == "skip")
    parts = list(load(plan, 0, len(plan), spec.workers))
    labels, lost = ([value for part in parts for value in part[which]] for which in (0, 1))
    return np.array(labels, dtype=np.int64), np.array(lost, dtype=np.int64)
