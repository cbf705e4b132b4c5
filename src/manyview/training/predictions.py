"""What a run said of every image that it was judged on, and of every few-shot task: predictions/SPLIT.safetensors.

Six bytes an image: its label, the class that was given, and with what probability; the same of aggregated scores. Two
runs on the same images can so be compared image by image, and tasks of the same seed in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from manyview.errors import RunError, reason
from manyview.foundation.files import write_atomically

FOLDER = "predictions"


def keep_predictions(folder: Path, split: str, each: Mapping[str, NDArray[Any]]) -> None:
    """Writes what protocols say of each image, by name; nothing where they say nothing. Raises RunError."""
    if not each:
        return
    arrays = {name: np.ascontiguousarray(values) for name, values in each.items()}
    write_atomically(folder / FOLDER / f"{split}.safetensors", lambda path: save_file(arrays, path))


def kept_predictions(folder: Path, split: str) -> dict[str, NDArray[Any]]:
    """What was kept of a split, by name; empty where nothing was. Raises RunError for a file that is damaged."""
    path = folder / FOLDER / f"{split}.safetensors"
    if not path.is_file():
        return {}
    try:
        found = dict(load_file(path))
        images = {name: each for name, each in found.items() if name == "labels" or name.endswith("predicted")}
        if any(each.ndim != 1 for each in found.values()) or len({len(each) for each in images.values()}) > 1:
            raise ValueError("what it holds is not of the same images")
        if odd := [name for name, each in images.items() if each.dtype.kind not in "ui"]:
            raise ValueError(f"{odd[0]} are no classes")
    except (OSError, SafetensorError, ValueError) as error:
        raise RunError(f"{path} is damaged: {reason(error)}") from None
    return found
