"""Which image each worker is at, in memory that it shares, so that one that ends it, or keeps it busy, can be named."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import struct
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, final

from torch.utils.data import DataLoader, get_worker_info

from manyview.data.decode import BadImage
from manyview.data.images import Images
from manyview.errors import shown

T = TypeVar("T")
PATIENCE = 300.0  # seconds that an image may take to be read, where nobody says
LOST = re.compile(r"(is killed by signal: \w+( \w+)?|exited unexpectedly)")  # what torch says of a worker that is gone
_HEAD = struct.Struct("qdq")  # process, when it began, length of the name
_SLOT = 1024


@final
class Desks:
    """What lies before each of some workers: nothing, or an image's name and since when."""

    def __init__(self, workers: int) -> None:
        self._memory: Any = multiprocessing.RawArray("c", max(workers, 1) * _SLOT)

    def put(self, worker: int, name: str) -> None:
        """An image is begun; an empty name: it is done."""
        text = name.encode(errors="surrogateescape")[: _SLOT - _HEAD.size]
        at = worker * _SLOT
        self._memory[at : at + _HEAD.size] = _HEAD.pack(os.getpid(), time.monotonic(), len(text))
        self._memory[at + _HEAD.size : at + _HEAD.size + len(text)] = text

    def __iter__(self) -> Iterator[tuple[int, float, str]]:
        """(process, seconds since, name) of all images that are being read."""
        for at in range(0, len(self._memory), _SLOT):
            process, began, length = _HEAD.unpack(self._memory[at : at + _HEAD.size])
            if length:
                name = self._memory[at + _HEAD.size : at + _HEAD.size + length]
                yield process, time.monotonic() - began, name.decode(errors="surrogateescape")


class LostError(Exception):
    """A worker is gone. how: what became of it, as the end of a sentence; raw: the image it was at, or ""."""

    def __init__(self, how: str, raw: str, hung: bool) -> None:
        super().__init__(how)
        self.how, self.raw, self.name, self.hung = how, raw, shown(raw), hung


@final
class _Here:
    """Of this process, where it is a worker: its desk, and images that are not to be read, with a line on each."""

    worker = 0
    desks: Desks | None = None
    left_out: Mapping[str, str] = {}


@contextmanager
def at_desk(desks: Desks, left_out: Mapping[str, str]) -> Iterator[None]:
    """What a worker reads meanwhile is noted. In another process nothing is."""
    if (own := get_worker_info()) is not None:
        _Here.worker, _Here.desks, _Here.left_out = own.id, desks, left_out
    yield


def watched(images: Images, position: int, scale: int) -> Any:
    """An image, read under the eyes of the process that the worker is of. Raises BadImage."""
    if _Here.desks is None:
        return images.read(position, scale) if scale > 1 else images.read(position)
    name = images.name(position)
    if name in _Here.left_out:
        raise BadImage(_Here.left_out[name])
    _Here.desks.put(_Here.worker, name)
    try:
        return images.read(position, scale) if scale > 1 else images.read(position)
    finally:
        _Here.desks.put(_Here.worker, "")


def handed(loader: DataLoader[T], desks: Desks, patience: float) -> Generator[T, None, None]:
    """What workers hand over. Raises LostError where one is gone, or is ended for it was at one image for too long."""
    rest, hung, gone = iter(loader), "", ""
    while not gone:
        try:
            made = next(rest)
        except StopIteration:
            return
        except RuntimeError as error:
            if LOST.search(str(error)):
                gone = str(error)
            elif "timed out" not in str(error):
                raise
        except (EOFError, ConnectionError, FileNotFoundError) as error:
            gone = _ended(rest, error)
        else:
            yield made
            continue
        late = [(process, name) for process, since, name in desks if since > patience]
        if late and not gone:
            hung = late[0][1]
            os.kill(late[0][0], signal.SIGKILL)  # a decoder hears nothing else
    del rest  # ends the others
    raise _lost(gone, hung, desks, patience)


def _ended(rest: Iterator[Any], error: Exception) -> str:
    """Which worker is gone, in torch's words, before torch knows: what it had handed over lay with it.

    Raises the error where all are there.
    """
    until = time.monotonic() + 5
    try:
        while "DataLoader worker process" not in str(error) and time.monotonic() < until:
            for worker in getattr(rest, "_workers", ()):
                if not worker.is_alive():
                    code = worker.exitcode or 0
                    how = f"is killed by signal: {signal.strsignal(-code)}" if code < 0 else "exited unexpectedly"
                    return f"DataLoader worker (pid {worker.pid}) {how}"
            time.sleep(0.01)
    except RuntimeError as told:  # by torch's handler of a child that ended
        if LOST.search(str(told)):
            return str(told)
        raise
    raise error


def _lost(told: str, hung: str, desks: Desks, patience: float) -> LostError:
    found = LOST.search(told)
    assert found is not None
    gone = {int(number) for number in re.findall(r"\d+", told[: found.start()])}
    name = hung or next((name for process, _, name in desks if process in gone), "")
    return LostError(f"took longer than {patience:g} s" if hung else found[0], name, bool(hung))
