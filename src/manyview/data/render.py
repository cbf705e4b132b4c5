"""Where views are made.

workers  the loader's processes read, decode and render: for images that do not fit in memory
memory   threads of this process render from decoded images in memory, ahead of the step
device   the step renders on its device, from grey levels that were sent there once for all views
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from manyview.data.images import ArrayImages, Images
from manyview.errors import RunError
from manyview.foundation.words import counted

Place = Literal["workers", "memory", "device"]


@dataclass(frozen=True)
class Rendering:
    """Where views are made, and why there, in a few words."""

    place: Place
    why: str

    def __str__(self) -> str:
        maker = {"workers": "the loader", "memory": "threads, from memory", "device": "the step, on its device"}
        return f"{maker[self.place]} ({self.why})"


def choose_rendering(asked: str, images: Images | Collection[Images], device: str) -> Rendering:
    """What `data.render` comes to. images: of the training split, or of each stream, decoded if they fit.

    device: cpu, cuda, …. Raises RunError where memory or the device is asked for and the images do not lie in memory.
    """
    streams: list[Images] = [*images] if isinstance(images, Collection) else [images]
    in_memory = all(isinstance(each, ArrayImages) for each in streams)
    if not in_memory and asked in ("memory", "device"):
        raise RunError(
            f"data.render={asked} needs decoded images in memory, but these have unlike sizes, are unreadable in part "
            "or exceed data.memory; use data.render=workers"
        )
    if asked != "auto":
        return Rendering(asked, "as the recipe asks")  # type: ignore[arg-type]
    if not in_memory:
        return Rendering("workers", "the images have unlike sizes or exceed data.memory")
    count = sum(map(len, streams))
    held = f"{counted(count, 'decoded image')} {'lies' if count == 1 else 'lie'} in memory"
    if device == "cpu":
        return Rendering("memory", held)
    return Rendering("device", f"{held}, and {device} renders faster than it could be fed")
