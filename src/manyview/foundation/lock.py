"""One process at a time, of all that see a file: for what several would do at once, and one must."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def alone_at(path: Path, wait: bool = True) -> Iterator[None]:
    """Holds others off while the block lasts; a process that dies lets go. The file is made where it is not there.

    wait: until the others are done; else OSError is raised where there is one. Raises OSError where the file cannot be
    made. On Windows nothing is held off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as held:
        try:
            import fcntl  # of POSIX
        except ImportError:
            pass
        else:
            fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
