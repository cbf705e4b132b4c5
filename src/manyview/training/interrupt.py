"""A run that is asked to end, by Ctrl-C or a scheduler, ends between two steps, or at once where it does not train."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from manyview.errors import REQUEUED, Interrupted

ECHO = 5.0  # seconds in which a second SIGTERM is the first: a launcher passes on what a scheduler sent to all


@contextlib.contextmanager
def interruptible(noted: Callable[[int], None] = lambda number: None) -> Iterator[Callable[[], int]]:
    """Turns the first Ctrl-C, or a scheduler's signal, into its number, else 0; the step under way is finished.

    noted: is called with the number as soon as it comes, since a step may take long. A second Ctrl-C or SIGTERM ends
    the process at once, unless it is an echo of the first; schedulers may send the others, which only announce the end,
    as often as they like.
    """
    seen: list[int] = []
    since: dict[int, float] = {}

    def note(number: int, frame: Any) -> None:
        if number in since and number in (signal.SIGINT, signal.SIGTERM):
            if number == signal.SIGINT or time.monotonic() - since[number] > ECHO:
                signal.signal(number, before[number])
                signal.raise_signal(number)
            return
        since[number] = time.monotonic()
        seen.append(number)
        with contextlib.suppress(RuntimeError):  # a stream that was just being written to takes nothing from here
            noted(number)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread: signals are somebody else's
        for number in (signal.SIGINT, *REQUEUED):
            before[number] = signal.signal(number, note)
    try:
        yield lambda: seen[0] if seen else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def ending() -> Iterator[None]:
    """Turns a scheduler's signals into Interrupted wherever they come: before training, and in evaluations."""

    def end(number: int, frame: Any) -> None:
        raise Interrupted("stopped", number)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):
        for number in REQUEUED:
            before[number] = signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
