"""What an op is: sample -> params -> render, each a pure function, and the difference of two draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from manyview.views.draws import Draws

Params = dict[str, Tensor]  # what one op drew: name -> [B, …]
ViewParams = Mapping[str, Mapping[str, Tensor]]  # what all ops of a view drew: op name -> Params

# bounds on the numbers of a recipe: what is larger is a slip of the pen, and would cost time or memory before it showed
COUNTABLE = 10**12  # of anything
PIXELS = 1 << 16  # a side of an image, a padding, a kernel
TURNS = 256  # ops that a policy applies one after the other, chains, members of a family
WIDTH = 1 << 18  # columns of a layer
ROWS = 1 << 20  # keys of a queue, prototypes


class Op(Protocol):
    """A frozen dataclass whose fields are the op's arguments in a recipe, checked on construction.

    The coin ("was it applied?") is a parameter like the others. Ops keep nothing between calls and never write into
    the images that they are given.

    An op whose draws have an opposite names them in a class attribute, `anti: ClassVar = ("top", "left")`: those of its
    numbers that a view with `anti:` turns, u -> 1 - u, while all others are those of the view it is opposite to.
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


@dataclass(frozen=True)
class Made:
    """An op on the way to a view, with what it drew for each row, and the heights and widths it saw, int64 [B, 2]."""

    op: Op
    params: Params
    sizes: Tensor

    def taken(self, rows: Tensor) -> Made:
        """The same of these rows."""
        return Made(self.op, {name: value[rows] for name, value in self.params.items()}, self.sizes[rows])


@runtime_checkable
class LooksBack(Protocol):
    """An op that draws nothing: its parameters follow from what the ops before it drew, from the image on."""

    def look(self, way: Sequence[Made]) -> Params:
        """Its parameters [B, …], a pure function of the way."""
        ...

    def check_way(self, before: Sequence[Op]) -> None:
        """Raises ValueError where it cannot stand behind these ops."""
        ...


@runtime_checkable
class Retargets(Protocol):
    """An op that changes the target of its view."""

    def retarget(self, target: Tensor | None, params: Params, classes: int | None) -> Tensor | None:
        """Soft targets [B, classes] from labels [B] or soft targets; None stays None."""
        ...


def turnable(op: object) -> tuple[str, ...]:
    """The names of an op's draws, or those of its class, that `anti` turns; none where it does not say."""
    return tuple(getattr(op, "anti", ()))


def as_float(images: Tensor) -> Tensor:
    """Pixels in [0, 1] as floats; floats pass unchanged."""
    return images if images.is_floating_point() else images.float() / 255


def as_uint8(images: Tensor) -> Tensor:
    """The nearest of 256 grey levels; uint8 passes unchanged."""
    if not images.is_floating_point():
        return images
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def on_levels(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """A function of 256 grey levels, uint8 to uint8; floats are rounded to levels for it and come back as floats."""
    changed = function(as_uint8(images))
    return changed.to(images.dtype) / 255 if images.is_floating_point() else changed


def beside(values: Any, like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers of Python, or a tensor of the host, where `like` lies: sent there without waiting for the device.

    `torch.tensor(values, device=…)` and a plain `to` hold up the host until the device has done all that it was told.
    """
    return torch.as_tensor(values, dtype=dtype).to(like.device, non_blocking=True)


def per_image(values: Tensor, images: Tensor) -> Tensor:
    """One number an image [B], shaped [B, 1, 1, 1] for arithmetic with float images on their device."""
    dtype = images.dtype if images.is_floating_point() else torch.float32
    return beside(values, images).to(dtype).view(-1, 1, 1, 1)


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


def as_symmetric(name: str, value: float | tuple[float, float], bound: float) -> tuple[float, float]:
    """A (low, high) pair within [-bound, bound], or ValueError; a single number n >= 0 stands for (-n, n)."""
    if type(value) in (int, float) and 0 <= value <= bound:  # type: ignore[operator]
        return float(-value), float(value)  # type: ignore[operator, arg-type]
    if isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number in [0, {bound:g}] or a pair (low, high), got {value!r}")
    return as_range(name, value, -bound, bound)


def draw(draws: Draws, name: str, ends: tuple[float, float]) -> Tensor:
    """One number an image, uniform in (low, high), float64 [B]."""
    return draws.uniform(name, 1, *ends)[:, 0]


def over_span(a: Params, b: Params, name: str, ends: tuple[float, float], neutral: float) -> Tensor:
    """A parameter's value in a minus that in b [B, 1], over the span of ends and neutral, so that it lies in [-1, 1].

    `neutral` is the value that changes nothing and stands for "not applied".
    """
    span = max(*ends, neutral) - min(*ends, neutral)
    value_a, value_b = (torch.where(p["applied"], p[name].double(), neutral) for p in (a, b))
    return ((value_a - value_b) / (span or 1.0))[:, None]


def coin_difference(a: Params, b: Params) -> Tensor:
    """Applied in a minus applied in b [B, 1]."""
    return (a["applied"].double() - b["applied"].double())[:, None]


def check_rgb(name: str, images: Tensor) -> None:
    """Raises ValueError for images [B, C, H, W] that an op cannot take as red, green and blue."""
    if images.shape[1] != 3:
        raise ValueError(f"{name} needs RGB images with 3 channels, got {images.shape[1]}")


def check_probability(p: float) -> None:
    """Raises ValueError unless p is a probability."""
    if isinstance(p, bool) or not isinstance(p, (int, float)) or not 0 <= p <= 1:
        raise ValueError(f"p must be a probability in [0, 1], got {p!r}")


def check_share(name: str, value: float) -> None:
    """Raises ValueError unless value is a number in [0, 1]."""
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def check_not_negative(name: str, value: float) -> None:
    """Raises ValueError unless value is a finite number of at least 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of at least 0, got {value!r}")


def check_kind(name: str, value: object, kind: type | UnionType, what: str) -> None:
    """Raises ValueError unless value is of that kind, which users call `what`."""
    if not isinstance(value, kind):
        raise ValueError(f"{name} must be {what}, got {value!r}")


def check_whole(name: str, value: int, least: int = 1, most: int = COUNTABLE) -> None:
    """Raises ValueError unless value is a whole number of at least `least` and at most `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r}")
    if value > most:
        raise ValueError(f"{name} must be at most {most:,}, got {value!r}")
