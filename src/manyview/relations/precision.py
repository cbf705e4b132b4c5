"""Losses in float32, whatever the precision around them: normalisation, exponentials and sums need the digits."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

import torch
from torch import Tensor

from manyview.foundation.autocast import autocast

P = ParamSpec("P")


def in_float32(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The function with its bfloat16 and float16 tensors made float32 and autocast off; float64 stays float64.

    The result is float32 (or float64); gradients arrive in the precision that was given.
    """

    @wraps(function)
    def raised(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        device = tensors[0].device.type if tensors else "cpu"
        with autocast(device, enabled=False):
            return function(*map(_raise, args), **{key: _raise(value) for key, value in kwargs.items()})

    return raised


def _raise(value: Any) -> Any:
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.to(torch.promote_types(value.dtype, torch.float32))
    return value


def check_temperature(temperature: float) -> None:
    """Raises ValueError unless the temperature is positive."""
    try:
        positive = not isinstance(temperature, bool) and bool(temperature > 0)  # of any number, a tensor's too
    except TypeError:
        positive = False
    if not positive:
        raise ValueError(f"temperature must be positive, got {temperature!r}")
