"""Features kept on disk, under a key of all that they depend on: weights, preparation, each image, and the code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import struct
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open

from manyview.data import Images
from manyview.data.fingerprint import fingerprint
from manyview.errors import ManyviewWarning, RunError
from manyview.evaluate.features import Keeper
from manyview.evaluate.model import Model
from manyview.evaluate.rows import MEMORY, Lying, Mapped, spans
from manyview.foundation.environment import code, versions
from manyview.foundation.files import cache_folder, write_atomically

DECODERS = ("pillow", "simplejpeg", "imagecodecs", "tifffile")


def usual_folder() -> Path:
    """Where features of models that are no run are kept: $MANYVIEW_CACHE, by default ~/.cache/manyview."""
    return cache_folder("features")


def key_of(model: Model, images: Images) -> str:
    """A digest of all that a model's outputs depend on.

    Of the model its weights, preparation and kind of device; of the images their `fingerprint`; and of the code the
    libraries' versions and manyview's own sources.
    """
    said = model.key, model.device.type, versions(*DECODERS), code(), fingerprint(images)
    return hashlib.blake2b(repr(said).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Entry:
    """A file of the cache."""

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / f"{self.key}.safetensors"

    def load(self) -> dict[str, Lying] | None:
        """Tensors by name, large ones in the file itself. None if there is no such file, or a bad one."""
        if not self.path.is_file():
            return None
        try:
            with contextlib.ExitStack() as opened:
                file = opened.enter_context(self.path.open("rb"))
                tensors, told = _lying_in(file, self.path)
                if told.get("digest") != self._digest(tensors):
                    raise ValueError("its digest is another")
                if any(each.nbytes > MEMORY for each in tensors.values()):
                    opened.pop_all()  # it stays open for as long as they are read
                return {name: each if each.nbytes > MEMORY else each[:] for name, each in tensors.items()}
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            self._say_rebuilt(str(error))
            return None

    def store(self, tensors: Mapping[str, Lying]) -> None:
        """Keeps tensors; where nothing can be written, says so and goes on."""
        head = _head(tensors, self._digest(tensors))

        def write(temporary: Path) -> None:
            with temporary.open("wb") as file:
                file.write(head)
                for name in _order(tensors):
                    for block in _blocks(tensors[name]):
                        file.write(block)

        try:
            write_atomically(self.path, write)
        except RunError as error:
            warnings.warn(f"features are not kept: {error}", ManyviewWarning, stacklevel=2)

    def _digest(self, tensors: Mapping[str, Lying]) -> str:
        """Of the name, too: another entry's file under this one's name is not it."""
        digest = hashlib.blake2b(self.key.encode(), digest_size=16)
        for name in sorted(tensors):
            digest.update(f"{name} {tensors[name].dtype} {[*tensors[name].shape]}".encode())
            for block in _blocks(tensors[name]):
                digest.update(block)
        return digest.hexdigest()

    def _say_rebuilt(self, reason: str) -> None:
        warnings.warn(
            f"the kept features {self.path} are damaged ({reason}); they are computed again", ManyviewWarning, 3
        )


# ------------------------------------------------------------------------- a .safetensors file, by blocks

KINDS = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}


def _order(tensors: Mapping[str, Lying]) -> list[str]:
    """Names as the tensors follow in a file: those of large numbers first, so that each begins at a multiple of one."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def _blocks(tensor: Lying) -> Iterator[bytes]:
    return (tensor[span].contiguous().numpy().tobytes() for span in spans(len(tensor)))


def _head(tensors: Mapping[str, Lying], digest: str) -> bytes:
    """What such a file begins with: the length of the rest, and a JSON object of what lies where."""
    told: dict[str, Any] = {"__metadata__": {"digest": digest}}
    end = 0
    for name in _order(tensors):
        tensor = tensors[name]
        begin, end = end, end + math.prod(tensor.shape) * tensor.dtype.itemsize
        told[name] = {"dtype": KINDS[tensor.dtype], "shape": [*tensor.shape], "data_offsets": [begin, end]}
    text = json.dumps(told).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _lying_in(file: BinaryIO, path: Path) -> tuple[dict[str, Mapped], dict[str, str]]:
    """Tensors by name, none read yet, and what is told of them. Raises for a file that is damaged."""
    with safe_open(path, framework="pt") as whole:  # which checks that all lie within it
        told = whole.metadata() or {}
    (length,) = struct.unpack("<Q", file.read(8))
    head = json.loads(file.read(length))
    types = {kind: dtype for dtype, kind in KINDS.items()}
    return {
        name: Mapped(file, types[each["dtype"]], tuple(each["shape"]), 8 + length + each["data_offsets"][0])
        for name, each in head.items()
        if name != "__metadata__"
    }, told


def kept_in(folder: Path) -> Keeper:
    """Where `Features` look for outputs, and leave them."""
    return lambda model, images: Entry(folder, key_of(model, images))


__all__ = ["Entry", "kept_in", "key_of", "usual_folder"]
