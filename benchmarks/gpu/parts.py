"""A part in a process of its own with a limit, so that one that hangs or dies costs no other."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection

import torch

from gpu.bench import Bench, Row


@dataclass(frozen=True)
class Part:
    """run: gives the part's rows. limit: seconds after which it is to begin no new row."""

    run: Callable[[Bench], Iterator[Row]]
    limit: float


def rows_of(part: Part, bench: Bench, grace: float) -> Iterator[Row | str]:
    """The rows of a part as they come, and a line where it fails or must be ended.

    grace: seconds that a row which has begun may take beyond `bench.until`. Processes are forked, so that all is
    imported once; nothing may have asked for the GPU before, which no fork could use.
    """
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(there, part, bench))
    process.start()
    there.close()
    began = time.monotonic()
    try:
        while here.poll(max(0.0, bench.left + grace)):
            row = here.recv()
            if row is None:
                return
            yield row
            if isinstance(row, str):
                return
        yield f"ended at its limit, after {time.monotonic() - began:.0f} s"
    except EOFError:
        process.join()
        yield f"its process ended by itself, with code {process.exitcode}"
    finally:
        with contextlib.suppress(ProcessLookupError):  # before it has a session of its own, and where all have ended
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.kill()
        process.join()


def _child(pipe: Connection, part: Part, bench: Bench) -> None:
    """Sends the rows, then None, or the error's last lines."""
    os.setsid()  # what it starts ends with it
    try:
        torch.manual_seed(0)
        for row in part.run(bench):
            pipe.send(row)
        pipe.send(None)
    except Exception:
        pipe.send(traceback.format_exc(limit=-4))


def limited(part: Part, bench: Bench, most: float) -> Bench:
    """The bench with the time that a part has. most: seconds that are left for all."""
    return replace(bench, until=time.monotonic() + min(part.limit, most))
