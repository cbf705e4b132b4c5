"""Painting one picture at a time: levels, and the random fields that a key stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyview.evaluate.corruptions.severities import Row
from manyview.views.draws import Draws
from manyview.views.ops.op import Params, as_uint8, check_rgb

Levels = NDArray[np.uint8]  # one picture of 256 grey levels, [H, W, 3]
Field = NDArray[np.float64]  # [H, W], or [H, W, 3] in [0, 1]


def paint_each(images: Tensor, paint: Callable[..., Levels], params: Params) -> Tensor:
    """`paint(levels, **params of the image)` for each image of a batch [B, 3, H, W], in its dtype and on its device.

    Raises ValueError for images that are not RGB batches, or parameters that do not have one row an image.
    """
    if images.ndim != 4:
        raise ValueError(f"expected images [B, 3, H, W], got {tuple(images.shape)}")
    check_rgb("a corruption", images)
    columns = {name: column.cpu().numpy() for name, column in params.items()}
    if any(len(column) != len(images) for column in columns.values()):
        raise ValueError(f"{len(images)} images have parameters for {[len(column) for column in columns.values()]}")
    levels = as_uint8(images).cpu().permute(0, 2, 3, 1).numpy()
    painted = np.empty(levels.shape, np.uint8)
    for row, picture in enumerate(levels):
        painted[row] = paint(np.ascontiguousarray(picture), **{name: column[row] for name, column in columns.items()})
    result = torch.from_numpy(painted).permute(0, 3, 1, 2).contiguous().to(images.device)
    return result.to(images.dtype) / 255 if images.is_floating_point() else result


def as_unit(picture: Levels) -> Field:
    """Levels as float64 in [0, 1]."""
    return picture / 255.0


def as_levels(values: NDArray[Any]) -> Levels:
    """Floats, clipped to [0, 1], as levels: cut off, not rounded, as in the published code.

    A value within a millionth below a level is that level. In the published code the last bit of a sum decides there,
    so that flat parts of a blurred image, say, are a level darker on some machines.
    """
    return (np.clip(values, 0, 1) * 255 + 1e-6).astype(np.uint8)


def draw_nothing(draws: Draws, constants: Row) -> Params:
    """For corruptions in which nothing is random."""
    return {}


def draw_key(draws: Draws, constants: Row) -> Params:
    """`key`: a number of 62 random bits an image, int64 [B], that stands for all its random fields."""
    high, low = draws.integers("key", 2**31, 2).unbind(dim=1)
    return {"key": high * 2**31 + low}


def uniform_field(key: int, name: str, *shape: int) -> Field:
    """Uniform numbers in [0, 1), float64: a pure function of key, name and position in the flattened shape."""
    drawn = Draws(0, 0, [int(key)], "corruption field").uniform(name, int(np.prod(shape)))
    return drawn.numpy().reshape(shape)


def normal_field(key: int, name: str, *shape: int) -> Field:
    """Standard normal numbers: the inverse distribution function of `uniform_field`, at the middle of its steps."""
    from scipy.special import ndtri

    return ndtri(uniform_field(key, name, *shape) + 2.0**-33)
