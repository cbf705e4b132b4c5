"""How kernels are compiled: without Python's lock, and kept on disk, so that a machine compiles them once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(*, fast: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator. fast: sums may be reordered and products fused, where the last bit does not matter."""

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {"nogil": True, "fastmath": {"nnan", "ninf", "nsz"} if fast else False, "error_model": "numpy"}
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in can be written to: every process compiles for itself
            return njit(**options)(function)

    return wrap
