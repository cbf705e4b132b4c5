"""A run that is asked to end, by Ctrl-C or a scheduler's SIGTERM, ends between two steps."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def interruptible() -> Iterator[Any]:
    """Turns the first Ctrl-C or SIGTERM into a flag, so that the step under way is finished and saved."""
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        seen.append(number)
        signal.signal(number, before[number])  # a second one ends the process at once

    before: dict[int, Any] = {}
    with contextlib.suppress(ValueError):  # not in the main thread: signals are somebody else's
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
