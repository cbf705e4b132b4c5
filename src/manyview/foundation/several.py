"""Processes of one's own on this machine, joined into a group: what a launcher does, for a function."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from manyview.foundation.group import at_once, leave

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

# all that a run loads on its way: some 5 s of a core in each process that begins without it
LOADED = (
    *("manyview.training.train", "manyview.selftest.alike", "manyview.branches.backbones", "sklearn.datasets", "numba"),
    *("timm", "timm.optim", "timm.scheduler"),
    *("torch.utils.tensorboard", "torch.distributed.checkpoint", "torch.distributed.fsdp"),
)


def begins() -> ForkServerContext | SpawnContext:
    """How processes begin: as copies of one without threads that has loaded what a run needs, where there is fork."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([*LOADED])
    return context


def on_several(count: int, worker: Callable[..., None], *arguments: Any) -> None:
    """Runs `worker(rank, *arguments)` on so many processes of one thread each; raises what one of them raised.

    Each finds in its environment what a launcher says, and on CPUs that they are to be used; a group that it makes is
    ended. The worker must have a name in a module.
    """
    from torch.multiprocessing import start_processes  # loads torch.distributed's launcher

    told = (worker, count, free_port(), arguments)
    start_processes(_joined, told, nprocs=count, start_method=begins().get_start_method())


def _joined(rank: int, worker: Callable[..., None], count: int, port: int, arguments: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    try:
        worker(rank, *arguments)
        leave()
    except BaseException:
        atexit.register(at_once, 1)  # behind what torch does with the error; see `end`
        raise


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


__all__ = ["LOADED", "begins", "free_port", "on_several"]
