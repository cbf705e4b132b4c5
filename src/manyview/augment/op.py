"""What an op is: sample -> params -> render, each a pure function, and the difference of two draws."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from manyview.draws import Draws

Params = dict[str, Tensor]  # what one op drew: name -> [B, …]
ViewParams = Mapping[str, Mapping[str, Tensor]]  # what all ops of a view drew: op name -> Params


class Op(Protocol):
    """A frozen dataclass whose fields are the op's arguments in a recipe, checked on construction.

    The coin ("was it applied?") is a parameter like the others. Ops keep nothing between calls and never write into
    the images that they are given.
    """

    def sample(self, draws: Draws, sizes: Tensor) -> Params:
        """Draws parameters for a batch. sizes: heights and widths the op will see, int64 [B, 2]."""
        ...

    def render(self, images: Tensor, params: Params) -> Tensor:
        """Applies drawn parameters. images: [B, C, H, W], uint8, or float in [0, 1]; returns one of the two."""
        ...

    def difference(self, a: Params, b: Params, frame: ViewParams | None = None) -> Tensor:
        """How two draws differ, [B, k], a minus b; `frame` is all that view a drew, for ops whose frame can flip."""
        ...

    def output_size(self, sizes: Tensor) -> Tensor:
        """Heights and widths after the op, int64 [B, 2], from those before."""
        ...


def as_float(images: Tensor) -> Tensor:
    """Pixels in [0, 1] as floats; floats pass unchanged."""
    return images if images.is_floating_point() else images.float() / 255


def as_uint8(images: Tensor) -> Tensor:
    """The nearest of 256 grey levels; uint8 passes unchanged."""
    if not images.is_floating_point():
        return images
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """One number an image [B], shaped [B, 1, 1, 1] for arithmetic with float images on their device."""
    dtype = images.dtype if images.is_floating_point() else torch.float32
    return values.to(images.device, dtype).view(-1, 1, 1, 1)


def where_applied(applied: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    """`changed` for the images the coin chose, the others as they were (in the dtype of `changed`)."""
    if changed.is_floating_point():
        images = as_float(images)
    return torch.where(applied.to(images.device).view(-1, 1, 1, 1), changed, images)


def as_range(name: str, value: float | tuple[float, float], low: float, high: float) -> tuple[float, float]:
    """A (low, high) pair within bounds, or ValueError; a single number n stands for (n, n)."""
    pair = (value, value) if isinstance(value, (int, float)) else value
    whole = isinstance(pair, (tuple, list)) and len(pair) == 2 and all(type(end) in (int, float) for end in pair)
    if not whole or not low <= pair[0] <= pair[1] <= high:
        raise ValueError(f"{name} must be a number or a pair (low, high) within [{low:g}, {high:g}], got {value!r}")
    return float(pair[0]), float(pair[1])


def check_probability(p: float) -> None:
    """Raises ValueError unless p is a probability."""
    if not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ValueError(f"p must be a probability in [0, 1], got {p!r}")


def check_whole(name: str, value: int, least: int = 1) -> None:
    """Raises ValueError unless value is a whole number of at least `least`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
