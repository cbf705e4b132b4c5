"""How kernels are compiled: when first called, without Python's lock, and kept on disk, for all of a machine's runs.

Until a kernel is called numba is not imported, which what only reads recipes need not wait for.

The compiler may neither reorder sums, nor fuse products with them, nor put a function of its own for one of ours: what
it made of that would hang on the processor, and with it the pixels. What is kept is kept for each kind of processor
(`NUMBA_CPU_NAME`, `NUMBA_CPU_FEATURES`) by itself.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from typing import Any, final

Function = Callable[..., Any]
_LOCK = threading.RLock()


@final
class Later:
    """A name of a kernel's file that stands for something of numba's, which is made when a kernel is first called.

    Compiled code reads the names of its file, so they are bound to what they stand for then, all at once; from there on
    a call within the file goes straight to the compiled function.
    """

    def __init__(self, make: Callable[[], Function], names: dict[str, Any]) -> None:
        self._make, self._names = make, names
        self._made: Function | None = None

    def __call__(self, *args: Any) -> Any:
        return self.made()(*args)

    def made(self) -> Function:
        """What it stands for."""
        with _LOCK:
            if self._made is None:
                self._made = self._make()
                for name, value in [*self._names.items()]:
                    if isinstance(value, Later):
                        self._names[name] = value.made()
            return self._made


def compiled(*, finite: bool = False) -> Callable[[Function], Function]:
    """A decorator. finite: no number is infinite or none, and no zero's sign matters, which spares instructions."""
    promised = {"nnan", "ninf", "nsz"} if finite else False

    def wrap(function: Function) -> Function:
        def make() -> Function:
            from numba import njit

            options: dict[str, Any] = {"nogil": True, "fastmath": promised, "error_model": "numpy"}
            try:
                return njit(cache=True, **options)(function)
            except RuntimeError:  # no folder to keep it in can be written to: every process compiles for itself
                return njit(**options)(function)

        return functools.update_wrapper(Later(make, function.__globals__), function)

    return wrap


def intrinsic(function: Function) -> Function:
    """A decorator: an instruction of the processor by its name in LLVM, as numba's own `intrinsic`."""

    def make() -> Function:
        from numba.extending import intrinsic

        return intrinsic(function)

    return Later(make, function.__globals__)


def array_at(names: dict[str, Any]) -> Function:
    """numba's `carray(pointer, shape, dtype)`, for the file whose names these are."""

    def make() -> Function:
        from numba import carray

        return carray

    return Later(make, names)
