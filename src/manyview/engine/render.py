"""From ops and their drawn parameters to pixels, through one program for all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from manyview.engine.interpreter import execute
from manyview.engine.program import NEEDS_RGB, Column, Lowered, pack

Drawn = tuple[Lowered, dict[str, Tensor]]  # an op and its parameters [B, …]


def is_levels(images: Tensor | Sequence[Tensor]) -> bool:
    """Whether these are what programs take: grey levels on the CPU."""
    first = images if isinstance(images, Tensor) else images[0] if len(images) else torch.empty(0)
    return first.dtype == torch.uint8 and first.device.type == "cpu"


def render(ops: Sequence[Drawn], images: Tensor | Sequence[Tensor], repeat: int = 1) -> Tensor | list[Tensor] | None:
    """The images after all ops, uint8 [B*repeat, C, h, w]; None where a program cannot: ops that need RGB, without it.

    images: uint8 on the CPU, [B, C, H, W] or B of unlike sizes, which come back as a list if they stay unlike.
    repeat: rows of parameters for each image.
    """
    count = len(images)
    if not count:
        return None
    if isinstance(images, Tensor):
        sizes, alike = torch.tensor([images.shape[-2:]]), True
    else:
        sizes = torch.tensor([image.shape[-2:] for image in images])
        alike = bool((sizes == sizes[0]).all())
    columns = _columns(ops, sizes.expand(count, 2).repeat_interleave(repeat, dim=0))
    if images[0].shape[0] != 3 and any(np.isin(column.code, NEEDS_RGB).any() for column in columns):
        return None
    if alike or columns[0].size is not None:
        size = (int(sizes[0, 0]), int(sizes[0, 1])) if alike else None
        return execute(pack(columns, count * repeat, size), images, repeat)
    each = [
        render([(op, {k: v[i : i + 1] for k, v in params.items()}) for op, params in ops], images[i // repeat][None])
        for i in range(count * repeat)
    ]
    made = [one[0] for one in each if one is not None]
    return torch.stack(made) if len({image.shape for image in made}) == 1 else made


def _columns(ops: Sequence[Drawn], sizes: Tensor) -> list[Column]:
    columns: list[Column] = []
    for op, params in ops:
        columns += op.lower(params, sizes)
        sizes = op.output_size(sizes)
    return columns


__all__ = ["is_levels", "render"]
