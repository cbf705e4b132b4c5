"""Boxes of random crops: of several tries the first that fits, image by image, in plain float64 as the draws are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from manyview.views.engine.compiler import compiled

Numbers = NDArray[np.float64]

exact = compiled()


@exact
def first_fitting(shares: Numbers, ratios: Numbers, sizes: NDArray[np.int64], low: float, high: float) -> Numbers:
    """Height and width of a box in whole pixels, and whether it is none of the tries, [B, 3].

    shares: of the image's area, ratios: width / height, a column for each try. sizes: heights and widths [B, 2]. Where
    no try fits, the box is the largest whose ratio is between low and high.
    """
    boxes = np.empty((len(sizes), 3))
    for n in range(len(sizes)):
        height, width = np.float64(sizes[n, 0]), np.float64(sizes[n, 1])
        box_h, box_w, none = 0.0, 0.0, 1.0
        for t in range(shares.shape[1]):
            area = height * width * shares[n, t]
            box_w, box_h = np.rint(np.sqrt(area * ratios[n, t])), np.rint(np.sqrt(area / ratios[n, t]))
            if box_w > 0 and box_w <= width and box_h > 0 and box_h <= height:
                none = 0.0
                break
        if none > 0:
            box_w = max(np.rint(height * high), 1.0) if width / height > high else width
            box_h = max(np.rint(width / low), 1.0) if width / height < low else height
        boxes[n, 0], boxes[n, 1], boxes[n, 2] = box_h, box_w, none
    return boxes


@exact
def placed(boxes: Numbers, tops: NDArray[np.int64], lefts: NDArray[np.int64], sizes: NDArray[np.int64]) -> Numbers:
    """Boxes [B, 4] as fractions of frames: top and left as drawn [B, 1], or the centre for what is none of the tries.

    boxes: as `first_fitting` gives them. sizes: heights and widths of the frames [B, 2].
    """
    made = np.empty((len(boxes), 4))
    for n in range(len(boxes)):
        height, width = np.float64(sizes[n, 0]), np.float64(sizes[n, 1])
        box_h, box_w, none = boxes[n, 0], boxes[n, 1], boxes[n, 2] > 0
        top = np.floor((height - box_h) / 2) if none else np.float64(tops[n, 0])
        left = np.floor((width - box_w) / 2) if none else np.float64(lefts[n, 0])
        made[n, 0], made[n, 1], made[n, 2], made[n, 3] = top / height, left / width, box_h / height, box_w / width
    return made


__all__ = ["first_fitting", "placed"]
