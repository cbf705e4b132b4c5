"""Tensors of which each process holds a part, written side by side by torch.distributed.checkpoint; see `shards`."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manyview.errors import ManyviewError, RunError, reason
from manyview.foundation.disk import sync
from manyview.foundation.group import as_one
from manyview.foundation.shards import KEY, NAME, PLACE, digests_of, is_shard

if TYPE_CHECKING:
    from torch import Tensor


def put_shards(path: Path, saved: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Writes the shards of a checkpoint beside `path`; returns the rest of it, which names them and their digests.

    All processes must call it, and one of them then writes the rest. number: of updates, for the folder's name. Folders
    that no checkpoint of this name has any more are removed before. Without shards nothing is written. Raises RunError.
    """
    import torch.distributed as dist
    import torch.distributed.checkpoint as dcp

    flat: dict[str, Tensor] = {}
    rest = _split(saved, "", flat)
    if not flat:
        return rest
    named, digests = [""], [dict[str, str]()] * dist.get_world_size()
    with _all_writing(path):
        if dist.get_rank() == 0:
            named = [_new_folder(path, number)]
    dist.broadcast_object_list(named)
    folder = path.parent / named[0]
    shapes = {key: [*tensor.shape] for key, tensor in flat.items()}
    with _all_writing(folder):
        dcp.save(flat, storage_writer=dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True))
    with _all_writing(folder):
        own = digests_of(folder, [each.name for each in folder.iterdir()], dist.get_rank(), len(digests))
        if dist.get_rank() == 0:
            for each in (*folder.iterdir(), folder, folder.parent):
                sync(each)
    dist.all_gather_object(digests, own)
    files = {name: digest for each in digests for name, digest in each.items()}
    return {**rest, KEY: {"folder": folder.name, "shapes": shapes, "files": files}}


@contextmanager
def _all_writing(path: Path) -> Iterator[None]:
    """What one process cannot write, all refuse."""
    with as_one():
        try:
            yield
        except ManyviewError:
            raise
        except Exception as error:  # of a disk, or of another process, whose error torch brings in its own kind
            raise RunError(f"cannot write {path}: {reason(error)}") from None


def _split(value: Any, way: str, flat: dict[str, Tensor]) -> Any:
    """The value without shards, which come to `flat` by the keys that lead to them."""
    if not isinstance(value, Mapping):
        return value
    rest = {}
    for key, each in value.items():
        further = f"{way}{PLACE}{_written(key)}" if way else _written(key)
        if is_shard(each):
            flat[further] = each.detach().contiguous()  # of which safetensors writes no other
        else:
            rest[key] = _split(each, further, flat)
    return rest


def _written(key: object) -> str:
    return f"#{key}" if isinstance(key, int) else str(key)


def _new_folder(path: Path, number: int) -> str:
    """A name that is free; folders that no checkpoint names are removed, as those of which a run was killed midway."""
    there = {each.name: each for each in path.parent.glob(f"{path.stem}.shards-*") if NAME.fullmatch(each.name)}
    for name in there.keys() - _in_use(path):
        shutil.rmtree(there[name], ignore_errors=True)
    free = (f"{path.stem}.shards-{number}{f'-{more}' * bool(more)}" for more in range(len(there) + 1))
    name = next(each for each in free if not (path.parent / each).exists())
    (path.parent / name).mkdir(parents=True)
    return name


def _in_use(path: Path) -> set[str]:
    """The folders that checkpoints of this name, and those before it, say they have."""
    import torch

    found = set()
    for each in (path, *path.parent.glob(f"{path.stem}-*{path.suffix}")):
        with suppress(Exception):  # one that is not there, or damaged, has none
            found.add(torch.load(each, map_location="cpu", mmap=True, weights_only=True)[KEY]["folder"])
    return found


__all__ = ["put_shards"]
