"""One process at a time, of all that see a file: for what several would do at once, and one must."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

NAME = ".lock"  # of the file in a folder that one process holds
SAID = 200  # bytes of what a holder says of itself that are read


class Busy(OSError):
    """Another process holds a file; the message is what it says of itself, "" where it says nothing."""


def others(folder: Path) -> set[str]:
    """The names of what lies in a folder beside its lock; none where there is no folder."""
    return {entry.name for entry in folder.iterdir()} - {NAME} if folder.exists() else set()


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


@contextlib.contextmanager
def marked_as_mine(path: Path, mine: str) -> Iterator[None]:
    """Holds a file that says who holds it while the block lasts, and takes it away then; other processes get Busy.

    A process that dies lets go, whatever it forked (what it leaves holds nobody off), since the lock is the process's
    (POSIX): of two threads both get it. mine: one line. Where the file cannot be made or held, as in a folder that is
    only read, on a disk without locks, or on Windows, nobody is held off.
    """
    number = _held(path)
    try:
        if number is not None:
            with contextlib.suppress(OSError):  # of a full disk; that it is held is what counts
                os.ftruncate(number, 0)
                os.write(number, mine.encode())
        yield
    finally:
        if number is not None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)  # before it is let go: whoever waits for nothing finds another, or none
            os.close(number)


def _held(path: Path) -> int | None:
    """The open file, once no other process holds it; None where it cannot be held. Raises Busy."""
    try:
        import fcntl  # of POSIX
    except ImportError:
        return None
    while True:
        try:
            number = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            fcntl.lockf(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(number), os.stat(path)):
                return number
        except (BlockingIOError, PermissionError):  # as POSIX has both for one that is held
            said = b""
            with contextlib.suppress(OSError):
                said = os.read(number, SAID)
            os.close(number)
            raise Busy(said.decode(errors="replace").strip()) from None
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ESTALE):  # a disk without locks; nobody holds a file there
                os.close(number)
                with contextlib.suppress(OSError):
                    path.unlink()
                return None
        os.close(number)  # of one that ended in between and took it away
