"""Weather: snow, fog, brightness, and spatter; frost has a file of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from manyview.evaluate.corruptions.blur import along_line, smooth, zoomed
from manyview.evaluate.corruptions.digital import hsv_parts
from manyview.evaluate.corruptions.paint import (
    Field,
    Levels,
    as_levels,
    as_unit,
    draw_key,
    normal_field,
    uniform_field,
)
from manyview.evaluate.corruptions.severities import Row
from manyview.views.draws import Draws
from manyview.views.engine.compiler import compiled
from manyview.views.ops.op import Params

WATER = np.array([175, 238, 238]) / 255
MUD = np.array([63, 42, 20]) / 255
_STEPS = (
    (0, -1, 1.0), (-1, 0, 1.0), (-1, -1, 1.4), (-1, 1, 1.4),
    (-2, -1, 2.1969), (-2, 1, 2.1969), (-1, -2, 2.1969), (-1, 2, 2.1969),
)  # fmt: skip
LUMA = np.array([0.299, 0.587, 0.114])


def snow(
    picture: Levels,
    key: int,
    angle: float,
    mean: float,
    sd: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    share: float,
) -> Levels:
    """Flakes, blurred along the wind, and the same upside down, on an image that is whitened by 1 - `share`.

    Flakes are normal noise (`mean`, `sd`), zoomed, set to 0 under `threshold`, with the filter of `motion_blur` at
    -135 to -45 degrees. Parameters: `key` int64 [B], `angle` [B] in degrees.
    """
    flakes = zoomed(mean + sd * normal_field(key, "flakes", *picture.shape[:2]), zoom)
    flakes = as_levels(np.where(flakes < threshold, 0, flakes)).astype(np.float64)
    layer = np.rint(along_line(flakes, radius, sigma, angle))[:, :, None] / 255
    values = as_unit(picture)
    luma = LUMA[0] * values[..., 0] + LUMA[1] * values[..., 1] + LUMA[2] * values[..., 2]
    white = np.maximum(values, luma[:, :, None] * 1.5 + 0.5)
    return as_levels(share * values + (1 - share) * white + layer + layer[::-1, ::-1])


def draw_snow(draws: Draws, constants: Row) -> Params:
    """The flakes' key, and the wind."""
    return {**draw_key(draws, constants), "angle": draws.uniform("angle", 1, -135, -45)[:, 0]}


def fog(picture: Levels, key: int, amount: float, decay: float) -> Levels:
    """Adds `amount` of a cloud in [0, 1] and scales back to the image's brightest value. Parameter: `key` int64 [B].

    The cloud is a fractal by the diamond-square method whose steps shrink by `decay` from one grid to the next.
    """
    height, width = picture.shape[:2]
    values = as_unit(picture)
    brightest = values.max()
    mist = cloud(key, 1 << (max(height, width) - 1).bit_length(), decay)[:height, :width, None]
    return as_levels((values + amount * mist) * brightest / (brightest + amount))


def brightness(picture: Levels, amount: float) -> Levels:
    """Adds `amount` to the HSV value, clipped; hue and saturation stay. No parameters."""
    value, fallen = hsv_parts(as_unit(picture))
    return as_levels(np.minimum(value + amount, 1) * (1 - fallen))


def spatter(
    picture: Levels,
    key: int,
    mean: float,
    sd: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: float,
) -> Levels:
    """Drops of water, or of mud, where blurred normal noise (`mean`, `sd`, `sigma`) exceeds `threshold`.

    Water is added with up to `strength`; mud, blurred by `strength` and kept where that leaves 0.8, covers.
    Water's shading follows the published code (edges, distance from them, equalised and embossed), with OpenCV's
    filters written anew. Where no noise exceeds the threshold, nothing changes. Parameter: `key` int64 [B].
    """
    values = as_unit(picture)
    liquid = smooth(mean + sd * normal_field(key, "liquid", *picture.shape[:2]), sigma)
    if mud:
        cover = smooth((liquid > threshold).astype(np.float64), strength)[:, :, None]
        cover = np.where(cover < 0.8, 0, cover)
        return as_levels(values * (1 - cover) + MUD * cover)
    shade = _shaded(as_levels(np.where(liquid < threshold, 0, liquid)))
    return as_levels(values + strength * shade[:, :, None] / max(shade.max(), 1) * WATER)


