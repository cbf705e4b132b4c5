"""What must be on the disk before anything else happens."""

from __future__ import annotations

import errno
import os
from pathlib import Path


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk. Raises OSError."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return  # which opens no folders, and writes their names itself
    number = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that have nothing to wait for
            raise
    finally:
        os.close(number)
