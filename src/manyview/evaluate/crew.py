"""Processes that judge together: the first leads, and the others do their part of each task that it names.

Only the first runs protocols, so what they find is written once and is not asked twice. Whenever a split has to pass
through the network, it names that task; then part number n of the images is read and looked at by process n modulo
their count, and the first joins what all made in the order of the parts. The parts are those of a single process, so
the outputs are, bit for bit. Between tasks the others look every now and then for the next one: that is no collective
operation, so no time-out of the process group hangs on how long a probe takes.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, final

import torch
import torch.distributed as dist
from torch import Tensor

from manyview.errors import RunError
from manyview.foundation.group import alone

T = TypeVar("T")
PAUSE = 0.05
"""Seconds between two looks for a task."""

Task = dict[str, Any]
Post = Callable[[Task], None]


@final
@dataclass(frozen=True)
class Crew:
    """The processes of the group. rank: of this one. device: where what they tell each other lies."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the first process."""
        return self.rank == 0

    def anywhere(self, flag: bool) -> bool:
        """Whether the flag is set on any process."""
        told = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(told)
        return bool(told)

    def joined(self, value: T) -> list[T]:
        """The values of all processes in order, on the first; empty on the others."""
        found: list[Any] | None = [None] * self.world if self.leads else None
        dist.gather_object(value, found)
        return found or []

    def alike(self, tensors: Iterable[Tensor]) -> None:
        """Makes tensors those of the first process, bit by bit; those spread over the processes are the same anyway."""
        for tensor in tensors:
            if hasattr(tensor, "full_tensor"):  # a DTensor
                continue
            whole = tensor.detach().contiguous().to(self.device)
            dist.broadcast(whole.reshape(-1).view(torch.uint8), 0)
            if not self.leads:
                tensor.detach().copy_(whole)


def crew_of(device: torch.device) -> Crew | None:
    """The processes of the group, if there are several."""
    return None if alone() else Crew(dist.get_rank(), dist.get_world_size(), device)


def led(crew: Crew | None, work: Callable[[Post | None], T], help: Callable[[Task], object]) -> T | None:
    """What `work` gives on the first process; the others do with `help` all tasks that it posts, and get None.

    work: receives what posts a task, of which the first then does its own part; None where it is alone. All processes
    call this at the same place. Raises RunError on the others where the first fails, which tells why.
    """
    if crew is None:
        return work(None)
    token: list[Any] = [time.time_ns()]
    dist.broadcast_object_list(token, 0)
    board = _Board(f"manyview/judge/{token[0]}")
    if not crew.leads:
        for task in board.tasks():
            help(task)
        return None
    failed = True
    try:
        found = work(board.post)
        failed = False
    finally:
        board.end(failed)
    return found


class _Board:
    """Tasks in the store by which the processes found each other, each under its number."""

    def __init__(self, name: str) -> None:
        self._store = dist.distributed_c10d._get_default_store()
        self._name, self._numbers = name, itertools.count()

    def post(self, task: Task) -> None:
        """Calls the others."""
        self._store.set(f"{self._name}/{next(self._numbers)}", json.dumps(task))

    def end(self, failed: bool) -> None:
        """Lets the others go."""
        self.post({"end": failed})

    def tasks(self) -> Iterable[Task]:
        """All that come, until the end."""
        for number in self._numbers:
            task = self._await(f"{self._name}/{number}")
            if "end" not in task:
                yield task
                continue
            if task["end"]:
                raise _given_up()
            return

    def _await(self, key: str) -> Task:
        try:
            while not self._store.check([key]):
                time.sleep(PAUSE)
            return json.loads(self._store.get(key))
        except dist.DistError:  # the store was the first process's, and went with it
            raise _given_up() from None


def _given_up() -> RunError:
    error = RunError("the first process could not go on, and tells why")
    error.tells = False
    return error