def cloud(key: int, side: int, decay: float) -> Field:
    """A fractal landscape in [0, 1], [side, side], that repeats beyond its borders; side: a power of two.

    Diamond-square: from coarse to fine, each new point is the mean of its four nearest of the coarser grid plus a
    uniform step in (-w², w²), w 100 at first and divided by `decay` from grid to grid.
    """
    steps = iter(2 * uniform_field(key, "cloud", side * side) - 1)
    ground = np.zeros((side, side))
    gap, wide = side, 100.0
    while gap >= 2:
        half, count = gap // 2, side // gap

        def step(four: Field, wide: float = wide, count: int = count) -> Field:
            drawn = np.fromiter(steps, np.float64, count * count).reshape(count, count)
            return four / 4 + wide**2 * drawn

        corners = ground[::gap, ::gap]
        pairs = corners + np.roll(corners, -1, axis=0)
        middles = ground[half::gap, half::gap]
        middles[:] = step(pairs + np.roll(pairs, -1, axis=1))
        ground[::gap, half::gap] = step(middles + np.roll(middles, 1, axis=0) + corners + np.roll(corners, -1, axis=1))
        ground[half::gap, ::gap] = step(middles + np.roll(middles, 1, axis=1) + pairs)
        gap, wide = half, wide / decay
    ground -= ground.min()
    return ground / max(ground.max(), np.finfo(float).tiny)


def _shaded(liquid: Levels) -> Field:
    """How much water each pixel shows, [H, W], at least 0: its height times the light on the drop's surface."""
    from scipy import ndimage

    outline = edges(liquid, 50, 150)
    surface = equalized(_box(np.minimum(distances(outline), 20)).astype(np.uint8)).astype(np.float64)
    light = ndimage.correlate(surface, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror").clip(0, 255)
    return liquid.astype(np.float64) * np.rint(_box(light))


def _box(values: Field) -> Field:
    """Mean of 3 x 3 pixels; of nine equal whole numbers, that number."""
    from scipy import ndimage

    return ndimage.correlate(values, np.ones((3, 3)), mode="mirror") / 9


def equalized(levels: Levels) -> Levels:
    """Levels [H, W] spread over 0 to 255 by their distribution function, the darkest to 0; a flat image stays."""
    counts = np.bincount(levels.ravel(), minlength=256)
    darkest = counts[levels.min()]
    if darkest == levels.size:
        return levels
    table = np.rint((np.cumsum(counts) - darkest) * (255 / (levels.size - darkest)))
    return table.clip(0, 255).astype(np.uint8)[levels]


@compiled()
def distances(marks: NDArray[np.bool_]) -> Field:
    """How far each pixel [H, W] is from the nearest mark, along steps to neighbours; infinite without a mark.

    Steps straight, diagonal and of a knight's move count 1, 1.4 and 2.1969 (Borgefors, 1986; OpenCV's 5 x 5 mask):
    within some percent of the straight line. Two sweeps, from each end, find the shortest way.
    """
    height, width = marks.shape
    far = np.full((height, width), np.inf)
    for turn in (1, -1):
        for row in range(height):
            for column in range(width):
                y, x = (row, column) if turn == 1 else (height - 1 - row, width - 1 - column)
                if marks[y, x]:
                    far[y, x] = 0
                    continue
                for dy, dx, step in _STEPS:
                    from_y, from_x = y + turn * dy, x + turn * dx
                    if 0 <= from_y < height and 0 <= from_x < width:
                        far[y, x] = min(far[y, x], far[from_y, from_x] + step)
    return far


def edges(levels: Levels, low: float, high: float) -> NDArray[np.bool_]:
    """Canny's edges of an image [H, W], bool: thin ridges of the gradient above `low` that touch one above `high`.

    Gradient: 3 x 3 Sobel, borders repeated, its length |dx| + |dy|. A ridge exceeds both neighbours across it, of four
    directions; along rows and columns the later neighbour may be its equal.
    """
    from scipy import ndimage

    values = levels.astype(np.float64)
    dx, dy = (ndimage.sobel(values, axis=axis, mode="nearest") for axis in (1, 0))
    length = np.abs(dx) + np.abs(dy)
    around = np.pad(length, 1)

    def beside(down: int, right: int) -> Field:
        return around[1 + down : 1 + down + length.shape[0], 1 + right : 1 + right + length.shape[1]]

    steep, flat = (np.abs(dy) > side * np.abs(dx) for side in (np.tan(np.pi * 3 / 8), np.tan(np.pi / 8)))
    rising = dx * dy < 0
    ridge = np.select(
        [~flat, steep, rising],
        [
            (length > beside(0, -1)) & (length >= beside(0, 1)),
            (length > beside(-1, 0)) & (length >= beside(1, 0)),
            (length > beside(-1, 1)) & (length > beside(1, -1)),
        ],
        (length > beside(-1, -1)) & (length > beside(1, 1)),
    )
    parts, _ = ndimage.label(ridge & (length > low), structure=np.ones((3, 3)))
    strong = np.unique(parts[ridge & (length > high)])
    return np.isin(parts, strong[strong > 0])
