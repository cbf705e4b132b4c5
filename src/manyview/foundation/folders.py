"""Folders that are whole or not there: filled under a temporary name, then renamed."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from manyview.errors import RunError
from manyview.foundation.disk import sync


def check_free(out: Path) -> None:
    """Raises RunError where `out` is a file, or a folder that holds something, or could not be made."""
    try:
        used = out.exists() and (not out.is_dir() or any(out.iterdir()))
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from None
    if used:
        raise RunError(f"{out} is {'not empty' if out.is_dir() else 'a file'}; choose another folder")
    above = out if out.is_dir() else _above(out)
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise RunError(f"cannot write {out}: {above} is {'no folder' if not above.is_dir() else 'not writable'}")


@contextlib.contextmanager
def filled(out: Path) -> Iterator[Path]:
    """A temporary folder to fill, which is `out` once this ends; where it ends by an exception, nothing is left.

    out: not there, or empty; an empty one stays the folder that it is, somebody's own or another disk's. Raises
    RunError where it holds something, or where the system refuses.
    """
    check_free(out)
    there = out.is_dir()
    temporary = (out if there else _above(out)) / f".{out.name}.{os.getpid()}.tmp"
    try:
        try:
            temporary.mkdir()
            yield temporary
            if there:
                for each in sorted(temporary.iterdir()):
                    os.replace(each, out / each.name)
            else:
                out.parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary, out)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        sync(out if there else out.parent)
    except OSError as error:
        raise RunError(f"cannot write {out}: {error.strerror or error}") from None


def _above(out: Path) -> Path:
    """The nearest folder above that is there: on the file system that `out` will be on."""
    return next(each for each in out.absolute().parents if each.exists())


__all__ = ["check_free", "filled"]
