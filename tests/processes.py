"""Processes of their own for tests, forked from one server that has imported everything.

A fresh interpreter takes seconds each, and a fork of this process would inherit its threads. What runs there must have
a name in a test's module.
"""

from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

from manyview.foundation.several import begins, on_several


def server() -> ForkServerContext:
    """Where processes begin, with all that a run needs loaded."""
    return begins()


def on_two(worker: Callable[..., None], *arguments: Any) -> None:
    """Runs `worker(rank, *arguments)` on two processes of one thread that may join; raises what one of them raised."""
    on_several(2, worker, *arguments)


__all__ = ["on_several", "on_two", "server"]
