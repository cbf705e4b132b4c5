"""Features kept on disk, under a key of all that they depend on: weights, preparation, each image, and the code."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from manyview.data import Images
from manyview.data.fingerprint import fingerprint
from manyview.errors import ManyviewWarning, RunError
from manyview.evaluate.features import Keeper
from manyview.evaluate.model import Model
from manyview.foundation.environment import code, versions
from manyview.foundation.files import write_bytes

DECODERS = ("pillow", "simplejpeg", "imagecodecs", "tifffile")


def usual_folder() -> Path:
    """Where features of models that are no run are kept: $MANYVIEW_CACHE, by default ~/.cache/manyview."""
    return Path(os.environ.get("MANYVIEW_CACHE") or Path.home() / ".cache" / "manyview").expanduser() / "features"


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

    def load(self) -> dict[str, Tensor] | None:
        """Tensors by name. None if there is no such file, or a bad one."""
        if not self.path.is_file():
            return None
        try:
            with safe_open(self.path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                told = file.metadata() or {}
        except (SafetensorError, OSError, ValueError) as error:
            self._say_rebuilt(str(error))
            return None
        if told.get("digest") != self._digest(tensors):
            self._say_rebuilt("its digest is another")
            return None
        return tensors

    def store(self, tensors: dict[str, Tensor]) -> None:
        """Keeps tensors; where nothing can be written, says so and goes on."""
        whole = {name: value.contiguous() for name, value in tensors.items()}
        try:
            write_bytes(self.path, save(whole, {"digest": self._digest(whole)}))
        except RunError as error:
            warnings.warn(f"features are not kept: {error}", ManyviewWarning, stacklevel=2)

    def _digest(self, tensors: Mapping[str, Tensor]) -> str:
        """Of the name, too: another entry's file under this one's name is not it."""
        digest = hashlib.blake2b(self.key.encode(), digest_size=16)
        for name in sorted(tensors):
            digest.update(f"{name} {tensors[name].dtype} {[*tensors[name].shape]}".encode())
            digest.update(tensors[name].numpy().tobytes())
        return digest.hexdigest()

    def _say_rebuilt(self, reason: str) -> None:
        warnings.warn(
            f"the kept features {self.path} are damaged ({reason}); they are computed again", ManyviewWarning, 3
        )


def kept_in(folder: Path) -> Keeper:
    """Where `Features` look for outputs, and leave them."""
    return lambda model, images: Entry(folder, key_of(model, images))


__all__ = ["Entry", "kept_in", "key_of", "usual_folder"]
