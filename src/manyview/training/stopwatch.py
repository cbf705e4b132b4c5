"""How long a run has trained, what of it was waiting for data, and how fast it is now; pauses count as neither."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import final


@final
class Stopwatch:
    """Goes on from the seconds that a run has taken before. seconds, waited: see `State`."""

    def __init__(self, seconds: float = 0.0, waited: float = 0.0) -> None:
        self.waited = waited
        self._began = time.perf_counter() - seconds
        self._paused: float | None = None
        self._mark = seconds

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return (time.perf_counter() if self._paused is None else self._paused) - self._began

    def lap(self) -> float:
        """Seconds since the last lap, or the beginning."""
        now, before = self.seconds, self._mark
        self._mark = now
        return now - before

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """The block waits for data."""
        asked = time.perf_counter()
        yield
        self.waited += time.perf_counter() - asked

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """The block is no training."""
        self._paused = time.perf_counter()
        try:
            yield
        finally:
            self._began += time.perf_counter() - self._paused
            self._paused = None
