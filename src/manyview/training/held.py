"""A run is trained by one command at a time: two would write one folder's checkpoints and metrics in turns.

Whoever trains holds a file in the run's folder, and lets go however the process ends, so a killed run goes on at once.
Of machines that share the folder the file system must pass locks on, as NFS, Lustre (`-o flock`) and GPFS do; that of
a machine that is gone may stay for a while, and whoever takes the file away need not wait.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from manyview.errors import Held, shown
from manyview.foundation.group import as_one
from manyview.foundation.lock import NAME, Busy, marked_as_mine


@contextlib.contextmanager
def held(folder: Path, main: bool) -> Iterator[None]:
    """Inside, no other command trains the run in this folder, which is made; where nothing came into it, it goes again.

    main: whether this process of a group holds it for all, which all must enter. Raises Held where another does.
    """
    with contextlib.ExitStack() as stack:
        with as_one():
            if main:
                _hold(folder, stack)
        yield


def _hold(folder: Path, stack: contextlib.ExitStack) -> None:
    for each in reversed([each for each in (folder, *folder.parents) if not each.exists()]):
        stack.callback(_without, each)
    with contextlib.suppress(OSError):  # `Run.begin` says what is wrong with it
        folder.mkdir(parents=True, exist_ok=True)
    mine = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M')}"
    try:
        stack.enter_context(marked_as_mine(folder / NAME, mine))
    except Busy as error:
        by = shown(error) or "another process"
        cure = f"wait for its end, or stop it and go on then; where that machine is gone, remove {folder / NAME}"
        raise Held(f"{folder} is being trained by {by}; {cure}") from None


def _without(folder: Path) -> None:
    with contextlib.suppress(OSError):  # a run lies in it
        folder.rmdir()
