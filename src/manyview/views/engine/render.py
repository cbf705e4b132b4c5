"""From ops and their drawn parameters to pixels, through one program for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manyview.views.engine.interpreter import execute
from manyview.views.engine.program import NEEDS_RGB, Column, Lowered, pack

Drawn = tuple[Lowered, dict[str, Tensor]]  # an op and its parameters [B, …]


@dataclass(frozen=True)
class Reduced:
    """Images decoded at a part of their size, for views that begin by a crop or a resize.

    images: uint8 [C, ceil(H / scale), ceil(W / scale)]. sizes: H and W of the whole images, int64 [B, 2], for which
    parameters are drawn. scales: [B].
    """

    images: Sequence[Tensor]
    sizes: Tensor
    scales: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, row: int) -> Tensor:
        return self.images[row]


Source = Tensor | Sequence[Tensor] | Reduced  # [B, C, H, W], or B of unlike sizes


def is_levels(images: Source) -> bool:
    """Whether these are what programs take: grey levels on the CPU."""
    if isinstance(images, Reduced):
        return True
    each = [images] if isinstance(images, Tensor) else images
    kinds = {(image.dtype, image.device.type, image.shape[-3]) for image in each}
    whole = all(image.numel() for image in each)
    return whole and len(kinds) == 1 and next(iter(kinds))[:2] == (torch.uint8, "cpu")


def sizes_of(images: Source) -> Tensor:
    """Heights and widths, int64 [B, 2], of a batch or of images of unlike sizes."""
    if isinstance(images, Reduced):
        return images.sizes
    if isinstance(images, Tensor):
        return torch.from_numpy(np.array(images.shape[-2:], np.int64)).expand(len(images), 2)
    return torch.tensor([list(image.shape[-2:]) for image in images], dtype=torch.long).view(-1, 2)


def render(ops: Sequence[Drawn], images: Source, repeat: int = 1) -> Tensor | list[Tensor] | None:
    """The images after all ops, uint8 [B*repeat, C, h, w]; None where a program cannot: ops that need RGB, without it.

    images: uint8 on the CPU; those of unlike sizes come back as a list if they stay unlike. repeat: rows of parameters
    for each image.
    """
    count = len(images)
    if not count:
        return None
    sizes = sizes_of(images)
    columns = _columns(ops, sizes if repeat == 1 else sizes.repeat_interleave(repeat, dim=0))
    if images[0].shape[0] != 3 and any(column.rgb or column.is_one_of(*NEEDS_RGB) for column in columns):
        return None
    alike = isinstance(images, Tensor) or bool((sizes == sizes[0]).all())
    if alike or columns[0].size is not None:
        if isinstance(images, Reduced):
            columns[0] = columns[0].scaled(1 / images.scales.repeat_interleave(repeat))
            return execute(pack(columns, count * repeat, None), images.images, repeat)
        size = (int(sizes[0, 0]), int(sizes[0, 1])) if alike else None
        return execute(pack(columns, count * repeat, size), images, repeat)
    each = [
        render([(op, {k: v[i : i + 1] for k, v in params.items()}) for op, params in ops], _alone(images, i // repeat))
        for i in range(count * repeat)
    ]
    made = [one[0] for one in each if one is not None]
    return together(made)


def together(images: Sequence[Tensor]) -> Tensor | list[Tensor]:
    """Images as one batch if they have one size, else as they are. Channels that lie last in memory stay there."""
    if len({image.shape for image in images}) != 1:
        return list(images)
    if all(image.stride(0) == 1 for image in images):
        return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)
    return torch.stack(list(images))


def _alone(images: Source, row: int) -> Source:
    if isinstance(images, Reduced):
        return Reduced(images.images[row : row + 1], images.sizes[row : row + 1], images.scales[row : row + 1])
    return images[row][None]


def _columns(ops: Sequence[Drawn], sizes: Tensor) -> list[Column]:
    columns: list[Column] = []
    for op, params in ops:
        columns += op.lower(params, sizes)
        sizes = op.output_size(sizes)
    return columns


__all__ = ["Reduced", "Source", "is_levels", "render", "sizes_of", "together"]
