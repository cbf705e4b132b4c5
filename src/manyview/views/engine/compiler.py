"""How kernels are compiled: without Python's lock, and kept on disk, so that a machine compiles them once.

The compiler may neither reorder sums, nor fuse products with them, nor put a function of its own for one of ours: what
it made of that would hang on the processor, and with it the pixels. What is kept is kept for each kind of processor
(`NUMBA_CPU_NAME`, `NUMBA_CPU_FEATURES`) by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(*, finite: bool = False) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator. finite: no number is infinite or none, and no zero's sign matters, which spares instructions."""
    promised = {"nnan", "ninf", "nsz"} if finite else False

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        options: dict[str, Any] = {"nogil": True, "fastmath": promised, "error_model": "numpy"}
        try:
            return njit(cache=True, **options)(function)
        except RuntimeError:  # no folder to keep it in can be written to: every process compiles for itself
            return njit(**options)(function)

    return wrap
