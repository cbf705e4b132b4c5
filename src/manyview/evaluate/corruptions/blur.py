"""Blur: defocus, glass, motion, zoom, and gaussian; and the filters that snow and spatter use too."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from manyview.evaluate.corruptions.paint import Field, Levels, as_levels, as_unit, uniform_field
from manyview.evaluate.corruptions.severities import Row
from manyview.views.draws import Draws
from manyview.views.engine.compiler import compiled
from manyview.views.ops.op import Params


def defocus_blur(picture: Levels, radius: float, alias: float) -> Levels:
    """Averages over a disk of `radius`, its edge softened by a gaussian of deviation `alias`. No parameters.

    The published code filters with OpenCV in float32, we in float64: a level apart where a value lies on the cut.
    """
    from scipy import ndimage

    return as_levels(ndimage.correlate(as_unit(picture), disk(radius, alias)[:, :, None], mode="mirror"))


def glass_blur(picture: Levels, key: int, sigma: float, reach: float, rounds: float) -> Levels:
    """Blurs, copies each pixel from one within `reach` of it, `rounds` times over, and blurs again.

    The paper speaks of exchanging pixels. The published code means to, but the pixel that gives keeps its colour, and
    ImageNet-C was made so; we follow the code. Parameter: `key` int64 [B].
    """
    shifts = np.floor(uniform_field(key, "shift", int(rounds), *picture.shape[:2], 2) * 2 * reach - reach)
    shaken = as_levels(smooth(as_unit(picture), sigma))
    _shake(shaken, shifts.astype(np.int64), int(reach))
    return as_levels(smooth(as_unit(shaken), sigma))


def motion_blur(picture: Levels, angle: float, radius: float, sigma: float) -> Levels:
    """One-sided gaussian of deviation `sigma` along a line, 2 `radius` + 1 px long, at -45 to 45 degrees.

    ImageMagick's filter by its definition, without ImageMagick: that one adds in 16 bits, we in float64, a level apart
    at most. Parameter: `angle` [B], in degrees.
    """
    return np.rint(along_line(picture.astype(np.float64), radius, sigma, angle)).astype(np.uint8)


def draw_motion(draws: Draws, constants: Row) -> Params:
    """The angle."""
    return {"angle": draws.uniform("angle", 1, -45, 45)[:, 0]}


def zoom_blur(picture: Levels, stop: float, step: float) -> Levels:
    """The mean of the image and its zooms by 1 to `stop`, `step` apart. No parameters.

    Images that are not square, which the published sets do not have, are zoomed about their middle.
    """
    factors = np.arange(1, stop, step)  # rounding decides whether stop is in it, as in the published code
    values = as_unit(picture)
    return as_levels((values + sum(zoomed(values, factor) for factor in factors)) / (len(factors) + 1))


def gaussian_blur(picture: Levels, sigma: float) -> Levels:
    """Gaussian blur of deviation `sigma`, cut at four of it, the border repeated. No parameters."""
    return as_levels(smooth(as_unit(picture), sigma))


def smooth(values: Field, sigma: float, mode: str = "nearest", truncate: float = 4.0) -> Field:
    """Gaussian blur over height and width. values: [H, W] or [H, W, 3]; the same shape."""
    from scipy import ndimage

    return ndimage.gaussian_filter(values, (sigma, sigma, 0)[: values.ndim], mode=mode, truncate=truncate)


@lru_cache(maxsize=16)
def disk(radius: float, alias: float) -> Field:
    """Weights [k, k] of a disk: the whole-numbered points within it, smoothed by a small gaussian.

    The gaussian has 3 taps on a square of 17 px up to a radius of 8, and beyond it 5 on a square that holds the disk.
    The sum is 1 before the smoothing; after it, where the disk touches the square's border, nearly so, as published.
    """
    from scipy import ndimage

    reach, taps = (8, 1) if radius <= 8 else (math.ceil(radius), 2)
    points = np.arange(-reach, reach + 1)
    inside = (points[:, None] ** 2 + points**2 <= radius**2).astype(np.float64)
    inside /= inside.sum()
    weights = np.exp(-0.5 * (np.arange(-taps, taps + 1) / alias) ** 2)
    for axis in (0, 1):
        inside = ndimage.correlate1d(inside, weights / weights.sum(), axis=axis, mode="mirror")
    return inside


def along_line(values: Field, radius: float, sigma: float, angle: float) -> Field:
    """ImageMagick's motion blur: the value at (y, x) is a weighted mean of those ahead of it on a line.

    Tap i has weight exp(-i² / 2 sigma²) and lies i px away in direction (cos, sin) of `angle` degrees, y downwards, at
    the nearest pixel; beyond the border, at the nearest within. values: [H, W] or [H, W, 3].
    """
    count = 2 * math.ceil(radius) + 1
    taps = np.arange(count)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    weights /= weights.sum()
    turn = math.radians(angle)
    down, right = (np.ceil(taps * side - 0.5).astype(int) for side in (math.sin(turn), math.cos(turn)))
    height, width = values.shape[:2]
    padded = np.pad(values, [(count, count), (count, count), (0, 0)][: values.ndim], mode="edge")
    blurred = np.zeros_like(values)
    for weight, dy, dx in zip(weights, count + down, count + right, strict=True):
        blurred += weight * padded[dy : dy + height, dx : dx + width]
    return blurred


def zoomed(values: Field, factor: float) -> Field:
    """The middle of an image, enlarged by `factor` to its whole size. values: [H, W] or [H, W, 3].

    Bilinear, the corners of what is cut out held in place, and surplus rows cut off on both sides: SciPy's `zoom` of
    order 1, written out by axis because that is faster.
    """
    for axis in (0, 1):
        full = values.shape[axis]
        cut = math.ceil(full / factor)
        grown = round(cut * factor)
        first = (full - cut) // 2
        at = (np.arange(full) + (grown - full) // 2) * ((cut - 1) / max(grown - 1, 1))
        low = np.minimum(at.astype(int), cut - 1)
        high = np.minimum(low + 1, cut - 1)
        share = (at - low).reshape((-1,) + (1,) * (values.ndim - 1 - axis))
        values = (1 - share) * values.take(first + low, axis) + share * values.take(first + high, axis)
    return values


@compiled()
def _shake(picture: Levels, shifts: NDArray[np.int64], reach: int) -> None:
    """Copies to each pixel, from the last to the first, the one `shifts` [rounds, H, W, 2] away, in place.

    The outermost pixels stay: rows and columns up to `reach`, and the last `reach - 1`.
    """
    height, width = picture.shape[:2]
    for turn in range(shifts.shape[0]):
        for y in range(height - reach, reach, -1):
            for x in range(width - reach, reach, -1):
                dy, dx = shifts[turn, y, x, 0], shifts[turn, y, x, 1]
                for channel in range(picture.shape[2]):
                    picture[y, x, channel] = picture[y + dy, x + dx, channel]
