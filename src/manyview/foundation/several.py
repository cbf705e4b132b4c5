"""Processes of one's own on this machine, joined into a group: what a launcher does, for a function."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch


def on_several(count: int, worker: Callable[..., None], *arguments: Any, method: str = "spawn") -> None:
    """Runs `worker(rank, *arguments)` on so many processes of one thread each; raises what one of them raised.

    Each finds in its environment what a launcher says, and on CPUs that they are to be used; a group that it makes is
    ended. The worker must have a name in a module. method: how processes start, as of `multiprocessing`.
    """
    from torch import multiprocessing  # loads torch.distributed's launcher

    multiprocessing.start_processes(
        _joined, (worker, count, free_port(), arguments), nprocs=count, start_method=method
    )  # fmt: skip


def _joined(rank: int, worker: Callable[..., None], count: int, port: int, arguments: tuple[Any, ...]) -> None:
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(count), LOCAL_WORLD_SIZE=str(count))
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    torch.set_num_threads(1)
    worker(rank, *arguments)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
