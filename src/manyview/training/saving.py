"""Checkpoints on their way to the disk while training goes on, and those that are kept behind one another."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor

from manyview.errors import ManyviewError, RunError
from manyview.foundation.disk import sync
from manyview.foundation.files import write_state

LARGE = 2**23  # bytes of a state from which on training does not wait for the disk
AHEAD = 2  # checkpoints that may wait to be written: the best and the last of one update
WHOLE = "; what was saved before is whole, and the run goes on from there with --resume"


def older(path: Path, number: int) -> Path:
    """What the checkpoint of so many before is called: last.pt, last-1.pt, last-2.pt."""
    return path.with_stem(f"{path.stem}-{number}") if number else path


def kept(path: Path) -> list[Path]:
    """The checkpoints of one name that are there, the newest first."""
    found = {int(each.stem.removeprefix(f"{path.stem}-")): each for each in path.parent.glob(f"{path.stem}-*.pt")
             if each.stem.removeprefix(f"{path.stem}-").isdecimal()}  # fmt: skip
    return [path] * path.is_file() + [found[number] for number in sorted(found)]


def move_on(path: Path, count: int) -> None:
    """Makes room for a new checkpoint: each is the one before from now on, and with the new one `count` remain.

    Whenever this is cut off, there is one of the name, unless the file system has no hard links.
    """
    if not path.is_file():
        return
    for each in kept(path)[count:]:
        each.unlink()
    free = next((number for number in range(1, count) if not older(path, number).is_file()), count - 1)
    for number in range(free, 1, -1):
        os.replace(older(path, number - 1), older(path, number))
    if count > 1:
        _also_called(path, older(path, 1))


def _also_called(path: Path, name: Path) -> None:
    temporary = path.with_name(f".{name.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        os.link(path, temporary)
    except OSError:  # a file system without them
        os.replace(path, name)
    else:
        os.replace(temporary, name)


@final
class Saver:
    """Writes checkpoints in the order in which they come: large ones by a thread, copied before; small ones at once.

    count: how many of one name are kept. As a context it waits in the end for what is under way.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="manyview-saver")
        self._under_way: deque[Future[list[Tensor]]] = deque()
        self._spare: list[list[Tensor]] = []

    def save(self, path: Path, state: Mapping[str, Any], after: Path | None = None, alone: bool = False) -> None:
        """Writes a state, or begins to. Raises RunError where it, or one before, cannot be written.

        after: a file whose bytes are to be on the disk before. alone: the one of before is not kept.
        """
        if sum(tensor.nbytes for tensor in tensors_in(state)) < LARGE:
            self.wait()
            self._write(path, state, [], after, alone)
            return
        while len(self._under_way) >= AHEAD:
            self._take()
        made = Copy(self._spare.pop() if self._spare else [])
        copied = made.of(state)
        if any(tensor.is_pinned() for tensor in made.taken):
            torch.cuda.synchronize()  # they were copied from the GPU without waiting for each
        self._under_way.append(self._thread.submit(self._write, path, copied, made.taken, after, alone))

    def wait(self) -> None:
        """Until all is written. Raises RunError where it cannot be."""
        while self._under_way:
            self._take()

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        try:
            with contextlib.suppress(*([] if kind is None else [ManyviewError])):  # the first error is the news
                self.wait()
        finally:
            self._thread.shutdown()

    def _take(self) -> None:
        self._spare.append(self._under_way.popleft().result())

    def _write(self, path: Path, state: Any, taken: list[Tensor], after: Path | None, alone: bool) -> list[Tensor]:
        try:
            if after is not None and after.is_file():
                sync(after)
            write_state(path, state, partial(move_on, count=1 if alone else self._count))
        except (OSError, RunError) as error:
            raise RunError(f"{error}{WHOLE if kept(path) else ''}") from None
        return taken


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of a state."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple):
        for each in value.values() if isinstance(value, dict) else value:
            yield from tensors_in(each)


@final
class Copy:
    """Copies states into memory of before, whose pages need not be fetched anew: the n-th tensor into that of the n-th.

    taken: what was copied, to be given to the next. Tensors that are the same memory stay so.
    """

    def __init__(self, spare: list[Tensor]) -> None:
        self._spare: Iterator[Tensor] = iter(spare)
        self._known: dict[Any, Tensor] = {}
        self.taken: list[Tensor] = []

    def of(self, value: Any) -> Any:
        """The value with copies of its tensors, on the CPU."""
        if isinstance(value, Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            copied = copy(value)  # with the versions of modules that torch keeps beside their state
            copied.update({key: self.of(each) for key, each in value.items()})
            return copied
        return type(value)(map(self.of, value)) if type(value) in (list, tuple) else value

    def _tensor(self, tensor: Tensor) -> Tensor:
        tensor = tensor.detach()
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if key not in self._known or not tensor.numel():
            spare = next(self._spare, None)
            if spare is None or (spare.shape, spare.dtype) != (tensor.shape, tensor.dtype):
                spare = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
            self._known[key] = spare.copy_(tensor, non_blocking=True)
            self.taken.append(spare)
        return self._known[key]
