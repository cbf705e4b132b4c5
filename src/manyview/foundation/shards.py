"""Tensors of which each process holds a part: written side by side by torch.distributed.checkpoint, and read by any.

The files are safetensors (a folder `last.shards-20` beside `last.pt`, which names it), so that nothing of them runs. A
reader is a process alone, which gets whole tensors, or a group of any size, of which each process reads its own part.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyview.errors import DamagedError, reason
from manyview.foundation.words import few

if TYPE_CHECKING:
    from torch import Tensor
    from torch.distributed.device_mesh import DeviceMesh

KEY = "shards"  # of a checkpoint: {"folder": name, "shapes": {path of a tensor: its shape}, "files": {name: digest}}
NAME = re.compile(r"[\w-]+\.shards-(\d+)(-\d+)?")
PIECE = 1 << 22  # bytes of a file that are looked at together
PLACE = "/"  # between the keys on the way to a tensor


def is_shard(value: object) -> bool:
    """Whether a tensor is a part of one that several processes hold."""
    from torch.distributed.tensor import DTensor  # imports much, for those alone who shard

    return isinstance(value, DTensor)


def whole(value: Any) -> Any:
    """A tensor as it is on one process. Of shards all processes must ask."""
    return value.full_tensor() if is_shard(value) else value


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor, which may be nothing; all of one that is no shard."""
    return tensor.to_local() if is_shard(tensor) else tensor  # type: ignore[attr-defined]


def with_shards(saved: Any, path: Path, mesh: DeviceMesh | None = None) -> Any:
    """A checkpoint that was read from `path`, with the tensors that lie beside it; as it is where there are none.

    mesh: the processes, of which each then reads its own part of each, and proves its share of the files. Raises
    DamagedError where they are not there, or not what was written.
    """
    if not isinstance(saved, Mapping) or not isinstance(saved.get(KEY), Mapping):
        return saved
    name, shapes, files = (saved[KEY].get(part) for part in ("folder", "shapes", "files"))
    if not (isinstance(name, str) and NAME.fullmatch(name) and isinstance(shapes, Mapping) and _are_names(files)):
        raise DamagedError(f"{path} is damaged: it names no folder of shards beside it")
    folder = path.parent / name
    if not folder.is_dir():
        raise DamagedError(f"{path} is damaged: {folder}, where its weights lie, is not there")
    found: dict[str, Any] = {key: value for key, value in saved.items() if key != KEY}
    for key, tensor in _read(folder, shapes, files, mesh).items():
        _put(found, key.split(PLACE), tensor)
    return found


def _are_names(files: Any) -> bool:
    return isinstance(files, Mapping) and all(isinstance(name, str) and Path(name).name == name for name in files)


def digests_of(folder: Path, names: Iterable[str], rank: int, world: int) -> dict[str, str]:
    """BLAKE2b of files, by name, of which each process looks at its share: its own, where all have written one."""
    found = {}
    for name in sorted(names)[rank::world]:
        digest = hashlib.blake2b()
        with open(folder / name, "rb") as file:
            while piece := file.read(PIECE):
                digest.update(piece)
        found[name] = digest.hexdigest()
    return found


def _put(found: dict[Any, Any], keys: list[str], tensor: Tensor) -> None:
    for key in keys[:-1]:
        found = found.setdefault(int(key[1:]) if key.startswith("#") else key, {})
    found[keys[-1]] = tensor


def _read(
    folder: Path, shapes: Mapping[str, Any], files: Mapping[str, Any], mesh: DeviceMesh | None
) -> dict[str, Tensor]:
    import torch
    import torch.distributed.checkpoint as dcp

    reader = dcp.HuggingFaceStorageReader(str(folder))
    rank, world = (0, 1) if mesh is None else (mesh.get_rank(), mesh.size())
    try:
        proved = digests_of(folder, [name for name in files if (folder / name).is_file()], rank, world)
        if proved != {name: files[name] for name in proved}:
            raise ValueError("its checksums are not those of what it holds")
        found: Any = reader.read_metadata().state_dict_metadata
        held = {key: sum(chunk.sizes.numel() for chunk in each.chunks) for key, each in found.items()}
        lost = [key for key in shapes if held.get(key) != torch.Size(shapes[key]).numel()]
        if lost:
            raise ValueError(f"it lacks {few(lost)}, or parts of it")
        flat: dict[str, Any] = {
            key: _empty(torch.Size(shape), found[key].properties.dtype, mesh) for key, shape in shapes.items()
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as it is meant
            dcp.load(flat, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    except Exception as error:  # damaged files fail in any way
        raise DamagedError(f"{folder} is damaged: {reason(error)}") from None
    return flat


def _empty(shape: Any, dtype: Any, mesh: DeviceMesh | None) -> Tensor:
    import torch
    from torch.distributed.tensor import Shard, empty

    if mesh is None:
        return torch.empty(shape, dtype=dtype)
    return empty(shape, dtype=dtype, device_mesh=mesh, placements=[Shard(0)])
