"""scikit-learn's handwritten digits: 1,797 images that need no download."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from manyview.data.decode import Stored
from manyview.data.images import ArrayImages, Subset
from manyview.data.splits import RawSplits, hold_out
from manyview.errors import DataError


def digits(root: Path | None, *, download: bool, stored: Stored | None = None) -> RawSplits:
    """Ten classes, 8×8 pixels, which come with scikit-learn; raises `DataError` for a `root`.

    The values 0 to 16 become `round(v * 255 / 16)`, repeated to RGB; with `stored` they are one channel. Test is the
    same for every run: a stratified fifth of the images (359), whatever the recipe's seed.
    """
    from sklearn.datasets import load_digits

    if root is not None:
        raise DataError(
            f"digits lie in no folder, so data.root={root} would not be looked at; "
            f"say data.source=folder data.root={root}"
        )
    data = load_digits()
    grey = torch.from_numpy(np.round(data.images * 255 / 16).astype(np.uint8))
    labels = data.target.astype(np.int64)
    pixels = grey[:, None].expand(-1, 1 if stored else 3, -1, -1).contiguous()
    images = ArrayImages(pixels, labels, np.arange(len(labels)), split="digits")
    train, test = hold_out(labels, len(labels) // 5, seed=0, purpose="digits test")
    return RawSplits(Subset(images, train), None, Subset(images, test), tuple("0123456789"))
