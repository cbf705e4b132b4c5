"""Labels that are names of classes: numbers by their order, as of a folder's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from torch import Tensor

from manyview.data.decode import BadImage
from manyview.data.images import Ints
from manyview.data.item_images import TOGETHER, Reading, spread
from manyview.data.items import LABEL_KEYS, Pairs, item_of, numbers_of
from manyview.data.loader import load


@final
class Named:
    """A data set whose labels are texts, with their numbers in the place of the texts. targets: of all, -1 unread."""

    def __init__(self, dataset: Any, names: tuple[str, ...], targets: Ints) -> None:
        self.dataset, self.names, self.targets = dataset, names, targets
        self._numbers = {name: number for number, name in enumerate(names)}

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, number: int) -> Any:
        item = self.dataset[number]
        if isinstance(item, Mapping):
            return {key: self._number(value) if key in LABEL_KEYS else value for key, value in item.items()}
        return (item[0], self._number(item[1])) if isinstance(item, tuple | list) and len(item) == 2 else item

    def _number(self, label: Any) -> Any:
        return self._numbers.get(label, label) if isinstance(label, str) else label


def named(dataset: Any, index: Ints, split: str, names: Sequence[str] | None, spec: Reading) -> Named | None:
    """The data set with numbers for labels, if its labels are texts, else None. index: which of its items are meant.

    names: of the classes, where they are known; else all texts that occur, sorted. Raises DataError for others.
    """
    known = _in_one_place(dataset)
    if known is not None and not isinstance(known[0], str):  # which spares a reading
        return None
    if not _has_text(dataset, index, split):
        return None
    texts = [known[number] for number in index.tolist()] if known is not None else _learn(dataset, index, split, spec)
    chosen, numbers = numbers_of(texts, [f"{split} item {number}" for number in index.tolist()], names)
    targets = np.full(len(dataset), -1, dtype=np.int64)
    targets[index] = numbers
    return Named(dataset, chosen, targets)


def _has_text(dataset: Any, index: Ints, split: str) -> bool:
    """Whether the first label that can be read is a text."""
    for position in spread(len(index)):
        try:
            item = item_of(dataset, int(index[position]), f"{split} item {index[position]}")
        except BadImage:
            continue
        return item.has_label and isinstance(item.label, str)
    return False


def _in_one_place(dataset: Any) -> Any:
    """The labels of all items, where a data set has them in one place."""
    places = ("labels",) if isinstance(dataset, Pairs) else ("targets", "labels")
    found: Any = next((getattr(dataset, place) for place in places if hasattr(dataset, place)), None)
    if getattr(dataset, "target_transform", None) is not None or not isinstance(
        found, list | tuple | np.ndarray | Tensor
    ):
        return None
    return found if len(found) == len(dataset) > 0 else None


@dataclass(frozen=True)
class _Texts:
    """Part number n: the labels of the n-th `TOGETHER` items, None of those that cannot be read."""

    dataset: Any
    index: Ints
    split: str

    def __len__(self) -> int:
        return -(-len(self.index) // TOGETHER)

    def __getitem__(self, number: int) -> list[Any]:
        texts = []
        for item in self.index[number * TOGETHER : (number + 1) * TOGETHER].tolist():
            try:
                texts.append(item_of(self.dataset, item, f"{self.split} item {item}").label)
            except BadImage:
                texts.append(None)
        return texts


def _learn(dataset: Any, index: Ints, split: str, spec: Reading) -> list[Any]:
    """Labels of items, each of which is read for it."""
    plan = _Texts(dataset, index, split)
    return [text for part in load(plan, 0, len(plan), spec.workers) for text in part]
