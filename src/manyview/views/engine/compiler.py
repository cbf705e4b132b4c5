"""How kernels are compiled: when first called, without Python's lock, and kept on disk, for all of a machine's runs.

Until a kernel is called numba is not imported, which what only reads recipes need not wait for.

The compiler may neither reorder sums, nor fuse products with them, nor put a function of its own for one of ours: what
it made of that would hang on the processor, and with it the pixels. What is kept is kept for each kind of processor
(`NUMBA_CPU_NAME`, `NUMBA_CPU_FEATURES`) by itself.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable
from typing import Any, final

from manyview.foundation.streams import RENDERER

Function = Callable[..., Any]
_LOCK = threading.RLock()
_LOG = logging.getLogger(RENDERER)  # on stderr, unless a program that logs puts it elsewhere
_OURS: set[Function] = set()
_TOLD = threading.Event()


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

            _tell_when_compiling()
            options: dict[str, Any] = {"nogil": True, "fastmath": promised, "error_model": "numpy"}
            try:
                made = njit(cache=True, **options)(function)
            except RuntimeError:  # no folder to keep it in can be written to: every process compiles for itself
                made = njit(**options)(function)
            _OURS.add(made.py_func)
            return made

        return functools.update_wrapper(Later(make, function.__globals__), function)

    return wrap


@functools.cache
def _tell_when_compiling() -> None:
    """One line in a process, when the first of our kernels is compiled that was not kept on disk."""
    from numba.core import event

    @final
    class Tell(event.Listener):
        def on_start(self, event: Any) -> None:
            if event.data["dispatcher"].py_func in _OURS and not _TOLD.is_set():
                _TOLD.set()
                _LOG.warning("manyview: compiling the renderer, on a machine's first run alone: some 20 s")

        def on_end(self, event: Any) -> None:
            pass

    event.register("numba:compile", Tell())


def intrinsic(function: Function) -> Function:
    """A decorator: an instruction of the processor by its name in LLVM, as numba's own `intrinsic`."""

    def make() -> Function:
        from numba.extending import intrinsic

        return intrinsic(function)

    return Later(make, function.__globals__)


@functools.cache
def lanes_type(*, floats: bool = False) -> Any:
    """The compiler's type of sixteen numbers of 32 bits, whole ones or floats."""
    from llvmlite import ir
    from numba import types
    from numba.core.datamodel import models
    from numba.extending import register_model

    @final
    class Lanes(types.Type):
        pass

    @register_model(Lanes)
    @final
    class LanesModel(models.PrimitiveModel):
        def __init__(self, manager: Any, kind: Any) -> None:
            super().__init__(manager, kind, ir.VectorType(ir.FloatType() if floats else ir.IntType(32), 16))

    return Lanes("floats" if floats else "lanes")


def array_at(names: dict[str, Any]) -> Function:
    """numba's `carray(pointer, shape, dtype)`, for the file whose names these are."""

    def make() -> Function:
        from numba import carray

        return carray

    return Later(make, names)
