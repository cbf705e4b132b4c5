"""What a corruption is: sample -> params -> render, each a pure function; and the random fields beneath them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor

from manyview.augment.op import Params, as_uint8, check_rgb
from manyview.draws import Draws

Levels = NDArray[np.uint8]  # one picture of 256 grey levels, [H, W, 3]
Field = NDArray[np.float64]  # [H, W], or [H, W, 3] in [0, 1]


class Corruption(Protocol):
    """A frozen dataclass: how strong, and with which of the two published sets of constants.

    All that is random is drawn by `sample` and stands in the params: an angle, a corner, or the `key` from which a
    field of noise, too large to keep, is made again.
    """

    @property
    def severity(self) -> int:
        """1 to 5."""
        ...

    @property
    def size(self) -> int:
        """224 for ImageNet-C's constants, 32 for those of CIFAR-10-C; images of any height and width can be given."""
        ...

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        """Draws parameters for a batch; deterministic corruptions have none. sizes: int64 [B, 2], as for ops."""
        ...

    def render(self, images: Tensor, params: Params) -> Tensor:
        """Corrupts a batch. images: RGB [B, 3, H, W], uint8, or float in [0, 1], which is rounded to 256 levels.

        Returns the same dtype, on the same device; floats are whole levels over 255. Every image is worked on alone
        and on the CPU, so that its result has the same bits in any batch.
        """
        ...


def paint_each(images: Tensor, paint: Callable[..., Levels], *params: Tensor) -> Tensor:
    """`paint(levels, *params of the image)` for each image of a batch [B, 3, H, W], in its dtype and on its device.

    Raises ValueError for images that are not RGB batches, or parameters that do not have one row an image.
    """
    if images.ndim != 4:
        raise ValueError(f"expected images [B, 3, H, W], got {tuple(images.shape)}")
    check_rgb("a corruption", images)
    if any(len(column) != len(images) for column in params):
        raise ValueError(f"{len(images)} images have parameters for {[len(column) for column in params]}")
    levels = as_uint8(images).cpu().permute(0, 2, 3, 1).numpy()
    columns = [column.cpu().numpy() for column in params]
    painted = np.empty(levels.shape, np.uint8)
    for row, picture in enumerate(levels):
        painted[row] = paint(np.ascontiguousarray(picture), *(column[row] for column in columns))
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


def draw_keys(draws: Draws) -> Tensor:
    """A number of 62 random bits an image, int64 [B], that stands for all its random fields."""
    high, low = draws.integers("key", 2**31, 2).unbind(dim=1)
    return high * 2**31 + low


def uniform_field(key: int, name: str, *shape: int) -> Field:
    """Uniform numbers in [0, 1), float64: a pure function of key, name and position in the flattened shape."""
    drawn = Draws(0, 0, [int(key)], "corruption field").uniform(name, int(np.prod(shape)))
    return drawn.numpy().reshape(shape)


def normal_field(key: int, name: str, *shape: int) -> Field:
    """Standard normal numbers: the inverse distribution function of `uniform_field`, at the middle of its steps."""
    return ndtri(uniform_field(key, name, *shape) + 2.0**-33)
