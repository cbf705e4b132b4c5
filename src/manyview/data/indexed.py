"""A data set for a loop of one's own: each item with its number, of which the draws of views are a function.

loader = DataLoader(with_index(dataset), batch_size=64, shuffle=True, collate_fn=collate)
for images, labels, index in loader:
    loss = step(images, labels, index=index, epoch=epoch)["loss"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

from manyview.data.decode import Stored
from manyview.data.given import check_kind, numbers_in
from manyview.data.items import item_of, label_of
from manyview.data.pixels import pixels_of


@final
class Indexed(Dataset[tuple[Tensor, int, int]]):
    """Items (image, label, number) of a map-style data set; see `with_index`."""

    def __init__(self, dataset: Any, channels: int | None) -> None:
        check_kind(dataset, "dataset")
        self.dataset, self._at = numbers_in(dataset)
        self._stored = None if channels is None else Stored(channels)

    def __len__(self) -> int:
        return len(self.dataset) if self._at is None else len(self._at)

    def __getitem__(self, position: int) -> tuple[Tensor, int, int]:
        if not -len(self) <= position < len(self):
            raise IndexError(f"item {position} of {len(self)}")
        number = int(range(len(self))[position] if self._at is None else self._at[position])
        name = f"item {number}"
        item = item_of(self.dataset, number, name)
        return (
            pixels_of(item.image, name, self._stored),
            label_of(item.label, name) if item.has_label else -1,
            number,
        )


def with_index(dataset: Any, channels: int | None = None) -> Indexed:
    """A map-style data set of (image, label), as `manyview.train` takes them, with items (image, label, number).

    The image is uint8 RGB `[3, H, W]`; with `channels`, as it is stored (a recipe's `data.channels`). The number is the
    image's own: of torch's Subset that in the whole. Raises DataError for what cannot be meant, at once or at the item.
    """
    return Indexed(dataset, channels)


def collate(items: Sequence[tuple[Tensor, int, int]]) -> tuple[Tensor | list[Tensor], Tensor, Tensor]:
    """Images `[B, C, H, W]`, or a list where sizes are unlike; labels and numbers int64 `[B]`: as a Step takes them."""
    images = [image for image, _, _ in items]
    alike = len({image.shape for image in images}) == 1
    labels, numbers = (torch.tensor([item[part] for item in items]) for part in (1, 2))
    return torch.stack(images) if alike else images, labels, numbers
