"""Where commands speak: results on stdout, all else on stderr, a line each."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator

from rich.console import Console

from manyview.errors import Interrupted, RunError, shown
from manyview.foundation.words import duration

console = Console(highlight=False, markup=False)
_silent = Console(quiet=True)
RINGS_AFTER = 60.0  # seconds


def speaking(quiet: bool) -> Console:
    """Where a command says what it has done, but for what it was asked to print."""
    return _silent if quiet else console


def tell(what: object) -> None:
    """One line on stderr."""
    print(f"manyview: {shown(what)}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def ringing(what: str, quiet: bool = False) -> Iterator[None]:
    """Rings the terminal's bell, with a line, where work took long and its end may have been left alone.

    That is after $MANYVIEW_BELL seconds, by default a minute, or `never`; a mistake rings too. Nothing is rung where
    stderr is no terminal, or where the person was there to end it. Raises RunError for another value.
    """
    after, began = _rings_after(), time.monotonic()
    ended = "failed"
    try:
        yield
        ended = "finished"
    except (KeyboardInterrupt, Interrupted):
        after = None
        raise
    finally:
        took = time.monotonic() - began
        if after is not None and took >= after and not quiet and sys.stderr.isatty():
            print(f"\amanyview: {what} {ended} after {duration(took)}", file=sys.stderr, flush=True)


def _rings_after() -> float | None:
    """Seconds, None for never."""
    said = os.environ.get("MANYVIEW_BELL", "").strip()
    if said == "never":
        return None
    try:
        return float(said or RINGS_AFTER)
    except ValueError:
        raise RunError(f"MANYVIEW_BELL={said}: seconds after which the bell rings, or never") from None
