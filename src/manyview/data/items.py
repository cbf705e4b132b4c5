"""What map-style data sets give for a number: an image, and its label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, final

import numpy as np
from torch import Tensor

from manyview.data.decode import BadImage
from manyview.data.images import Ints
from manyview.data.layout import listed
from manyview.data.pixels import KINDS, is_image
from manyview.errors import DataError, reason
from manyview.foundation.words import a, counted

IMAGE_KEYS = ("image", "img", "pixel_values", "pixels")
LABEL_KEYS = ("label", "labels", "target", "class")


class Item(NamedTuple):
    """An image, as the data set has it, and its label, if it has one."""

    image: Any
    label: Any
    has_label: bool


@final
class Pairs:
    """(images, labels), two arrays or lists of one length, as a data set of pairs."""

    def __init__(self, images: Any, labels: Any) -> None:
        self.images, self.labels = images, labels
        self.title = type(images).__name__

    @classmethod
    def of(cls, given: tuple[Any, ...]) -> Pairs:
        """Raises DataError for what is not two of one length."""
        if len(given) != 2 or not all(hasattr(part, "__len__") and hasattr(part, "__getitem__") for part in given):
            told = ", ".join(type(part).__name__ for part in given)
            raise DataError(f"data: a tuple is (images, labels), got ({told})")
        images, labels = given
        if len(images) != len(labels):
            raise DataError(f"data: {len(images):,} images came with {len(labels):,} labels")
        return cls(images, labels)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> tuple[Any, Any]:
        return self.images[number], self.labels[number]


def item_of(dataset: Any, number: int, name: str) -> Item:
    """The item with that number. Raises BadImage where the data set raises, and DataError for what is no item."""
    try:
        item = dataset[number]
    except IndexError as error:
        raise BadImage(f"{name}: there is none ({reason(error)}), though the length is {len(dataset):,}") from error
    except Exception as error:  # whatever a user's code raises
        raise BadImage(f"{name}: {type(error).__name__}: {reason(error)}") from error
    if is_image(item):
        return Item(item, None, False)
    if isinstance(item, Mapping):
        return _of_mapping(item, name)
    if isinstance(item, tuple | list) and len(item) in (1, 2):
        return Item(item[0], item[-1], len(item) == 2)
    parts = f" of {counted(len(item), 'part')}" if isinstance(item, tuple | list) else ""
    raise DataError(f"{name} is {a(type(item).__name__)}{parts}; an item is (image, label), the image {KINDS}")


def _of_mapping(item: Mapping[str, Any], name: str) -> Item:
    image = [key for key in item if key in IMAGE_KEYS]
    label = [key for key in item if key in LABEL_KEYS]
    if len(image) != 1 or len(label) > 1:
        raise DataError(
            f"{name} has {listed(map(str, item))}; one must be the image ({', '.join(IMAGE_KEYS)}) and "
            f"one its label ({', '.join(LABEL_KEYS)})"
        )
    return Item(item[image[0]], item[label[0]] if label else None, bool(label))


def label_of(value: Any, name: str) -> int:
    """A label as an integer: the class's number, or -1. Raises DataError for all else."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, Tensor | np.ndarray | np.generic):
        array = value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)
        if array.ndim == 0 and array.dtype.kind in "iub":
            return int(array)
        if array.ndim:
            cure = "label.argmax() of a one-hot one" if array.size > 1 else "label.item()"
            cure = cure if array.ndim == 1 else "and one image, of which the recipe makes the views"
            raise DataError(f"{name}: its label has shape {[*array.shape]}; give the class's number, {cure}")
        value = array.item()
    if value is None:
        raise DataError(f"{name}: its label is None; give -1 where an image has no label")
    if isinstance(value, str):
        raise DataError(f"{name}: its label is the text {value!r:.40}; give the class's number, 0, 1, …")
    raise DataError(f"{name}: its label is {value!r:.40}, {a(type(value).__name__)}; give the class's number, 0, 1, …")


def labels_of(values: Any, split: str) -> Ints:
    """Labels of all items, int64 [N]. Raises DataError."""
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else values
    if isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "iub":
        return array.astype(np.int64)
    return np.array([label_of(value, f"{split} item {at}") for at, value in enumerate(array)], dtype=np.int64)


def numbers_of(texts: Sequence[Any], where: Sequence[str], names: Sequence[str] | None) -> tuple[tuple[str, ...], Ints]:
    """(Names of classes, number of each text, int64 [N]); None is -1. where: what to call each in a message.

    Raises DataError for what is no text, for an empty one, and for one that is none of `names`.
    """
    for text, place in zip(texts, where, strict=True):
        if text is not None and (not isinstance(text, str) or not text):
            raise DataError(f"{place}: its label is {text!r:.40} where others are names of classes")
    chosen = tuple(names) if names is not None else tuple(sorted({str(text) for text in texts if text is not None}))
    numbers = {name: number for number, name in enumerate(chosen)}
    for text, place in zip(texts, where, strict=True):
        if text is not None and text not in numbers:
            raise DataError(f"{place}: its label is {text!r:.40}, which is no class of train")
    return chosen, np.array([-1 if text is None else numbers[text] for text in texts], dtype=np.int64)
