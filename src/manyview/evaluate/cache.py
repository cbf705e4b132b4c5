"""Features kept on disk, under a key of all that they depend on: weights, data, preparation."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from manyview.data import BadImage, Images
from manyview.errors import ManyviewWarning, RunError
from manyview.evaluate.model import Model
from manyview.files import write_bytes
from manyview.run import mark_of

LOOKED_AT = 16
"""Images of a split whose pixels are part of the key; of all others names and labels are."""


def usual_folder() -> Path:
    """Where features of models that are no run are kept: $MANYVIEW_CACHE, by default ~/.cache/manyview."""
    return Path(os.environ.get("MANYVIEW_CACHE") or Path.home() / ".cache" / "manyview").expanduser() / "features"


def key_of(model: Model, images: Images) -> str:
    """A digest of the model's weights and preparation, and of the images: their names, labels, and some pixels."""
    digest = hashlib.blake2b(f"{model.key} {mark_of(images)}".encode(), digest_size=16)
    for position in np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).astype(int)):
        try:
            digest.update(images.read(int(position)).numpy().tobytes())
        except BadImage as error:
            digest.update(str(error).encode())
    return digest.hexdigest()


@dataclass(frozen=True)
class Entry:
    """A file of the cache."""

    folder: Path
    key: str

    @property
    def path(self) -> Path:
        """Where it lies."""
        return self.folder / f"{self.key}.safetensors"

    def load(self) -> tuple[dict[str, Tensor], list[str]] | None:
        """Tensors by name, and lines on images that could not be read. None if there is no such file, or a bad one."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = file.metadata()
                skipped = json.loads(told["skipped"])
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            self._say_rebuilt(str(error))
            return None
        if told.get("digest") != self._digest(tensors, told["skipped"]):
            self._say_rebuilt("its digest is another")
            return None
        return tensors, skipped

    def store(self, tensors: dict[str, Tensor], skipped: list[str]) -> None:
        """Keeps tensors; where nothing can be written, says so and goes on."""
        whole = {name: value.contiguous() for name, value in tensors.items()}
        lines = json.dumps(skipped)
        data = save(whole, {"skipped": lines, "digest": self._digest(whole, lines)})
        try:
            write_bytes(self.path, data)
        except RunError as error:
            warnings.warn(f"features are not kept: {error}", ManyviewWarning, stacklevel=2)

    def _digest(self, tensors: Mapping[str, Tensor], lines: str) -> str:
        """Of the name, too: another entry's file under this one's name is not it."""
        digest = hashlib.blake2b(f"{self.key} {lines}".encode(), digest_size=16)
        for name in sorted(tensors):
            digest.update(f"{name} {tensors[name].dtype} {[*tensors[name].shape]}".encode())
            digest.update(tensors[name].numpy().tobytes())
        return digest.hexdigest()

    def _say_rebuilt(self, reason: str) -> None:
        warnings.warn(
            f"the kept features {self.path} are damaged ({reason}); they are computed again", ManyviewWarning, 3
        )


__all__ = ["Entry", "key_of", "usual_folder"]
