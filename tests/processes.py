"""Processes of their own for tests, forked from one server that has imported everything.

A fresh interpreter takes seconds each, and a fork of this process would inherit its threads. What runs there must have
a name in a test's module.
"""

import os
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from manyview.foundation import several


def server() -> ForkServerContext:
    """Where processes begin, with all that a run needs loaded and a view drawn, which took each a fifth of a second."""
    context = several.begins()
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([*several.LOADED, "rendered"])
        with pytest.MonkeyPatch.context() as patch:  # the server knows no other paths
            patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
            patch.setenv("OMP_NUM_THREADS", "1")  # its copies shall find none of its threads
            forkserver.ensure_running()
    return context


def on_several(count: int, worker: Callable[..., None], *arguments: Any) -> None:
    """Runs `worker(rank, *arguments)` on so many processes of one thread that may join; raises what one of them did."""
    server()
    several.on_several(count, worker, *arguments)


def on_two(worker: Callable[..., None], *arguments: Any) -> None:
    """The same on two."""
    on_several(2, worker, *arguments)


__all__ = ["on_several", "on_two", "server"]
