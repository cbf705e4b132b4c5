"""Files that are whole or not there: written under a temporary name, brought to the disk, then renamed."""

from __future__ import annotations

import json
import os
import stat
import warnings
from argparse import Namespace
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from manyview.errors import DamagedError, RunError, reason
from manyview.foundation.claims import check_archive, check_claims
from manyview.foundation.disk import sync
from manyview.foundation.shards import with_shards
from manyview.foundation.words import few

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

MOST_JSON = 2**26  # bytes of a JSON file that is read


def write_atomically(
    path: Path, write: Callable[[Path], None], before: Callable[[Path], None] = lambda path: None
) -> None:
    """Calls `write` with a temporary path beside `path`, then renames it into place. Raises RunError.

    The file is on the disk before it has its name, and its name is there when this returns, whatever becomes of the
    machine then. before: called with `path` when all is written, to move away what has the name until now.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _make_folder(path.parent)
        try:
            write(temporary)
            sync(temporary)
            before(path)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from None


def _make_folder(folder: Path) -> None:
    """The folder and those above it, whose names are on the disk then."""
    missing = [each for each in (folder, *folder.parents) if not each.is_dir()]
    folder.mkdir(parents=True, exist_ok=True)
    for each in missing:
        sync(each.parent)


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


def cache_folder(name: str) -> Path:
    """Where things of one kind are kept that can be made again: $MANYVIEW_CACHE/NAME, by default ~/.cache/manyview."""
    return Path(os.environ.get("MANYVIEW_CACHE") or Path.home() / ".cache" / "manyview").expanduser() / name


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


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, or ValueError for what is none, too large, or nested too deeply."""
    with open_regular(path) as file:
        data = file.read(MOST_JSON + 1)
    if len(data) > MOST_JSON:
        raise ValueError(f"it is larger than {MOST_JSON:,} bytes")
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_mapping(path: Path) -> dict[str, Any]:
    """What a JSON file holds by name. Raises as `read_json` does, and ValueError for all that is no mapping."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError("it holds no names with values")
    return found


def write_state(path: Path, state: Mapping[str, Any], before: Callable[[Path], None] = lambda path: None) -> None:
    """A checkpoint of tensors, numbers and strings, such as `read_state` accepts. before: see `write_atomically`."""
    import torch

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            try:
                torch.save(state, file)
            except RuntimeError as error:  # of a full disk torch says where its own file broke off
                raise error.__context__ if isinstance(error.__context__, OSError) else error from None

    write_atomically(path, write, before)


def read_state(path: Path, mesh: DeviceMesh | None = None) -> Any:
    """A checkpoint on the CPU. Only tensors and plain values are loaded.

    mesh: of the processes that read what was shared out, each its own part; None: all of it, see `shards`. Raises
    DamagedError for a file whose checksums are not those of what it holds, that holds code, or that claims more than
    it has.
    """
    import torch

    try:
        check_archive(path)
        with torch.serialization.safe_globals(_plain_values()), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")  # what cannot be read of it is refused
            found = torch.load(path, map_location="cpu", weights_only=True)
        check_claims(found, path.stat().st_size)
    except Exception as error:  # a damaged pickle fails in any way
        if path.is_file() and not path.stat().st_size:
            raise DamagedError(f"{path} is damaged: the file is empty (0 bytes)") from None
        if not _looks_saved(path):
            raise DamagedError(f"{path} is no file of weights, neither torch.save's nor .safetensors") from None
        raise DamagedError(
            f"{path} is damaged, or holds more than tensors: {_code_in(path) or reason(error)}"
        ) from None
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
