"""Processes of their own for tests, forked from one server that has imported everything.

A fresh interpreter takes seconds each, and a fork of this process would inherit its threads. What runs there must have
a name in a test's module.
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

from manyview.foundation import several

LOADED = [
    "manyview.cli",
    "manyview.training.train",
    "torch.utils.tensorboard",
]  # once for all who ask: of all, the union


def server() -> ForkServerContext:
    """Where processes begin, with all that a run needs loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context


def on_two(worker: Callable[..., None], *arguments: Any) -> None:
    """Runs `worker(rank, *arguments)` on two processes of one thread that may join; raises what one of them raised."""
    on_several(2, worker, *arguments)


def on_several(count: int, worker: Callable[..., None], *arguments: Any) -> None:
    """As `on_two`, on so many."""
    server()
    several.on_several(count, worker, *arguments, method="forkserver")
