"""The views of a batch, as what timm's loops do with a batch of pixels: they ask its shape, and send it to a device."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor

from manyview.views.view import View


@final
@dataclass(frozen=True)
class ViewsBatch:
    """Rendered views of B images, with all that was drawn for them. views: name -> View; index: positions [B]."""

    views: Mapping[str, View]
    index: Tensor

    @property
    def shape(self) -> torch.Size:
        """[B, C, h, w]: so many images, of the size of the first view."""
        return torch.Size([len(self.index), *next(iter(self.views.values())).images.shape[1:]])

    def __len__(self) -> int:
        return len(self.index)

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None, non_blocking: bool = False
    ) -> ViewsBatch:
        """Images and targets on a device. A dtype changes nothing: grey levels become floats where they are read."""
        return self if device is None else self._moved(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> ViewsBatch:
        """Images and targets in page-locked memory, from which they travel to a GPU while it works."""
        return self._moved(torch.Tensor.pin_memory)

    def contiguous(self, **layout: Any) -> ViewsBatch:
        """The same: the network's own memory layout is made where the views are normalised."""
        return self

    def _moved(self, move: Callable[[Tensor], Tensor]) -> ViewsBatch:
        return replace(self, views={name: view.moved(move) for name, view in self.views.items()})
