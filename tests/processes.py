"""Processes of their own for tests, forked from one server that has imported everything.

A fresh interpreter takes seconds each, and a fork of this process would inherit its threads. What runs there must have
a name in a test's module.
"""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from typing import Any

import torch
import torch.multiprocessing as mp

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
    mp.start_processes(_joined, (worker, _free_port(), count, arguments), nprocs=count, start_method="forkserver")


def _joined(rank: int, worker: Callable[..., None], port: int, count: int, arguments: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), MASTER_ADDR="127.0.0.1")
    os.environ.update(MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    worker(rank, *arguments)
    torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
