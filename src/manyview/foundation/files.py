"""Files that are whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import json
import os
import stat
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from manyview.errors import RunError, reason
from manyview.foundation.shards import with_shards
from manyview.foundation.words import few

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def write_atomically(path: Path, write: Callable[[Path], None]) -> None:
    """Calls `write` with a temporary path beside `path`, then renames it into place. Raises RunError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def check_writable(path: Path) -> None:
    """Raises RunError, before long work, where no file of this name could be written in the end."""
    folder = next(each for each in path.absolute().parents if each.exists())
    if path.is_dir():
        raise RunError(f"cannot write {path}: Is a directory")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise RunError(f"cannot write {path}: {folder} is {'no folder' if not folder.is_dir() else 'not writable'}")


def write_bytes(path: Path, data: bytes) -> None:
    """A file of these bytes."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(data)

    write_atomically(path, write)


def at_home(path: str | Path) -> Path:
    """The path with the user's folder for `~`; as it is where there is no such user."""
    return Path(os.path.expanduser(path))  # pathlib's raises


def open_regular(path: Path) -> BinaryIO:
    """A regular file, opened to be read. Raises OSError for all else, such as pipes, which could keep one waiting."""
    file = open(path, "rb", opener=_without_waiting)  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError("neither a file nor a link to one")
    return file


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # which to open a named pipe would otherwise do


def write_text(path: Path, text: str) -> None:
    """A text file, UTF-8; bytes of file names that are no text stand in it as escapes."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_json(path: Path, value: Any) -> None:
    """A JSON file, indented."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_state(path: Path, state: dict[str, Any]) -> None:
    """A checkpoint of tensors, numbers and strings, such as `read_state` accepts."""
    import torch

    write_atomically(path, lambda temporary: torch.save(state, temporary))


def read_state(path: Path, mesh: DeviceMesh | None = None) -> dict[str, Any]:
    """A checkpoint on the CPU. Only tensors and plain values are loaded; RunError for a file that holds code.

    mesh: of the processes that read what was shared out, each its own part; None: all of it, see `shards`.
    """
    import torch

    try:
        with torch.serialization.safe_globals(_plain_values()):
            found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle fails in any way
        if not _looks_saved(path):
            raise RunError(f"{path} is no file of weights, neither torch.save's nor .safetensors") from None
        raise RunError(f"{path} is damaged, or holds more than tensors: {_code_in(path) or reason(error)}") from None
    return with_shards(found, path, mesh)


def _looks_saved(path: Path) -> bool:
    """Whether a file begins as torch.save's do: as a zip archive, or of old as a pickle; it may be cut short."""
    try:
        with path.open("rb") as file:
            begins = file.read(2)
            return b"PK".startswith(begins) or begins.startswith(b"\x80")
    except OSError:
        return True  # what the system says of it is told


def _plain_values() -> list[Any]:
    """What trainers keep beside weights that is no code: arguments of a command line, and numbers of NumPy."""
    import numpy as np  # as torch, only where a checkpoint is read

    number: Any = np.float64(0).__reduce__()[0]
    named = [(number, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]  # NumPy 1 and 2
    return [Namespace, *named, np.dtype, *(type(np.dtype(kind)) for kind in np.typecodes["AllInteger"] + "?efd")]


def _code_in(path: Path) -> str:
    """What a checkpoint names that would run, and the cure; "" where that cannot be told."""
    import torch

    try:
        with torch.serialization.safe_globals(_plain_values()):
            found = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # a file that is damaged, or of another format
        return ""
    told = f"it names {few(sorted(found))}, which is code; write the weights alone, torch.save(model.state_dict(), …)"
    return told if found else ""
