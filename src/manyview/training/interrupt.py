"""A run that is asked to end, by Ctrl-C or a scheduler's SIGTERM, ends between two steps."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def interruptible(noted: Callable[[int], None] = lambda number: None) -> Iterator[Callable[[], int]]:
    """Turns the first Ctrl-C or SIGTERM into its number, else 0, so that the step under way is finished and saved.

    noted: is called with the number as soon as it comes, since a step may take long.
    """
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(number, before[number])  # a second one ends the process at once
        with contextlib.suppress(RuntimeError):  # a stream that was just being written to takes nothing from here
            noted(number)

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread: signals are somebody else's
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: seen[0] if seen else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
